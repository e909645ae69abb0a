"""What a user meets who hands in something broken: one line that says where and what was expected; nothing is lost."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from rca.cli.main import main
from rca.incidents import bundle as bundles
from rca.incidents.bundle import INCIDENT_FILE, write_bundle
from rca.incidents.example import example_incident
from rca.incidents.store import IncidentStore
from rca.models.files import MODEL_FILE

INCIDENT, TELEMETRY = example_incident(requests_per_second=0.1)
Rca = Callable[..., tuple[int, str]]
"""Arguments to exit code and output, stdout first."""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A store that holds one incident already."""
    with IncidentStore(tmp_path / "home") as store:
        store.add(INCIDENT.model_copy(update={"id": "kept"}), TELEMETRY)
    return tmp_path / "home"


@pytest.fixture
def rca(home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Rca:
    """Runs the command as its entry point does; returns the exit code and what it wrote."""
    monkeypatch.setenv("RCA_HOME", str(home))

    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["rca", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), "".join(capfd.readouterr())

    return call


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A whole bundle, for a test to break."""
    return write_bundle(tmp_path / "broken", INCIDENT, TELEMETRY)


def truncate(path: Path) -> None:
    spans = path / "spans.parquet"
    spans.write_bytes(spans.read_bytes()[:1000])


def reframe(change: Callable[[pl.DataFrame], pl.DataFrame]) -> Callable[[Path], None]:
    """Writes the spans anew, as a producer that signs what it gets wrong."""

    def edit(path: Path) -> None:
        spans = path / "spans.parquet"
        change(pl.read_parquet(spans)).write_parquet(spans)
        body = json.loads((path / INCIDENT_FILE).read_text())
        next(entry for entry in body["frames"] if entry["frame"] == "spans")["sha256"] = bundles._sha(spans.read_bytes())
        (path / INCIDENT_FILE).write_text(json.dumps(body))

    return edit


BREAKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated Parquet": (truncate, r"spans\.parquet: expected a whole Parquet file, found 1000 bytes"),
    "a missing column": (reframe(lambda spans: spans.drop("span_id")), r"spans\.parquet: expected columns span_id"),
    "seconds for nanoseconds": (
        reframe(lambda spans: spans.with_columns(pl.col("start_time_unix_nano") // 10**9)),
        "expected nanoseconds .* looks like seconds",
    ),
    "a folder for a frame": (lambda path: ((path / "spans.parquet").unlink(), (path / "spans.parquet").mkdir()), "found none"),
    "garbage for JSON": (lambda path: (path / INCIDENT_FILE).write_bytes(b"\x00\xff" * 99), "incident.json: expected JSON"),
    "nothing": (shutil.rmtree, "nothing there|expected a known name"),
    "an empty folder": (lambda path: (shutil.rmtree(path), path.mkdir()), "expected a bundle with incident.json, found none"),
}


def test_an_archive_that_breaks_off_is_told_apart_from_another_file(rca: Rca, tmp_path: Path) -> None:
    whole, archive = tmp_path / "whole.tar.zst", tmp_path / "cut.tar.zst"
    write_bundle(whole, INCIDENT, TELEMETRY)
    for content, found in (
        (whole.read_bytes()[:1000], r"one that is damaged or cut off \(.*\)"),
        (b"# Notes", "another file"),
    ):
        archive.write_bytes(content)
        code, said = rca("triage", archive)
        assert code == 2
        assert re.fullmatch(rf"error: .*cut\.tar\.zst: expected an incident bundle .*, found {found}\n", said), said


@pytest.mark.parametrize("command", [("triage",), ("incidents", "import")], ids=" ".join)
@pytest.mark.parametrize("mistake", BREAKS)
def test_a_broken_bundle(rca: Rca, home: Path, broken: Path, mistake: str, command: tuple[str, ...]) -> None:
    break_it, message = BREAKS[mistake]
    break_it(broken)
    code, said = rca(*command, broken)
    assert code == 2
    assert re.fullmatch(f"error: .*({message}).*\n", said), said
    with IncidentStore(home) as store:
        assert [incident.id for incident in store.list()] == ["kept"]
        assert store.get("kept")[1].spans.equals(TELEMETRY.spans)


def test_a_label_that_names_an_unknown_service(rca: Rca, home: Path) -> None:
    code, said = rca("incidents", "label", "kept", "catalog")
    assert (code, said) == (
        2,
        "error: label of incident kept: expected a known name, found 'catalog' (did you mean catalogue or cart?)\n",
    )
    with IncidentStore(home) as store:
        assert store.incident("kept").labels == INCIDENT.labels


def test_a_checkpoint_of_another_version(rca: Rca, broken: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / MODEL_FILE).write_text(json.dumps({"version": "99"}))
    code, said = rca("triage", broken, "--model", tmp_path / "model")
    assert code == 2
    assert re.fullmatch(r"error: .*model.*expected .*version.*found '99'.*\n", said), said


@pytest.mark.parametrize("file_format", ["nezha", "petshop", "tvdiag", "rcaeval", "otlp-json", "jaeger"])
@pytest.mark.parametrize(
    "content", [None, b"", b"\x00\xff" * 99, b"[" * 10**5, b'{"data":[' + b"[" * 10**5, b'{"resourceSpans":5}']
)
def test_what_no_importer_can_read(rca: Rca, tmp_path: Path, file_format: str, content: bytes | None) -> None:
    path = tmp_path / "recording.json"
    if content is not None:
        path.write_bytes(content)
    code, said = rca("import", file_format, path)
    assert code == 2
    assert said.startswith("error: ")
    assert "expected" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("minutes", ["inf", "1e300", "-1", "nan"])
def test_impossible_lengths(rca: Rca, tmp_path: Path, minutes: str) -> None:
    code, said = rca("import", "jaeger", tmp_path, "--window-minutes", minutes)
    assert code == 2
    assert "Invalid value for '--window-minutes'" in said
    code, said = rca("incidents", "export", "kept", tmp_path / "out", "--max-mib", minutes)
    assert code == 2
    assert "Invalid value for '--max-mib'" in said


@pytest.mark.parametrize("name", ["in-the-way/bundle", "in-the-way/bundle.tar.zst", "in-the-way"])
def test_a_place_that_cannot_be_written(rca: Rca, broken: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "in-the-way").write_text("precious")
    code, said = rca("incidents", "export", "kept", tmp_path / name)
    assert code == 2
    assert re.fullmatch(r"error: .*in-the-way.*: expected a (place|path) that .*\n", said), said
    assert (tmp_path / "in-the-way").read_text() == "precious"


def test_a_store_that_cannot_be_written(rca: Rca, broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nowhere")):
        monkeypatch.setenv("RCA_HOME", str(place))
        code, said = rca("incidents", "import", broken)
        assert code == 2
        assert re.fullmatch(rf"error: {place}: expected a place that can be written, found .*\n", said), said


def test_a_file_that_cannot_be_read(rca: Rca, broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    code, said = rca("triage", broken)
    assert (code, said) == (1, f"error: {broken / INCIDENT_FILE}: Permission denied\n")


def test_foreign_text_cannot_steer_the_terminal(rca: Rca, tmp_path: Path) -> None:
    nasty = INCIDENT.model_copy(update={"id": "nasty", "title": "\x1b[2J\u202etitle", "system": "\x9bsystem"})
    assert rca("incidents", "import", write_bundle(tmp_path / "nasty", nasty, TELEMETRY))[0] == 0
    for arguments in (("show", "nasty"), ("show", "nasty", "--json"), ("list", "--json"), ("audit",)):
        code, said = rca("incidents", *arguments)
        assert code == 0
        assert "nasty" in said
        assert all(character == "\n" or character.isprintable() for character in said)


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_names_that_the_terminal_or_utf8_cannot_write(home: Path, encoding: str) -> None:
    command = [sys.executable.encode(), b"-m", b"rca", b"incidents", b"show", b"caf\xe9 \xc3\xbc"]
    environment = os.environ | {"RCA_HOME": str(home), "PYTHONIOENCODING": encoding}
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: ")
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--watch", "--every", "0s"), "--every: expected a second or more, found '0s'"),
        (("--last", "10s"), "window: expected at least 30 s"),
        (("--since", "2090-01-01T00:00:00Z"), "window: expected a start in the past, found 2090-01-01 00:00:00 UTC"),
        (("--until", "2026-01-01T00:00:00Z"), "options: expected --since or --onset beside --until"),
        (("--alert", "Slow"), "--alert: expected [alertmanager] or [prometheus]"),
    ],
)
def test_live_options_are_checked_before_anybody_is_asked(
    rca: Rca, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    (tmp_path / "rca.toml").write_text("[store]\n", encoding="utf-8")
    code, said = rca("triage", *options, "--config", tmp_path / "rca.toml")
    assert (code, said.startswith(f"error: {message}")) == (2, True), said


@pytest.mark.parametrize("content", [None, "no certificate\n"])
def test_certificates_that_cannot_be_read_are_news_about_one_source(rca: Rca, tmp_path: Path, content: str | None) -> None:
    certificates, config = tmp_path / "ca.pem", tmp_path / "rca.toml"
    if content is not None:
        certificates.write_text(content, encoding="utf-8")
    tables = '[{}]\nurl = "https://127.0.0.1:{}"\nretries = 0\ntls = {{ ca_file = "{}" }}\n'
    sources = ("prometheus", "tempo", "jaeger", "alertmanager")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        config.write_text("".join(tables.format(name, port, certificates) for name in sources), encoding="utf-8")
        code, said = rca("triage", "--config", config)
    assert code == 1
    assert said.count("ca.pem" if content is None else "TLS: ") == 4, said
    assert rca("doctor", "--config", config)[0] == 1
