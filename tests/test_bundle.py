"""Bundles: what is written reads back equal, and whatever is wrong with one is said plainly."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rca.errors import BadBundle, BadInput, BadTelemetry, RcaError, StorageFull
from rca.incidents import bundle
from rca.incidents.bundle import is_bundle, read_bundle, read_manifest, write_bundle
from rca.incidents.example import START_NS, example_incident
from rca.incidents.incident import GapModel, Incident, IntervalModel
from rca.telemetry import BIN_FRAMES, CALLEE_KINDS, FRAME_NAMES, SCHEMAS, SECOND_NS, Gap, Interval, Telemetry, dtypes

EXAMPLE = example_incident(requests_per_second=0.1)
SUFFIXES = ("", ".tar.zst")


def equal(one: Telemetry, other: Telemetry) -> bool:
    return all(frame.equals(other.frames()[name]) for name, frame in one.frames().items())


@pytest.fixture(params=SUFFIXES, ids=["folder", "archive"])
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write_bundle(tmp_path / f"example{request.param}", *EXAMPLE)


def test_what_is_written_reads_back_equal(written: Path) -> None:
    incident, telemetry = read_bundle(written)
    assert incident == EXAMPLE[0] == read_manifest(written).incident()
    assert equal(telemetry, EXAMPLE[1])
    assert is_bundle(written)
    assert [path.name for path in written.parent.iterdir()] == [written.name]


def test_empty_frames_have_no_file(written: Path) -> None:
    assert {frame.frame for frame in read_manifest(written).frames} == set(FRAME_NAMES) - {"calls", *BIN_FRAMES}


def test_only_the_frames_asked_for_are_read_and_checked(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "b", *EXAMPLE)
    (path / "metrics.parquet").write_bytes(b"damaged")
    telemetry = read_bundle(path, frames=("spans",))[1]
    assert telemetry.spans.equals(EXAMPLE[1].spans)
    assert telemetry.logs.is_empty()


def test_gaps_of_the_telemetry_travel_in_the_incident(tmp_path: Path) -> None:
    gap = Gap("prometheus", "no answer", Interval(START_NS, START_NS + SECOND_NS))
    noted = GapModel(source="logs", reason="none kept")
    incident = EXAMPLE[0].model_copy(update={"gaps": (noted,)})
    read, telemetry = read_bundle(write_bundle(tmp_path / "b", incident, replace(EXAMPLE[1], gaps=(gap, gap))))
    assert telemetry.gaps == (Gap("logs", "none kept"), gap)
    assert [each.source for each in read.gaps] == ["logs", "prometheus"]


def test_equal_bundles_are_equal_files(tmp_path: Path) -> None:
    one, two = (write_bundle(tmp_path / folder / "b.tar.zst", *EXAMPLE) for folder in "xy")
    assert one.read_bytes() == two.read_bytes()


def test_an_existing_path_is_replaced_only_when_asked(written: Path) -> None:
    other = EXAMPLE[0].model_copy(update={"title": "another"})
    with pytest.raises(BadInput, match="a path that does not exist yet"):
        write_bundle(written, other, EXAMPLE[1])
    assert read_manifest(written).incident() == EXAMPLE[0]
    write_bundle(written, other, EXAMPLE[1], replace=True)
    assert read_manifest(written).incident() == other
    assert len(list(written.parent.iterdir())) == 1


_TIMES = st.integers(START_NS, START_NS + 10**12)
_TEXT = st.text(max_size=8)
_VALUES: dict[Any, st.SearchStrategy[Any]] = {
    pl.String(): _TEXT,
    pl.Int64(): st.integers(-(2**63), 2**63 - 1),
    pl.Int32(): st.integers(-(2**31), 2**31 - 1),
    pl.Int8(): st.integers(-128, 127),
    pl.Float64(): st.floats(),
    pl.Boolean(): st.booleans(),
}


@st.composite
def _frames(draw: st.DrawFn, name: str) -> pl.DataFrame:
    rows = draw(st.integers(0, 4))
    columns = {}
    for column, spec in SCHEMAS[name].items():
        values = _TIMES if spec.unit.startswith("ns") else _VALUES[spec.dtype]
        if column == "callee_kind":
            values = st.sampled_from(CALLEE_KINDS)
        columns[column] = draw(st.lists(values if spec.required else st.none() | values, min_size=rows, max_size=rows))
    return pl.DataFrame(columns, schema=dtypes(name))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    frames=st.fixed_dictionaries({name: _frames(name) for name in FRAME_NAMES}),
    suffix=st.sampled_from(SUFFIXES),
    title=_TEXT,
    detected=st.none() | _TIMES,
)
def test_any_telemetry_survives_the_round_trip(
    tmp_path: Path, frames: dict[str, pl.DataFrame], suffix: str, title: str, detected: int | None
) -> None:
    incident = Incident(
        id="any", system="s", window=IntervalModel(start_ns=START_NS, end_ns=START_NS + 1), title=title, detected_ns=detected
    )
    telemetry = Telemetry.of(**frames)
    read, again = read_bundle(write_bundle(tmp_path / f"b{suffix}", incident, telemetry, replace=True))
    assert read == incident
    assert equal(telemetry, again)


# --- bad input -------------------------------------------------------------------------------------------------------


def _edited(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """A mistake in incident.json."""

    def edit(path: Path) -> None:
        body = json.loads((path / "incident.json").read_text())
        change(body)
        (path / "incident.json").write_text(json.dumps(body))

    return edit


def _reframed(change: Callable[[pl.DataFrame], pl.DataFrame], name: str = "spans") -> Callable[[Path], None]:
    """A mistake in a frame that its writer signed with a right hash."""

    def edit(path: Path) -> None:
        change(pl.read_parquet(path / f"{name}.parquet")).write_parquet(path / f"{name}.parquet")
        _edited(lambda body: next(f for f in body["frames"] if f["frame"] == name).update(sha256=_sha(path, name)))(path)

    return edit


def _sha(path: Path, name: str) -> str:
    return bundle._sha((path / f"{name}.parquet").read_bytes())


def _truncated(path: Path) -> None:
    data = (path / "spans.parquet").read_bytes()
    (path / "spans.parquet").write_bytes(data[: len(data) // 2])


def _torn_inside(path: Path) -> None:
    """Head and tail are there, the middle is not, and the hash was taken afterwards."""
    data = (path / "spans.parquet").read_bytes()
    (path / "spans.parquet").write_bytes(data[:100] + data[-100:])
    _edited(lambda body: next(f for f in body["frames"] if f["frame"] == "spans").update(sha256=_sha(path, "spans")))(path)


def _flipped(path: Path) -> None:
    data = bytearray((path / "spans.parquet").read_bytes())
    data[len(data) // 2] ^= 1
    (path / "spans.parquet").write_bytes(data)


_START = pl.col("start_time_unix_nano")
MISTAKES: dict[str, tuple[Callable[[Path], object], type[RcaError], str]] = {
    "truncated Parquet": (_truncated, BadBundle, r"spans.parquet: expected a whole Parquet file, found \d+ bytes, truncated"),
    "Parquet torn inside": (_torn_inside, BadBundle, "spans.parquet: expected a readable Parquet file"),
    "changed Parquet": (_flipped, BadBundle, "the file was changed"),
    "missing file": (
        lambda p: (p / "logs.parquet").unlink(),
        BadBundle,
        "logs.parquet: expected the file that",
    ),
    "missing column": (_reframed(lambda f: f.drop("span_id")), BadTelemetry, "spans.parquet: expected columns span_id"),
    "null in a required column": (
        _reframed(lambda f: f.with_columns(pl.lit(None, pl.String).alias("name"))),
        BadTelemetry,
        "a value of name in every row",
    ),
    "column of another type": (
        _reframed(lambda f: f.with_columns(pl.lit("soon").alias("start_time_unix_nano"))),
        BadTelemetry,
        "column types",
    ),
    "seconds for nanoseconds": (
        _reframed(lambda f: f.with_columns(_START // 10**9)),
        BadTelemetry,
        "spans.parquet.start_time_unix_nano: expected nanoseconds .* looks like seconds",
    ),
    "incident in milliseconds": (
        _edited(lambda b: b.update(window={"start_ns": START_NS // 10**6, "end_ns": START_NS // 10**6 + 1})),
        BadTelemetry,
        "looks like milliseconds",
    ),
    "start of the window alone in seconds": (
        _edited(lambda b: b["window"].update(start_ns=START_NS // 10**9)),
        BadTelemetry,
        "incident.json: window: .* looks like seconds",
    ),
    "label from the year 1970": (
        _edited(lambda b: b["labels"][0].update(at_ns=1)),
        BadTelemetry,
        "incident.json: label of catalogue: expected nanoseconds",
    ),
    "gap until the end of time": (
        _edited(lambda b: b.update(gaps=[{"source": "x", "reason": "y", "interval": {"start_ns": START_NS, "end_ns": 10**30}}])),
        BadTelemetry,
        "incident.json: gap of x: expected nanoseconds",
    ),
    "window that ends before it starts": (
        _edited(lambda b: b["window"].update(end_ns=b["window"]["start_ns"] - 1)),
        BadBundle,
        "incident.json: window: expected .* end_ns after start_ns",
    ),
    "unknown version": (_edited(lambda b: b.update(schema_version="9")), BadBundle, "expected schema_version '1', found '9'"),
    "no version": (_edited(lambda b: b.pop("schema_version")), BadBundle, "expected schema_version '1', found None"),
    "unknown key": (_edited(lambda b: b.update(tittle="x")), BadBundle, "'tittle' .did you mean title"),
    "unknown key inside": (
        _edited(lambda b: b["labels"][0].update(fault="x")),
        BadBundle,
        "mean fault_kind.* at labels.0",
    ),
    "unknown key in an entity": (_edited(lambda b: b["labels"][0]["entity"].update(nam="x")), BadBundle, "did you mean name"),
    "unknown key in the manifest": (_edited(lambda b: b["frames"][0].update(sha="x")), BadBundle, "did you mean sha256"),
    "unknown frame": (_edited(lambda b: b["frames"][0].update(frame="span")), BadBundle, "did you mean spans"),
    "frame listed twice": (_edited(lambda b: b["frames"].append(b["frames"][0])), BadBundle, "spans twice"),
    "path in the manifest": (_edited(lambda b: b["frames"][0].update(file="../spans.parquet")), BadBundle, "frames.0.file"),
    "wrong row count": (_edited(lambda b: b["frames"][0].update(rows=3)), BadBundle, "expected 3 rows"),
    "id that is a path": (_edited(lambda b: b.update(id="../../etc")), BadBundle, "incident.json: id"),
    "missing key": (_edited(lambda b: b.pop("system")), BadBundle, "incident.json: system"),
    "not JSON": (lambda p: (p / "incident.json").write_text("{"), BadBundle, "incident.json: expected JSON"),
    "JSON that nests too deeply": (lambda p: (p / "incident.json").write_text("[" * 10**5), BadBundle, "expected JSON"),
    "bytes that are no text": (lambda p: (p / "incident.json").write_bytes(b"\xff\xfe\x00{"), BadBundle, "expected JSON"),
    "JSON, but a list": (lambda p: (p / "incident.json").write_text("[]"), BadBundle, "a JSON object, found list"),
    "no incident.json": (lambda p: (p / "incident.json").unlink(), BadBundle, "expected a bundle with incident.json"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named(tmp_path: Path, mistake: str) -> None:
    path = write_bundle(tmp_path / "b", *EXAMPLE)
    break_it, error, message = MISTAKES[mistake]
    break_it(path)
    with pytest.raises(error, match=message):
        read_bundle(path)


def test_times_in_seconds_are_not_even_written(tmp_path: Path) -> None:
    seconds = IntervalModel(start_ns=START_NS // 10**9, end_ns=START_NS // 10**9 + 60)
    with pytest.raises(BadTelemetry, match="looks like seconds"):
        write_bundle(tmp_path / "b", EXAMPLE[0].model_copy(update={"window": seconds}), EXAMPLE[1])
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a zip", zstandard.compress(b"no tar" * 99)], ids=["empty", "zip", "zstd"])
def test_a_file_that_is_no_bundle(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "b.tar.zst"
    path.write_bytes(content)
    with pytest.raises(BadBundle, match=r"b\.tar\.zst: expected"):
        read_bundle(path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(BadBundle, match="nothing there"):
        read_bundle(tmp_path / "absent")
    assert not is_bundle(tmp_path / "absent")


def test_a_truncated_archive(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "b.tar.zst", *EXAMPLE)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(BadBundle, match="expected"):
        read_bundle(path)


def _archive(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for member, data in members:
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    path.write_bytes(zstandard.compress(buffer.getvalue()))
    return path


@pytest.mark.parametrize("name", ["../incident.json", "/etc/incident.json", "a/../../incident.json", "a/b/incident.json"])
def test_an_archive_cannot_point_outside_itself(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadBundle, match="plain files in one folder"):
        read_bundle(_archive(tmp_path / "b.tar.zst", (tarfile.TarInfo(name), b"{}")))


def test_links_in_an_archive_are_refused(tmp_path: Path) -> None:
    link = tarfile.TarInfo("incident.json")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with pytest.raises(BadBundle, match="plain files in one folder"):
        read_bundle(_archive(tmp_path / "b.tar.zst", (link, b"")))


def test_a_file_twice_in_an_archive(tmp_path: Path) -> None:
    members = [(tarfile.TarInfo(f"{folder}/incident.json"), b"{}") for folder in "ab"]
    with pytest.raises(BadBundle, match=r"incident\.json twice"):
        read_bundle(_archive(tmp_path / "b.tar.zst", *members))


def test_an_archive_cannot_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "MAX_ARCHIVE_BYTES", 1_000_000)
    path = _archive(tmp_path / "b.tar.zst", (tarfile.TarInfo("spans.parquet"), bytes(50_000_000)))
    assert path.stat().st_size < 100_000
    with pytest.raises(BadBundle, match="at most 1000000 bytes"):
        read_bundle(path)


_WRITE_WITH_LITTLE_ROOM = """
import resource, signal, sys
from pathlib import Path
from rca.errors import StorageFull
from rca.incidents.bundle import write_bundle
from rca.incidents.example import example_incident
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    write_bundle(Path(sys.argv[1]), *example_incident(requests_per_second=1.0), replace=True)
except StorageFull as error:
    print(error)
"""


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_loses_nothing(tmp_path: Path, suffix: str) -> None:
    path = write_bundle(tmp_path / f"b{suffix}", *EXAMPLE)
    done = subprocess.run([sys.executable, "-c", _WRITE_WITH_LITTLE_ROOM, path], capture_output=True, text=True, check=True)
    assert "nothing that was stored before is lost" in done.stdout
    assert read_manifest(path).incident() == EXAMPLE[0]
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_no_room_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFull, match="No space left on device"):
        write_bundle(tmp_path / "b", *EXAMPLE)
    assert not list(tmp_path.iterdir())
