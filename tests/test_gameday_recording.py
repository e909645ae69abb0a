"""What another tool injected, collected as labelled incidents: what is kept, and what is said of what cannot be."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rca.cli.gameday import app
from rca.collectors.alerts import Alert
from rca.collectors.config import Config, LiveSettings
from rca.errors import BadInput, Rejected, Unavailable
from rca.gameday.flagd import Change, Flags
from rca.gameday.folder import INJECTIONS_FILE, GameDay, load, make_folder
from rca.gameday.recording import Recording
from rca.gameday.seen import Seen, read_injections
from rca.gameday.telling import note_guess
from rca.incidents.store import IncidentStore
from rca.telemetry import MINUTE_NS, SECOND_NS, EntityId, Telemetry
from tests.gamedays import a_day, recorded
from tests.recorded import RecordedSource, failing
from tests.serving import until
from tests.test_gameday_elsewhere import FIXTURES, FlagFile

INCIDENT, TELEMETRY = recorded()
START, END = INCIDENT.window.start_ns, INCIDENT.window.end_ns
CONFIG = Config(triage=LiveSettings.model_construct(baseline=5 * MINUTE_NS, deadline=5 * SECOND_NS, system="demo"))
LATENCY = Seen("latency", "payment", START + 3 * SECOND_NS, START + 63 * SECOND_NS, "file", names=("payment",))


@dataclass
class Remembers(RecordedSource):
    """A source that knows of alerts, and when they ended."""

    past: list[Alert] = field(default_factory=list)

    def alerts_between(self, start_ns: int, end_ns: int) -> Sequence[Alert]:
        return [alert for alert in self.past if start_ns <= alert.start_ns < end_ns]


@dataclass
class Clock:
    """A clock whose time passes when somebody sleeps."""

    now: int = END + 10 * MINUTE_NS

    def __call__(self) -> int:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += round(seconds * SECOND_NS)


def recorded_day(
    home: Path, seen: Sequence[Seen], *sources: RecordedSource, clock: Clock | None = None
) -> tuple[GameDay, list[str]]:
    """The day after these were recorded, and what was said."""
    said: list[str] = []
    clock = clock or Clock()
    with IncidentStore(home) as store:
        all_sources = sources or (RecordedSource("store", TELEMETRY),)
        recording = Recording(home, "friday", CONFIG, all_sources, store, told=said.append, now_ns=clock, sleep=clock.sleep)
        recording.begin()
        for each in seen:
            recording.note(each)
        recording.collect()
        return recording.end(), said


def test_an_injection_becomes_a_labelled_incident(tmp_path: Path) -> None:
    alerts = [Alert("Slow", START + 20 * SECOND_NS, end_ns=START + 70 * SECOND_NS), Alert("Late", START + 500 * SECOND_NS)]
    day, said = recorded_day(tmp_path, [LATENCY], Remembers("prometheus", TELEMETRY, past=alerts))
    (each,) = day.injections
    assert (each.incident_id, each.trouble, each.until_ns) == ("friday-01-latency-payment", "", START + 130 * SECOND_NS)
    assert (each.alerts_ns, each.over_ns) == (START + 20 * SECOND_NS, START + 70 * SECOND_NS)
    assert each.injection.culprit == EntityId("service", "payment")
    assert (day.state, day.why) == ("complete", "1 of 1 injections are kept")
    assert [line.split("  ")[1] for line in said] == ["1 latency at payment: kept as friday-01-latency-payment"]
    with IncidentStore(tmp_path) as store:
        incident, telemetry = store.get("friday-01-latency-payment")
        (label,) = incident.labels
        assert (label.name(), label.fault_kind, label.provenance) == ("payment", "latency", "injected")
        assert (incident.source, incident.system) == ("gameday:friday", "demo")
        assert (incident.window.start_ns, incident.window.end_ns) == (START, START + 70 * SECOND_NS)  # whole bins
        assert telemetry.bin_counts["time_unix_nano"].max() == START + 120 * SECOND_NS
        (watch,) = day.watches
        assert store.incident(watch.incident_id).is_no_fault()
        assert watch.interval.end_ns == START


def test_recording_again_changes_nothing_but_what_was_missing(tmp_path: Path) -> None:
    day, _ = recorded_day(tmp_path, [LATENCY], failing("store", Unavailable("no answer")))
    assert (day.injections[0].incident_id, day.why) == (None, "0 of 1 injections are kept")
    assert "no source answered: store: no answer" in day.injections[0].trouble
    later = replace(LATENCY, start_ns=START + 4 * MINUTE_NS, end_ns=START + 5 * MINUTE_NS)
    source = RecordedSource("store", TELEMETRY)
    day, _ = recorded_day(tmp_path, [later, LATENCY], source)
    assert [each.incident_id for each in day.injections] == ["friday-01-latency-payment", "friday-02-latency-payment"]
    asked = len(source.asked)
    day, said = recorded_day(tmp_path, [LATENCY, later], source)
    assert (len(source.asked), said) == (asked, [])
    again = [replace(each, source="file") for each in read_injections(day.folder / INJECTIONS_FILE)]
    assert [each.identity for each in again] == [LATENCY.identity, later.identity]


@pytest.mark.parametrize(
    ("seen", "telemetry", "trouble"),
    [
        (replace(LATENCY, start_ns=END + MINUTE_NS * 12, end_ns=None), TELEMETRY, "begins 2 min from now: the clock of the tool"),
        (LATENCY, Telemetry(), "there is no telemetry of 20.* UTC, and none before it"),
        (
            replace(LATENCY, start_ns=END + 2 * MINUTE_NS, end_ns=END + 3 * MINUTE_NS),
            TELEMETRY,
            r"no telemetry while it lasted; the nearest is of .*:50 UTC, 2 min away: the clocks of the injecting tool",
        ),
        (
            replace(LATENCY, start_ns=INCIDENT.baselines[0].start_ns, end_ns=None),
            TELEMETRY,
            "there is no telemetry before it to compare with",
        ),
        (replace(LATENCY, start_ns=END + 10 * MINUTE_NS - SECOND_NS, end_ns=None), TELEMETRY, "it is too young to be looked at"),
    ],
)
def test_an_injection_without_telemetry_is_listed_with_the_reason(
    tmp_path: Path, seen: Seen, telemetry: Telemetry, trouble: str
) -> None:
    day, said = recorded_day(tmp_path, [seen], RecordedSource("store", telemetry))
    (each,) = day.injections
    assert each.incident_id is None
    assert re.search(trouble, each.trouble)
    assert each.trouble in said[0]
    assert read_injections(day.folder / INJECTIONS_FILE)[0].identity == seen.identity


def test_telemetry_that_covers_a_part_is_kept_with_a_remark(tmp_path: Path) -> None:
    seen = replace(LATENCY, start_ns=END - 30 * SECOND_NS, end_ns=END + 90 * SECOND_NS)
    day, _ = recorded_day(tmp_path, [seen])
    assert day.injections[0].incident_id
    assert day.injections[0].trouble == "telemetry covers 3 of 12 bins of its time: much was lost, or clocks disagree"


def test_injections_that_overlap_are_one_incident_with_several_causes(tmp_path: Path) -> None:
    other = replace(LATENCY, fault_kind="cpu_contention", target="cart", start_ns=START + 30 * SECOND_NS, names=("cart",))
    day, _ = recorded_day(tmp_path, [other, LATENCY])
    assert [each.incident_id for each in day.injections] == ["friday-02-latency-payment"] * 2
    assert "overlapping injections are one incident with several causes: 2 latency at payment, 1 cpu_contention at cart" in (
        day.injections[0].trouble
    )
    with IncidentStore(tmp_path) as store:
        assert {entity.name for entity in store.incident("friday-02-latency-payment").causes()} == {"payment", "cart"}


def test_one_that_follows_too_soon_has_nothing_to_compare_with(tmp_path: Path) -> None:
    soon = replace(LATENCY, start_ns=LATENCY.start_ns + 90 * SECOND_NS, end_ns=LATENCY.start_ns + 150 * SECOND_NS)
    day, _ = recorded_day(tmp_path, [LATENCY, soon])
    assert [each.incident_id for each in day.injections] == ["friday-01-latency-payment", None]
    assert "after the one before it: expected 2 min or more, to settle and to compare with" in day.injections[1].trouble


def test_names_are_those_of_telemetry(tmp_path: Path) -> None:
    known = sorted({kind for kind in TELEMETRY.bin_counts["target_kind"].drop_nulls().unique() if kind != "service"})
    assert known
    kind = known[0]
    target = str(TELEMETRY.bin_counts.filter(TELEMETRY.bin_counts["target_kind"] == kind)["target"][0])
    slow = replace(LATENCY, target="data-0", names=("data-0", target))
    day, _ = recorded_day(tmp_path, [slow])
    assert day.injections[0].injection.culprit == EntityId(kind, target)
    assert day.injections[0].trouble == ""
    (tmp_path / "other").mkdir()
    day, _ = recorded_day(tmp_path / "other", [replace(LATENCY, target="paymint", names=("paymint",))])
    assert day.injections[0].incident_id  # nothing is lost: the label says what the tool said
    assert "culprit of latency: expected a known name, found 'paymint' (did you mean payment" in day.injections[0].trouble
    (tmp_path / "nobody").mkdir()
    day, _ = recorded_day(tmp_path / "nobody", [replace(LATENCY, fault_kind="traffic_surge", target="", names=())])
    assert day.injections[0].injection.culprit is None


class Counted(Flags):
    """Flags that say how often they were looked at."""

    looks = 0

    def look(self, now_ns: int) -> Change:
        try:
            return super().look(now_ns)
        finally:
            self.looks += 1


def test_flags_are_followed_and_nothing_is_lost(tmp_path: Path) -> None:
    file, clock, said = FlagFile(tmp_path), Clock(START - 20 * SECOND_NS), list[str]()
    turns = {
        START: lambda: file.turn("paymentFailure", "on"),
        START + 30 * SECOND_NS: lambda: said.append(str(note_guess(tmp_path, "friday", "payment", "ada"))),
        START + 60 * SECOND_NS: lambda: file.turn("paymentFailure", "off"),
        START + 240 * SECOND_NS: lambda: file.turn("adHighCpu", "on"),
    }
    file.body["flags"]["paymentFailure"]["variants"]["on"] = 1
    file.write()

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        if not any(when <= clock.now for when in turns):
            return
        for when in [when for when in turns if when <= clock.now]:
            turns.pop(when)()
        looks = flags.looks
        until(lambda: flags.looks >= looks + 2)

    flags = Counted(str(file.path))
    with IncidentStore(tmp_path) as store:
        source = RecordedSource("store", TELEMETRY)
        recording = Recording(tmp_path, "friday", CONFIG, [source], store, told=said.append, now_ns=clock, sleep=sleep)
        with recording.alone():
            recording.begin([EntityId("service", "payment")])
            recording.follow(flags, 5 * MINUTE_NS, every_s=0.005)
            kept_on_the_way = [each.incident_id for each in load(tmp_path, "friday").injections]
            recording.collect()
        day = recording.end()
    assert kept_on_the_way == ["friday-01-exception-payment", None]
    assert [(guess.number, guess.who) for guess in day.guesses] == [(1, "ada")]
    assert [each.injection.source for each in day.injections] == ["flagd", "flagd"]
    assert day.injections[1].injection.note == "flag adHighCpu, on, still on when watching ended"
    assert len(read_injections(day.folder / INJECTIONS_FILE)) == 2
    assert [line.partition("  ")[2] for line in said if ": began" in line or ": ended" in line] == [
        "1 flag paymentFailure, on: began",
        "1 flag paymentFailure, on: ended",
        "2 flag adHighCpu, on: began",
    ]


def test_a_day_with_a_plan_is_not_recorded_into(tmp_path: Path) -> None:
    make_folder(a_day(tmp_path))
    with IncidentStore(tmp_path) as store:
        with pytest.raises(BadInput, match="which has a plan"):
            Recording(tmp_path, "tuesday", CONFIG, [], store)
        recording = Recording(tmp_path, "friday", CONFIG, [], store)
        with recording.alone(), pytest.raises(Rejected, match="this game day is under way"), recording.alone():
            pass


def test_options_of_record(tmp_path: Path) -> None:
    config = tmp_path / "rca.toml"
    config.write_text(f'[store]\nfolder = "{tmp_path / "warm"}"\n')

    def record(*options: object) -> BaseException | None:
        arguments = ["record", "friday", "--config", config, "--store", tmp_path, *options]
        return CliRunner().invoke(app, list(map(str, arguments))).exception

    assert "expected --injections, --chaos-mesh, --chaos-mesh-file or --flagd" in str(record())
    assert "expected [kubernetes] in rca.toml" in str(record("--chaos-mesh"))
    assert "expected a duration" in str(record("--flagd", "x", "--settle", "soon"))
    assert "No such file" in str(record("--injections", tmp_path / "none.csv"))
    assert not (tmp_path / "gamedays").exists()
    listed = tmp_path / "listed.csv"
    listed.write_text("fault,target,start\nlatency,payment,2026-03-02T10:00:00Z\n")
    assert str(record("--injections", listed)) == "1"  # nothing could be kept
    assert str(record("--chaos-mesh-file", FIXTURES / "chaos-mesh.yaml", "--since", "2026-03-02T10:15:00Z")) == "1"
    day = load(tmp_path, "friday")
    assert [each.injection.fault_kind for each in day.injections] == [
        "latency", "cpu_contention", "cpu_contention", "clock_skew"
    ]  # fmt: skip
    assert day.injections[0].trouble
    assert day.state == "complete"
