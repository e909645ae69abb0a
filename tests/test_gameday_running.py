"""Running a plan: what is kept, what is tried again, and that nothing stays injected however it ends."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rca.collectors.alerts import Alert
from rca.errors import BadInput, RcaError, Rejected, StorageFull, Unavailable, UnknownName
from rca.faults import NO_FAULT
from rca.gameday.aborting import Aborted
from rca.gameday.folder import JOURNAL_FILE, GameDay, Journal, at_work, events_of, load, make_folder, names
from rca.gameday.running import Runner, remaining
from rca.incidents.store import IncidentStore
from rca.shop.observing import Spoilt
from rca.telemetry import SECOND_NS, EntityId
from tests.gamedays import PLAN, T0, WORKS, FakeSystem, a_day

LATENCY, DATABASE = "tuesday-01-latency-payment", "tuesday-02-slow-database-shop-db"
ONE = PLAN.partition('[[injection]]\nfault = "slow_database"')[0]
ABORT = '\n[[abort]]\n{}\nlasting = "20s"\n'


def run(home: Path, system: FakeSystem, text: str = PLAN, **options: bool) -> tuple[GameDay, list[str]]:
    """The game day after a run, and what was said."""
    said: list[str] = []
    with IncidentStore(home) as store:
        Runner(a_day(home, text, **options), system, store, told=said.append).run()
    return load(home, "tuesday"), said


def test_every_injection_becomes_a_labelled_incident(tmp_path: Path) -> None:
    system = FakeSystem(
        fires=[Alert("Slow", 12 * SECOND_NS, end_ns=45 * SECOND_NS), Alert("Late", 20 * SECOND_NS, end_ns=30 * SECOND_NS)]
    )
    day, said = run(tmp_path, system)
    assert (day.state, day.why) == ("complete", "2 of 2 injections are kept")
    assert [each.incident_id for each in day.injections] == [LATENCY, DATABASE]
    first, second = (each.injection for each in day.injections)
    assert (first.culprit, second.culprit) == (EntityId("service", "payment"), EntityId("database", "shop-db"))
    begun = round(T0 + 100) * SECOND_NS
    assert (first.start_ns, first.end_ns, first.strength, first.source) == (begun, begun + 40 * SECOND_NS, 0.5, "shop")
    assert day.injections[0].until_ns == begun + 50 * SECOND_NS
    assert [day.injections[0].alerts_ns, day.injections[0].over_ns] == [begun + 12 * SECOND_NS, begun + 45 * SECOND_NS]
    with IncidentStore(tmp_path) as store:
        incident = store.incident(LATENCY)
        assert [(label.name(), label.fault_kind, label.provenance, label.author) for label in incident.labels] == [
            ("payment", "latency", "injected", "rca gameday")
        ]
        assert (incident.source, incident.onset_ns, incident.window.start_ns) == ("gameday:tuesday", begun, begun)
        for watch, injected in zip(day.watches, day.injections, strict=True):
            quiet, telemetry = store.get(watch.incident_id)
            assert quiet.is_no_fault()
            assert quiet.fault_kind() == NO_FAULT
            assert (quiet.window.interval(), watch.interval.end_ns) == (watch.interval, injected.injection.start_ns)
            assert quiet.baselines[0].end_ns == watch.interval.start_ns
            assert telemetry.bin_counts["time_unix_nano"].max() < watch.interval.end_ns  # type: ignore[operator]
    assert day.quiet == tuple(watch.interval for watch in day.watches)
    assert system.did.count("keep_up") == 16  # every five seconds of forty
    assert said[0].endswith("1/2 latency at payment: begins")
    assert said[-1] == "complete: 2 of 2 injections are kept"
    assert names(tmp_path) == ["tuesday"]


def test_what_is_spoilt_is_tried_again_at_the_end_once(tmp_path: Path) -> None:
    system = FakeSystem(fails={"observe": [Spoilt("the machine was saturated"), WORKS, Spoilt("no traces were collected")]})
    guess = {"number": 1, "who": "ada", "entity": {"kind": "service", "name": "cart", "namespace": ""}}
    system.at[120] = lambda: Journal(tmp_path / "gamedays/tuesday").add("guess", **guess)  # type: ignore[arg-type]
    day, said = run(tmp_path, system)
    assert day.guesses == ()  # of the first attempt, which is nothing any longer
    assert [(each.incident_id, each.trouble) for each in day.injections] == [(None, "no traces were collected"), (DATABASE, "")]
    assert (day.state, day.attempts, remaining(day)) == ("complete", {1: 2}, [])
    assert any("not kept (the machine was saturated), tried again at the end" in line for line in said)
    assert any("not kept (no traces were collected), given up" in line for line in said)

    again = FakeSystem(fails={"inject": [Unavailable("payment: expected a pod that is ready, found none")]})
    (tmp_path / "other").mkdir()
    day, _ = run(tmp_path / "other", again)
    assert [each.incident_id for each in day.injections] == [LATENCY, DATABASE]
    assert day.injections[0].injection.start_ns > day.injections[1].injection.start_ns


def test_what_a_busy_machine_may_have_spoilt_can_be_kept(tmp_path: Path) -> None:
    busy = [Spoilt("the machine was saturated")]
    day, _ = run(tmp_path, FakeSystem(fails={"check_machine": busy.copy()}))
    assert day.attempts == {1: 1}
    (tmp_path / "other").mkdir()
    plan = PLAN.replace("settle", 'busy = "kept"\nsettle')
    day, said = run(tmp_path / "other", FakeSystem(fails={"check_machine": busy.copy()}), plan)
    assert (day.attempts, day.injections[0].incident_id, day.injections[0].trouble) == ({}, LATENCY, "the machine was saturated")
    assert said[2].endswith(f"kept as {LATENCY}, no alert (the machine was saturated)")


def test_a_fault_ends_when_somebody_fixes_it(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "gamedays" / "tuesday")
    system = FakeSystem(at={265: lambda: journal.add("fixed", number=2, who="ada")})
    day, said = run(tmp_path, system)
    injected = day.injected(2)
    assert injected.fixed_ns is not None
    assert injected.injection.end_ns == round(T0 + 265) * SECOND_NS
    assert [event["why"] for event in events_of(journal.path) if event["event"] == "cleared"] == ["over", "fixed"]
    assert any(line.endswith("slow_database at shop-db: was fixed") for line in said)


@pytest.mark.parametrize(
    ("condition", "state", "words"),
    [
        ('query = "load"\nabove = 4', {"measured": [1.0, 5.0]}, "load is above 4 for 20s"),
        ('query = "load"\nbelow = 4', {"measured": [3.0]}, "load is below 4 for 20s"),
        ("failed_requests = 0.5", {"failed": 0.6}, "more than 50 % of customers' requests fail for 20s"),
        ("unhealthy = true", {"healthy": False}, "some pod is not ready for 20s"),
    ],
)
def test_a_condition_that_holds_long_enough_ends_it(tmp_path: Path, condition: str, state: dict[str, object], words: str) -> None:
    system = FakeSystem()
    system.at[110] = lambda: [setattr(system, key, value) for key, value in state.items()]
    with pytest.raises(Aborted, match=words) as error:
        run(tmp_path, system, PLAN + ABORT.format(condition))
    assert error.value.exit_code
    assert not system.active
    day = load(tmp_path, "tuesday")
    assert (day.state, day.why) == ("aborted", f"abort condition: {words}")
    assert day.injections[0].trouble == f"not finished: {day.why}"
    assert 130 <= system.time - T0 <= 140
    assert [task.number for task in remaining(day)] == [1, 2]


def test_a_condition_that_passes_ends_nothing(tmp_path: Path) -> None:
    system = FakeSystem(measured=[float("nan")])
    system.at |= {110: lambda: setattr(system, "healthy", False), 125: lambda: setattr(system, "healthy", True)}
    day, _ = run(tmp_path, system, PLAN + ABORT.format("unhealthy = true") + ABORT.format('query = "load"\nbelow = 4'))
    assert day.state == "complete"


def test_a_query_that_is_none_is_told_before_anything_begins(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"abort: query up\{: expected PromQL, found parse error"):
        run(tmp_path, FakeSystem(), PLAN + ABORT.format('query = "up{"\nabove = 1'))
    assert not names(tmp_path)


def test_an_interrupted_run_leaves_nothing_behind_and_goes_on(tmp_path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    system = FakeSystem(at={260: interrupt})
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, system)
    day = load(tmp_path, "tuesday")
    assert not system.active
    assert (day.state, day.why) == ("interrupted", "stopped by hand")
    assert [each.incident_id for each in day.injections] == [LATENCY, None]
    assert not day.attempts  # nobody's fault: it does not count as an attempt

    with pytest.raises(BadInput, match="expected a name that is free"):
        run(tmp_path, FakeSystem())
    with pytest.raises(BadInput, match="expected the plan that it began with"):
        run(tmp_path, FakeSystem(), PLAN.replace("40s", "50s"), resume=True)
    later = FakeSystem(time=T0 + 1000)
    day, _ = run(tmp_path, later, resume=True)
    assert (day.state, [each.incident_id for each in day.injections]) == ("complete", [LATENCY, DATABASE])
    assert day.injections[0].injection.start_ns < round(T0 + 1000) * SECOND_NS < day.injections[1].injection.start_ns
    assert later.did.count("inject") == 1
    assert later.did.index("clear") < later.did.index("inject")
    with pytest.raises(BadInput, match="found one that is complete"):
        run(tmp_path, FakeSystem(), resume=True)


_ERRORS = (KeyboardInterrupt(), Unavailable("no answer"), Spoilt("busy"), Rejected("no"), RuntimeError("a mistake"))


@settings(max_examples=12, deadline=None)
@given(
    st.sampled_from(["baseline", "inject", "keep_up", "observe", "check_machine", "alerts", "clear"]),
    st.integers(0, 2),
    st.sampled_from(_ERRORS),
)
def test_whatever_goes_wrong_whenever_nothing_stays_injected_and_the_rest_can_be_made(
    tmp_path_factory: pytest.TempPathFactory, where: str, turn: int, error: BaseException
) -> None:
    home = tmp_path_factory.mktemp("home")
    system = FakeSystem(fails={where: [*([WORKS] * turn), error]})
    day = a_day(home, ONE)
    with IncidentStore(home) as store:
        with contextlib.suppress(KeyboardInterrupt, RcaError, RuntimeError):
            Runner(day, system, store, told=str).run()
        assert not system.active
        day = load(home, "tuesday")
        assert day.state in ("complete", "aborted", "interrupted")
        assert day.current is None
        if day.state != "complete":
            Runner(a_day(home, ONE, resume=True), FakeSystem(time=system.time + 10), store, told=str).run()
    day = load(home, "tuesday")
    assert (day.state, [each.incident_id for each in day.injections]) == ("complete", [LATENCY])


def test_a_system_that_is_gone_ends_it(tmp_path: Path) -> None:
    gone = Unavailable("no shop runs here")
    system = FakeSystem(fails={"keep_up": [gone], "clear": [WORKS, gone, gone, gone]})
    said: list[str] = []
    with IncidentStore(tmp_path) as store, pytest.raises(Aborted, match="no shop runs here"):
        Runner(a_day(tmp_path), system, store, told=said.append).run()
    assert said[-1] == "faults could not be ended: no shop runs here; the guard goes on trying"
    assert load(tmp_path, "tuesday").why == "no shop runs here; faults could not be ended: no shop runs here"


def test_two_runs_at_once_are_refused(tmp_path: Path) -> None:
    day = a_day(tmp_path)
    with (
        IncidentStore(tmp_path) as store,
        at_work(day.folder),
        pytest.raises(Rejected, match="this game day is under way, process"),
    ):
        Runner(day, FakeSystem(), store).run()


def test_an_incident_of_somebody_else_is_not_replaced(tmp_path: Path) -> None:
    run(tmp_path, FakeSystem())
    (tmp_path / "gamedays" / "tuesday").rename(tmp_path / "gamedays" / "monday")
    with IncidentStore(tmp_path) as store:
        incident, telemetry = store.get(LATENCY)
        store.add(incident.model_copy(update={"source": "by hand"}), telemetry, replace=True)
    with pytest.raises(BadInput, match=f"incident {LATENCY}: expected an id that is free .*found by hand"):
        run(tmp_path, FakeSystem())


def test_alerts_that_go_on_are_asked_about_again(tmp_path: Path) -> None:
    system = FakeSystem(fires=[Alert("Slow", 12 * SECOND_NS, end_ns=70 * SECOND_NS)])
    day, _ = run(tmp_path, system)
    assert [(each.over_ns or 0) - each.injection.start_ns for each in day.injections] == [70 * SECOND_NS] * 2
    told = [event["event"] for event in events_of(day.folder / JOURNAL_FILE)]
    assert told.index("alerts") < told.index("injecting", told.index("kept"))
    (tmp_path / "other").mkdir()
    blind = FakeSystem(fails={"alerts": [Unavailable("prometheus does not answer")]})
    day, _ = run(tmp_path / "other", blind)
    assert (day.injections[0].trouble, day.injections[0].incident_id) == (
        "alerts are not known: prometheus does not answer",
        LATENCY,
    )


# --- the folder -------------------------------------------------------------------------------------------------------


def test_guesses_are_kept_with_their_time(tmp_path: Path) -> None:
    entity = {"kind": "service", "name": "cart", "namespace": ""}
    day = a_day(tmp_path)
    journal = Journal(day.folder)
    with IncidentStore(tmp_path) as store:
        system = FakeSystem(at={120: lambda: journal.add("guess", at_ns=7, number=1, who="ada", entity=entity)})
        Runner(day, system, store, told=str).run()
    (guess,) = load(tmp_path, "tuesday").guesses
    assert (guess.number, guess.at_ns, guess.who, guess.entity) == (1, 7, "ada", EntityId("service", "cart"))


def test_a_line_that_was_being_written_is_no_mistake(tmp_path: Path) -> None:
    day = a_day(tmp_path)
    make_folder(day)
    path = day.folder / JOURNAL_FILE
    journal = Journal(day.folder)
    journal.add("begun", source="shop", entities=[])
    with path.open("ab") as file:
        file.write(b'{"v": 1, "at_ns": 5, "eve')
    assert [event["event"] for event in events_of(path)] == ["begun"]
    journal.add("resumed")
    assert [event["event"] for event in events_of(path)] == ["begun", "resumed"]
    assert (load(tmp_path, "tuesday").state, load(tmp_path, "tuesday").why) == ("interrupted", "its process ended without a word")
    with at_work(day.folder):
        assert load(tmp_path, "tuesday").state == "running"


def test_a_line_that_the_disk_takes_in_parts_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    day = a_day(tmp_path)
    make_folder(day)
    whole, room = os.write, [25]

    def some(file: int, line: bytes) -> int:
        if room[0] <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        room[0] -= len(line[:10])
        return whole(file, line[:10])

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", some)
        with pytest.raises(StorageFull):
            Journal(day.folder).add("begun", source="shop", entities=[])
        room[0] = 1000
        Journal(day.folder).add("begun", source="shop", entities=[])
    assert [event["event"] for event in events_of(day.folder / JOURNAL_FILE)] == ["begun"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nonsense", "line 1: expected an event of a game day, found JSONDecodeError"),
        ('{"v": 2, "event": "begun"}', "line 1: expected version 1 of the journal, found version 2; a newer rca reads it"),
        ('{"v": 1, "event": "begun"}', "expected an event as docs/gameday.md describes it, found .*KeyError: 'entities'"),
        ('{"v": 1, "event": "danced"}', "no event of a game day: danced"),
        ('{"v": 1, "event": "fixed", "number": 3}', "injections of tuesday: expected a known name, found '3'"),
    ],
)
def test_a_journal_that_is_damaged_is_told(tmp_path: Path, line: str, message: str) -> None:
    day = a_day(tmp_path)
    make_folder(day)
    (day.folder / JOURNAL_FILE).write_text(line + "\n", encoding="utf-8")
    with pytest.raises(BadInput, match=message):
        load(tmp_path, "tuesday")


def test_several_processes_add_to_a_journal(tmp_path: Path) -> None:
    make_folder(a_day(tmp_path))
    code = "import sys; from pathlib import Path; from rca.gameday.folder import Journal\n"
    code += "for turn in range(20): Journal(Path(sys.argv[1])).add('guess', number=turn, who='x' * 3000)"
    folder = tmp_path / "gamedays" / "tuesday"
    writers = [subprocess.Popen([sys.executable, "-c", code, str(folder)]) for _ in range(2)]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    assert sorted(event["number"] for event in events_of(folder / JOURNAL_FILE)) == sorted([*range(20)] * 2)


def test_names_of_game_days(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=r"'tuesday' .known: none"):
        load(tmp_path, "tuesday")
    with pytest.raises(BadInput, match=r"name of the game day: expected .*found '\.\./a'"):
        load(tmp_path, "../a")
