"""The configuration file: what is unknown or in other units is refused by name, and the template is a file that loads."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rca.collectors.config import FILE_NAME, Config, config_path, load_config, parsed
from rca.collectors.template import rendered_config, tables, toml_value
from rca.errors import BadInput
from rca.settings import HttpSource, duration_ns, duration_text, secret_in, size_bytes, size_text
from rca.telemetry import MINUTE_NS, SECOND_NS

URL = 'url = "http://prometheus:9090"'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[prometeus]", "prometeus: unknown setting, did you mean 'prometheus'?"),
        ("[triage]\nbaselin = '1h'", "triage.baselin: unknown setting, did you mean 'baseline'?"),
        ("[triage]\nlag = 5", "triage.lag: expected a duration such as 30s, 15m or 1h30m, found 5"),
        ("[triage]\nlag = '5 parsecs'", "triage.lag: expected a duration"),
        ("[prometheus]", "prometheus.url: is required"),
        ("prometheus = 3", "prometheus: expected a table of settings"),
        ("[prometheus]\nurl = 3", "prometheus.url: expected text in quotes"),
        ("[otlp]\ngrpc_address = '4317'", "otlp.grpc_address: expected `host:port` for OTLP over gRPC"),
        ("[otlp]\ngrpc_address = 'localhost:99999'", "otlp.grpc_address: expected `host:port` with a port up to 65535"),
        ("[prometheus]\nurl = 'prometheus:9090'", "prometheus.url: expected an address such as http://HOST:9090"),
        ("[prometheus]\nurl = 'http://prometheus:90901'", "prometheus.url: expected an address such as http://HOST:9090"),
        ("[prometheus]\nurl = 'http://prometheus/graph?g0'", "which does not end with its path"),
        ("[prometheus]\nurl = 'http://u:hunter2@prometheus'", "found a user in it; set username and password_file"),
        (f"[prometheus]\n{URL}\nmax_response_bytes = '5 stones'", "expected a size such as 64MiB or 10GB"),
        (f"[prometheus]\n{URL}\nbearer_token = 'a'\nusername = 'b'", "expected one way to be let in"),
        (f"[prometheus]\n{URL}\nusername = 'b'", "expected password or password_file beside username"),
        (f"[prometheus]\n{URL}\ntls = {{ cert_file = 'a' }}", "expected cert_file and key_file together"),
        ("[triage\n", "rca.toml: expected TOML, found"),
        ("[serve]\n[triage]\n\n[serve] # ours\n", "expected TOML with one table [serve], not one in line 1 and 4"),
        ("[triage]\nlag = '0s'", "triage.lag: expected more than nothing"),
    ],
)
def test_mistakes_are_named(text: str, message: str) -> None:
    with pytest.raises(BadInput) as caught:
        parsed(text, "rca.toml")
    assert message in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_every_mistake_is_named_and_no_secret_is_repeated() -> None:
    with pytest.raises(BadInput) as caught:
        parsed(f"[prometheus]\n{URL}\nbearer_token = ['hunter2']\nuser = 'x'", "rca.toml")
    assert "bearer_token" in str(caught.value)
    assert "prometheus.user: unknown setting, did you mean 'username'?" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_secrets_are_masked_and_read_from_files(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    source = HttpSource(url="http://a", bearer_token_file=file)
    assert source.authorization() == "first"
    file.write_text("second")
    assert source.authorization() == "second"
    assert "hunter2" not in repr(HttpSource.model_validate({"url": "http://a", "username": "u", "password": "hunter2"}))


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe"])
def test_a_file_that_holds_no_secret_is_refused(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(BadInput, match="a file with a secret"):
        secret_in(file)


def test_the_file_is_found_in_this_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RCA_CONFIG", raising=False)
    with pytest.raises(BadInput, match="`rca init` writes one"):
        config_path()
    at_home = tmp_path / "home" / "rca" / FILE_NAME
    at_home.parent.mkdir(parents=True)
    at_home.touch()
    assert config_path() == at_home
    (tmp_path / FILE_NAME).touch()
    assert config_path() == Path(FILE_NAME)
    monkeypatch.setenv("RCA_CONFIG", "elsewhere.toml")
    assert config_path() == Path("elsewhere.toml")
    assert config_path(Path("given.toml")) == Path("given.toml")
    with pytest.raises(BadInput, match="No such file"):
        load_config(tmp_path / "absent.toml")


@given(st.integers(1, 10**12))
def test_sizes_and_durations_read_back(number: int) -> None:
    assert size_bytes(size_text(number)) == number
    milliseconds = number % 10**10 or 1
    assert duration_ns(duration_text(milliseconds * 10**6)) == milliseconds * 10**6


def test_durations_add_up() -> None:
    assert duration_ns("1h30m") == 90 * MINUTE_NS
    assert duration_ns("1.5s") == 1_500 * 10**6
    assert duration_text(90 * MINUTE_NS + SECOND_NS) == "1h30m1s"


def test_the_template_is_a_file_that_changes_nothing() -> None:
    assert parsed(rendered_config({}), "template") == Config()


def test_every_setting_can_be_uncommented() -> None:
    given = {table.name: {} for table in tables()}
    text = rendered_config(given)
    lines = [
        line[1:] if line.startswith("#") and line[1:2].isalpha() and not line.endswith("=") else line
        for line in text.splitlines()
    ]
    body = parsed("\n".join(lines), "template")
    assert body.triage == Config().triage


def test_tables_of_the_documentation_can_be_added_at_the_end() -> None:
    """People write rca.toml with `rca init`, and copy `[serve]` and who is told from docs/serve.md."""
    pages = "".join((Path(__file__).parents[1] / "docs" / f"{name}.md").read_text() for name in ("serve", "notifications"))
    blocks = [textwrap.dedent(block) for block in re.findall(r"(?m)(?:^ {4,}.*\n|^\n)+", pages)]
    copied = [block for block in blocks if block.lstrip().startswith(("[serve", "[sinks", "[observe"))]
    assert len(copied) > 3
    for block in copied:
        parsed(rendered_config({"triage": {}, "prometheus": {"url": "http://prometheus:9090"}}) + block, "rca.toml")


def test_what_is_given_is_in_the_file() -> None:
    config = parsed(rendered_config({"triage": {"system": 'a "shop"'}}), "template")
    assert config.triage.system == 'a "shop"'


def test_every_setting_is_explained() -> None:
    bare = [f"{setting.table}.{setting.key}" for table in tables() for setting in table.settings if not setting.meaning]
    assert bare == []
    assert [table.name for table in tables() if not table.meaning] == []


def test_values_are_written_as_toml() -> None:
    assert toml_value({"a b": ["x", 1, True]}) == '{ "a b" = ["x", 1, true] }'
