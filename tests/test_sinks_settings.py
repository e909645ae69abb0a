"""The tables [sinks.NAME]: what they may hold, what is said of mistakes, and sinks of other packages; and when to try again."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from rca.errors import BadInput, Overloaded, Rejected, Unavailable, UnknownName
from rca.sinks import destinations
from rca.sinks.destinations import BUILT_IN, settings_of, sinks_of
from rca.sinks.example import example_notices
from rca.sinks.notice import Notice, Sent, Sink
from rca.sinks.retry import LONGEST_WAIT_S, backoff_s, failure, retry_after_s, retrying
from rca.testing import check_sink

FIRST, *_ = example_notices()
COMPLETE: dict[str, dict[str, Any]] = {
    "slack": {"channel": "C1", "bot_token_file": "t"},
    "pagerduty": {"routing_key_file": "k"},
    "webhook": {"url": "https://x.example/hook", "secret_file": "s"},
    "alertmanager": {"url": "http://alertmanager:9093"},
    "apprise": {"url_file": "u"},
}


def test_every_kind_can_be_named_by_its_table_alone() -> None:
    sinks = sinks_of(COMPLETE)
    assert [sink.name for sink in sinks] == list(BUILT_IN)
    assert all(isinstance(sink, Sink) for sink in sinks)


def test_one_kind_may_have_several_tables() -> None:
    both = sinks_of({"dev": COMPLETE["slack"] | {"kind": "slack"}, "ops": COMPLETE["slack"] | {"kind": "slack", "redact": True}})
    assert [sink.name for sink in both] == ["dev", "ops"]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"kind": "slack"}, "channel: is required; bot_token_file: is required"),
        (COMPLETE["slack"] | {"chanel": "x"}, "chanel: unknown setting, did you mean 'channel'?"),
        (COMPLETE["slack"] | {"zzz": "x"}, "zzz: unknown setting, known: bot_token_file, channel"),
        (COMPLETE["slack"] | {"deadline": "soon"}, "deadline: expected a duration such as 30s"),
        (COMPLETE["slack"] | {"url": "slack.com"}, "url: expected an address such as https://HOST/path, found 'slack.com'"),
        (
            COMPLETE["slack"] | {"url": "https://me:pa55w0rd@slack.com/"},
            "url: expected an address such as https://HOST/path, found a user",
        ),
        (COMPLETE["slack"] | {"url": "https://x/?token=pa55w0rd"}, "put the whole into url_file"),
        (COMPLETE["slack"] | {"proxy": "proxy"}, "proxy: expected an address"),
        (COMPLETE["slack"] | {"tls": {"cert_file": "x"}}, "tls: expected cert_file and key_file together"),
        ({"kind": "webhook", "secret_file": "s"}, "the table: expected either url or url_file"),
        (COMPLETE["webhook"] | {"kind": "webhook", "max_bytes": "1kB"}, "max_bytes: Input should be greater than"),
        ({"kind": "pagerduty", "routing_key": "pa55w0rd"}, "routing_key: unknown setting, did you mean 'routing_key_file'?"),
        (
            {"kind": "pagerduty", "routing_key_file": "k", "redact": True, "join": "group"},
            'expected join = "incident" beside redact',
        ),
        ("slack", "expected a table of settings"),
    ],
)
def test_mistakes_are_named_and_secrets_are_not(table: Any, words: str) -> None:
    table = {"kind": "slack", **table} if isinstance(table, dict) else table
    with pytest.raises(BadInput) as raised:
        sinks_of({"team": table})
    assert str(raised.value).startswith("[sinks.team]: expected ")
    assert words in str(raised.value)
    assert "pa55w0rd" not in str(raised.value)


def test_a_kind_that_nobody_knows() -> None:
    with pytest.raises(UnknownName, match=r"\[sinks.chat\] kind: expected a known name, found 'slak' \(did you mean slack\?\)"):
        sinks_of({"chat": {"kind": "slak"}})


@pytest.mark.parametrize("kind", BUILT_IN)
def test_every_setting_is_documented(kind: str) -> None:
    page = (Path(__file__).parents[1] / "docs/notifications.md").read_text(encoding="utf-8")
    for name, field in settings_of(kind).model_fields.items():
        assert field.description, name
        assert f"| `{name}` |" in page


# --- other packages -----------------------------------------------------------------------------------------------------


class Recording:
    """A sink as another package might write it."""

    def __init__(self, name: str, room: str) -> None:
        self.name, self.room, self.said = name, room, list[Notice]()

    def send(self, notice: Notice, before: str | None) -> Sent:
        self.said.append(notice)
        return Sent(before or f"{self.room}-1")


@pytest.fixture
def another_package(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("recording", f"{__name__}:Recording", destinations.ENTRY_POINT_GROUP)
    monkeypatch.setattr(destinations, "entry_points", lambda group: [point] if group == "rca.sinks" else [])


@pytest.mark.usefixtures("another_package")
def test_another_package_adds_a_kind() -> None:
    (sink,) = sinks_of({"room": {"kind": "recording", "room": "1"}})
    assert isinstance(sink, Recording)
    sent = check_sink(sink)
    assert {result.reference for _, result in sent} == {"1-1"}


@pytest.mark.usefixtures("another_package")
def test_another_packages_kind_is_redacted_as_well() -> None:
    (sink,) = sinks_of({"room": {"kind": "recording", "room": "1", "redact": True}})
    sink.send(FIRST, None)
    (said,) = vars(sink)["_sink"].said
    assert said.title == "2 alerts"
    with pytest.raises(BadInput, match="expected redact = true or false, found 'yes'"):
        sinks_of({"room": {"kind": "recording", "room": "1", "redact": "yes"}})


@pytest.mark.usefixtures("another_package")
def test_settings_that_another_package_does_not_take() -> None:
    with pytest.raises(BadInput, match="expected settings that its package takes, found TypeError"):
        sinks_of({"room": {"kind": "recording"}})


class _Silent:
    name = "silent"

    def send(self, notice: Notice, before: str | None) -> None:
        """Say nothing about it."""


class _Deaf(Recording):
    """Swallows its errors."""


def test_the_check_finds_a_sink_that_breaks_its_promises() -> None:
    with pytest.raises(AssertionError, match="send returns a Sent"):
        check_sink(_Silent())  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match="a sink that nobody answers raises Unavailable"):
        check_sink(Recording("a", "b"), unreachable=_Deaf("a", "b"))
    with pytest.raises(AssertionError, match="repr shows no secret"):
        check_sink(Recording("a", "token"), secrets=("token",))


# --- when to try again --------------------------------------------------------------------------------------------------


class _Clock:
    """Time that passes by sleeping alone."""

    def __init__(self) -> None:
        self.now, self.waits = 100.0, list[float]()

    def __call__(self) -> float:
        return self.now

    def sleep(self, wait_s: float) -> None:
        self.waits.append(wait_s)
        self.now += wait_s


def _tried(errors: list[Exception], deadline_s: float) -> tuple[_Clock, int, Exception | None]:
    clock, left = _Clock(), list(errors)
    tries = 0

    def attempt(_until: float) -> str:
        nonlocal tries
        tries += 1
        if left:
            raise left.pop(0)
        return "done"

    try:
        assert retrying(attempt, deadline_s, clock=clock, sleep=clock.sleep, chance=lambda: 0.0) == "done"
    except (Unavailable, Rejected) as error:
        return clock, tries, error
    return clock, tries, None


def test_pauses_grow_and_are_spread() -> None:
    assert [backoff_s(n, chance=lambda: 0.0) for n in range(1, 9)] == [0.5, 1, 2, 4, 8, 16, LONGEST_WAIT_S, LONGEST_WAIT_S]
    assert backoff_s(3, chance=lambda: 1.0) == 1.0
    assert backoff_s(10**6) <= LONGEST_WAIT_S


def test_what_passes_is_waited_out() -> None:
    clock, tries, error = _tried([Unavailable("x"), Unavailable("x"), Overloaded("x", 5.0)], 60)
    assert (clock.waits, tries, error) == ([0.5, 1.0, 5.0], 4, None)


def test_a_refusal_is_final() -> None:
    clock, tries, error = _tried([Rejected("no")], 60)
    assert (clock.waits, tries, str(error)) == ([], 1, "no")


def test_the_deadline_ends_it() -> None:
    clock, tries, error = _tried([Unavailable("x")] * 100, 5)
    assert (clock.waits, tries, type(error)) == ([0.5, 1.0, 2.0], 4, Unavailable)
    clock, tries, error = _tried([Overloaded("x", 6.0)] * 100, 5)
    assert (clock.waits, tries, type(error)) == ([], 1, Overloaded)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (200, None),
        (202, None),
        (301, Rejected),
        (400, Rejected),
        (401, Rejected),
        (404, Rejected),
        (408, Unavailable),
        (413, Rejected),
        (425, Unavailable),
        (429, Unavailable),
        (500, Unavailable),
        (501, Rejected),
        (502, Unavailable),
        (503, Unavailable),
        (504, Unavailable),
    ],
)
def test_statuses(status: int, kind: type[Exception] | None) -> None:
    found = failure("words", status, {})
    assert type(found) is (kind or type(None))
    if kind is Unavailable:
        told = failure("words", status, {"Retry-After": "7"})
        assert isinstance(told, Overloaded)
        assert told.retry_after_s == 7


@pytest.mark.parametrize(
    ("value", "wait"),
    [
        (None, None),
        ("3", 3.0),
        ("0.5", 0.5),
        ("-3", 0.0),
        ("nan", None),
        ("1e9", 3600.0),
        ("Sat, 21 Nov 2026 12:00:30 GMT", 30.0),
        ("Sat, 21 Nov 2026 11:00:00 GMT", 0.0),
        ("later", None),
        ("", None),
    ],
)
def test_retry_after(value: str | None, wait: float | None) -> None:
    assert retry_after_s(value, now=datetime(2026, 11, 21, 12, tzinfo=UTC)) == wait


def test_nothing_heavy_is_loaded_before_something_is_sent() -> None:
    heavy = ("requests", "apprise", "torch", "pandas", "grpc", "kubernetes", "starlette")
    code = (
        "import sys; from rca.sinks.destinations import *; [settings_of(kind) for kind in BUILT_IN]; "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
