"""The inbox: what was acknowledged is there, once; groups open and close as their alerts do; work is found after a crash."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rca.errors import BadInput, StorageFull, Unavailable, UnknownName
from rca.incidents.inbox import INBOX_FILE, AlertGroup, GroupAlert, InboxFile, Receipt, Status
from rca.serve.config import ServeLimits
from rca.serve.inbox import Inbox
from rca.serve.payload import group_of
from rca.telemetry import SECOND_NS
from tests.serving import body, until

T0 = 1_768_471_800 * SECOND_NS


@pytest.fixture
def file(tmp_path: Path) -> Iterator[InboxFile]:
    found = InboxFile(tmp_path)
    yield found
    found.close()


def alert(name: str = "a", status: Status = "firing", began: int = 0) -> GroupAlert:
    ends_ns = T0 + (began + 60) * SECOND_NS if status == "resolved" else None
    return GroupAlert(name, status, T0 + began * SECOND_NS, ends_ns, {"alertname": name})


def take(file: InboxFile, *alerts: GroupAlert, key: str = "g", now: int = 0, truncated: int = 0, over: bool = False) -> Receipt:
    with file.writing():
        return file.take(AlertGroup(key, "rca", alerts, truncated=truncated, over=over), T0 + now * SECOND_NS, "shop")


def test_an_alert_opens_an_incident_and_is_due(file: InboxFile) -> None:
    receipt = take(file, alert())
    assert (receipt.news, receipt.known) == (1, 0)
    (episode,) = file.due(T0, 10)
    assert episode.incident_id == receipt.incident_id
    assert (episode.task, episode.state, episode.firing, episode.alerts, episode.title) == ("answer", "firing", 1, 1, "a")


def test_repeats_change_nothing(file: InboxFile) -> None:
    first = take(file, alert("a"), alert("b"))
    again = take(file, alert("b"), alert("a"), alert("a"), now=5)
    assert again == Receipt(0, 3, first.incident_id)
    assert file.episode(first.incident_id or "").alerts == 2


def test_an_incident_ends_with_its_last_alert_and_the_next_is_another(file: InboxFile) -> None:
    first = take(file, alert("a"), alert("b"))
    take(file, alert("a", "resolved"), now=1)
    assert file.episode(first.incident_id or "").state == "firing"
    take(file, alert("a", "resolved"), alert("b", "resolved"), now=2)
    closed = file.episode(first.incident_id or "")
    assert (closed.state, closed.firing, closed.alerts, closed.closed_ns) == ("resolved", 0, 2, T0 + 2 * SECOND_NS)
    second = take(file, alert("a", began=300), now=300)
    assert second.incident_id not in (None, first.incident_id)


def test_resolved_before_firing_stays_resolved(file: InboxFile) -> None:
    assert take(file, alert("a", "resolved")) == Receipt(1, 0, None)
    assert take(file, alert("a"), now=1) == Receipt(0, 1, None)
    assert file.due(T0 + SECOND_NS, 10) == ()


def test_resolved_and_firing_in_one_notification_is_resolved(file: InboxFile) -> None:
    assert take(file, alert("a"), alert("a", "resolved")).incident_id is None
    first = take(file, alert("b"))
    take(file, alert("b", "resolved"), alert("b"), now=1)
    assert file.episode(first.incident_id or "").state == "resolved"


def test_an_alert_that_fires_anew_has_ended_before(file: InboxFile) -> None:
    first = take(file, alert("a"), alert("b"))
    second = take(file, alert("a", began=100), now=100)
    assert second.incident_id == first.incident_id  # b still fires
    third = take(file, alert("a", began=200), alert("b", began=200), now=200)
    assert third.incident_id != first.incident_id
    assert file.episode(first.incident_id or "").state == "resolved"
    assert file.episode(third.incident_id or "").firing == 2


def test_the_same_alert_in_two_groups_is_two_incidents(file: InboxFile) -> None:
    assert take(file, alert(), key="g").incident_id != take(file, alert(), key="h").incident_id


def test_what_the_sender_left_out_is_counted(file: InboxFile) -> None:
    first = take(file, alert("a"), truncated=7)
    take(file, alert("b"), truncated=3)
    assert file.episode(first.incident_id or "").truncated == 7


def answer(file: InboxFile, number: int, state: Status = "firing", **more: Any) -> None:
    revision = file.due(T0 + 10**15, 100)[0].revision + 1
    with file.writing():
        file.answered(number, revision, state, "{}", "{}", ["slack", "page"], T0, **{"task": None, "due_ns": None, **more})


def test_an_answer_is_delivered_to_each_sink_in_order(file: InboxFile) -> None:
    take(file, alert())
    number = file.due(T0, 1)[0].number
    answer(file, number, task="revise", due_ns=T0)
    answer(file, number)
    assert file.due(T0 + 10**15, 1) == ()
    (first,) = file.deliveries_due("slack", T0, 10)
    assert (first.revision, first.tries) == (1, 0)
    with file.writing():
        file.failed(first, "down", T0 + 60 * SECOND_NS)
    assert file.deliveries_due("slack", T0, 10) == ()  # the second revision waits for the first
    assert len(file.deliveries_due("page", T0, 10)) == 1
    (again,) = file.deliveries_due("slack", T0 + 60 * SECOND_NS, 10)
    with file.writing():
        file.delivered(again, T0, "channel:1")
    assert file.reference(number, "slack") == "channel:1"
    assert file.reference(number, "page") is None
    assert file.deliveries_due("slack", T0 + 60 * SECOND_NS, 10)[0].revision == 2


def test_an_incident_that_ended_while_it_was_ranked_is_closed_next(file: InboxFile) -> None:
    take(file, alert())
    number = file.due(T0, 1)[0].number
    take(file, alert("a", "resolved"), now=1)
    (episode,) = file.due(T0 + SECOND_NS, 1)
    assert (episode.task, episode.state) == ("answer", "resolved")  # its first answer is still due
    answer(file, number, "firing", task="revise", due_ns=T0 + 10**12)
    assert file.due(T0 + SECOND_NS, 1)[0].task == "close"
    answer(file, number, "resolved")
    assert file.due(T0 + 10**15, 1) == ()


def test_a_group_that_nobody_tells_of_is_over(file: InboxFile) -> None:
    first = take(file, alert("a"))
    answer(file, file.due(T0, 1)[0].number)
    with file.writing():
        assert file.tidy(T0 + 3600 * SECOND_NS, silent_ns=7200 * SECOND_NS, keep_ns=10**18) == (0, 0)
        assert file.tidy(T0 + 7201 * SECOND_NS, silent_ns=7200 * SECOND_NS, keep_ns=10**18) == (1, 0)
    assert file.episode(first.incident_id or "").state == "resolved"
    second = take(file, alert("b", began=8000), now=8000)
    assert second.incident_id != first.incident_id


@pytest.mark.parametrize("status", ["firing", "resolved"])
def test_a_group_that_is_told_of_again_was_not_over(file: InboxFile, status: Status) -> None:
    first = take(file, alert("a"), alert("b"))
    number = file.due(T0, 1)[0].number
    answer(file, number)
    with file.writing():
        file.tidy(T0 + 10**13, silent_ns=10**12, keep_ns=10**18)
    assert file.episode(first.incident_id or "").state == "resolved"
    again = take(file, alert("a", status), alert("b", status), now=20_000)
    assert again.incident_id == first.incident_id
    assert file.episode(first.incident_id or "").state == status
    assert [episode.task for episode in file.due(T0 + 10**15, 9)] == ([] if status == "firing" else ["close"])


def test_what_the_sender_says_is_over_is_over_whatever_was_silenced(file: InboxFile) -> None:
    """Alertmanager leaves silenced and inhibited alerts out: nobody ever says that they end."""
    first = take(file, alert("a"), alert("b"))
    number = file.due(T0, 1)[0].number
    answer(file, number)
    take(file, alert("a", "resolved"), now=60)
    assert file.episode(first.incident_id or "").state == "firing", "of a notification that leaves some out"
    take(file, alert("a", "resolved"), now=61, over=True)
    assert file.episode(first.incident_id or "").state == "resolved"
    assert file.due(T0 + 10**12, 1)[0].task == "close"
    answer(file, number, "resolved")
    assert take(file, alert("b"), now=300).incident_id == first.incident_id, "it is not silenced any more, and never ended"
    (again,) = file.due(T0 + 10**12, 9)
    assert (again.state, again.task, again.closed_ns) == ("firing", "revise", None)
    answer(file, number, "firing")
    take(file, alert("b", "resolved"), now=400, over=True)
    assert [episode.task for episode in file.due(T0 + 10**12, 9)] == ["close"]
    answer(file, number, "resolved")
    take(file, alert("b", "resolved"), alert("a", "resolved"), now=401, over=True)
    assert file.due(T0 + 10**15, 9) == ()


def test_an_alert_that_its_sender_had_lost_sight_of_goes_on(file: InboxFile) -> None:
    """Alertmanager ends what Prometheus does not repeat; once they see each other again, the same alert fires."""
    first = take(file, alert("a"))
    number = file.due(T0, 1)[0].number
    answer(file, number)
    take(file, alert("a", "resolved"), now=240, over=True)
    answer(file, number, "resolved")
    assert take(file, alert("a"), now=500) == Receipt(0, 1, None), "this may be late news"
    assert take(file, alert("a"), now=841) == Receipt(1, 0, first.incident_id)
    found = file.episode(first.incident_id or "")
    assert (found.state, found.firing, found.alerts, found.task) == ("firing", 1, 1, "revise")
    answer(file, number, "firing")
    take(file, alert("a", "resolved"), now=900)
    found = file.episode(first.incident_id or "")
    assert (found.state, found.firing, found.alerts, found.task) == ("resolved", 0, 1, "close")


def test_an_end_that_was_told_before_the_alert_holds_for_a_while(file: InboxFile) -> None:
    take(file, alert("a", "resolved"))
    assert take(file, alert("a"), now=599).incident_id is None
    assert take(file, alert("a"), now=700).incident_id is not None


def test_an_incident_that_goes_on_while_its_end_is_told_says_so(file: InboxFile) -> None:
    take(file, alert("a"), alert("b"))
    number = file.due(T0, 1)[0].number
    answer(file, number)
    take(file, alert("a", "resolved"), now=1, over=True)
    assert file.due(T0 + 10**12, 1)[0].task == "close"
    take(file, alert("b"), now=2)
    answer(file, number, "resolved")  # which was being written meanwhile
    assert [(e.task, e.state) for e in file.due(T0 + 10**15, 9)] == [("revise", "firing")]


def test_old_incidents_are_forgotten_with_all_that_hangs_on_them(file: InboxFile) -> None:
    first = take(file, alert("a"))
    take(file, alert("x", "resolved"), key="other")
    answer(file, file.due(T0, 1)[0].number)
    take(file, alert("a", "resolved"), now=1)
    answer(file, file.due(T0 + 10**12, 1)[0].number, "resolved")
    with file.writing():
        assert file.tidy(T0 + 100 * SECOND_NS, silent_ns=10**18, keep_ns=10 * SECOND_NS) == (0, 1)
    with pytest.raises(UnknownName):
        file.episode(first.incident_id or "")
    with sqlite3.connect(file.path) as db:
        left = [
            db.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in ("groups", "alerts", "notices", "deliveries")
        ]
    assert left == [0, 0, 0, 0]


def test_incidents_are_found_by_words_and_pages(file: InboxFile) -> None:
    ids = [take(file, alert(name), key=name, now=i).incident_id for i, name in enumerate(("one", "two", "three"))]
    assert [e.incident_id for e in file.episodes()] == ids[::-1]
    assert [e.incident_id for e in file.episodes(words="TWO")] == [ids[1]]
    assert [e.incident_id for e in file.episodes(words="100%")] == []
    assert [e.incident_id for e in file.episodes(most=1, before=file.episodes()[1].number)] == [ids[0]]
    take(file, alert("one", "resolved"), key="one")
    assert [e.incident_id for e in file.episodes(state="resolved")] == [ids[0]]


EVENTS = st.lists(
    st.tuples(
        st.sampled_from("gh"),
        st.sampled_from("abc"),
        st.sampled_from(["firing", "resolved", "over"]),
        st.sampled_from([0, 100]),
        st.sampled_from([1, 1000]),
    ),
    max_size=25,
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(EVENTS)
def test_counts_are_those_of_the_alerts(tmp_path_factory: pytest.TempPathFactory, events: list[Any]) -> None:
    """Whatever arrives in whatever order: an incident has as many firing alerts as it says, and an open one has some."""
    found = InboxFile(tmp_path_factory.mktemp("inbox"))
    found._db.execute("PRAGMA synchronous = OFF")  # nothing is lost here, and thousands of waits for the disk are saved
    now = 0
    try:
        for key, name, told, began, later in events:
            now += later
            status: Status = "firing" if told == "firing" else "resolved"
            take(found, alert(name, status, began), key=key, now=now, over=told == "over")
            take(found, alert(name, status, began), key=key, now=now, over=told == "over")
        over = {key for key, _, told, *_ in events if told == "over"}
        for episode in found.episodes():
            alerts = found.alerts(episode.number, 100)
            firing = [each for each in alerts if each.status == "firing"]
            assert (episode.firing, episode.alerts) == (len(firing), len(alerts))
            assert episode.state == "resolved" or firing
            assert episode.state == "firing" or not firing or episode.group_key in over
            assert len({each.fingerprint for each in firing}) == len(firing)
        opened = [episode.group_key for episode in found.episodes(state="firing")]
        assert len(set(opened)) == len(opened)
    finally:
        found.close()


# --- the writer ------------------------------------------------------------------------------------------------------


def test_one_home_serves_one_server(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path, "shop")
    with pytest.raises(BadInput, match="no other `rca serve`"):
        Inbox(tmp_path, "shop")
    inbox.close()
    Inbox(tmp_path, "shop").close()


def test_a_burst_is_stored_and_a_mistake_of_one_is_its_own(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path, "shop")
    limits = ServeLimits()
    futures = [inbox.take(group_of(body(group=f"g{i}"), limits)) for i in range(300)]

    def wrong(_file: InboxFile) -> None:
        raise ZeroDivisionError

    broken = inbox.submit(wrong)
    futures += [inbox.take(group_of(body(group=f"h{i}"), limits)) for i in range(300)]
    assert all(future.result(20).news == 1 for future in futures)
    assert isinstance(broken.exception(20), ZeroDivisionError)
    with inbox.reading() as file:
        assert len(file.episodes(most=1000)) == 600
    inbox.close()
    with pytest.raises(Unavailable):
        inbox.take(group_of(body(), limits)).result()


def test_ten_thousand_alerts_at_once(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path, "shop")
    group = group_of(body(alerts=10_000), ServeLimits())
    assert inbox.take(group).result(60).news == 10_000
    assert inbox.take(group).result(60) == Receipt(0, 10_000, inbox.take(group).result(60).incident_id)
    inbox.close()


def test_a_sender_that_goes_away_takes_nothing_along(tmp_path: Path) -> None:
    """A request that is cancelled, as those that are under way when the server ends, must not end who writes."""
    inbox = Inbox(tmp_path, "shop")

    async def gone() -> None:
        wait = asyncio.wrap_future(inbox.take(group_of(body(), ServeLimits())))
        wait.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wait

    asyncio.run(gone())
    assert inbox.take(group_of(body(), ServeLimits())).result(20) == Receipt(
        0, 1, inbox.take(group_of(body(), ServeLimits())).result(20).incident_id
    )
    inbox.close()


def test_who_waits_is_counted_anew_once_nothing_more_comes(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path, "shop")
    receipt = inbox.take(group_of(body(), ServeLimits())).result(20)
    until(lambda: inbox.waiting_groups == 1)

    def answered(file: InboxFile) -> None:
        number = file.episode(receipt.incident_id or "").number
        file.answered(number, 1, "firing", "{}", "{}", ["slack"], T0, task=None, due_ns=None)

    inbox.write(answered)  # just counted: this does not count again
    until(lambda: inbox.waiting_groups == 0)
    with inbox.reading() as file:
        assert (file.waiting_for(["slack", "page"]), file.waiting_for(["page"]), file.waiting_for([])) == (1, 0, 0)
    inbox.close()


def test_a_full_disk_is_said_and_nothing_is_lost(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path, "shop")
    limits = ServeLimits()
    kept = inbox.take(group_of(body(group="before"), limits)).result(20)
    with sqlite3.connect(tmp_path / INBOX_FILE) as db:
        pages = db.execute("PRAGMA page_count").fetchone()[0]
    inbox.write(lambda file: file._db.execute(f"PRAGMA max_page_count = {pages}").fetchone())
    futures = [inbox.take(group_of(body(group=f"g{i}", alerts=20), limits)) for i in range(50)]
    assert isinstance(futures[-1].exception(20), StorageFull)
    assert "full" in inbox.trouble
    inbox.write(lambda file: file._db.execute("PRAGMA max_page_count = 1000000").fetchone())
    assert inbox.take(group_of(body(group="after"), limits)).result(20).news == 1
    assert inbox.trouble == ""
    with inbox.reading() as file:
        assert file.episode(kept.incident_id or "").alerts == 1
    inbox.close()


_WRITER = """
import sys
from pathlib import Path
from rca.serve.config import ServeLimits
from rca.serve.inbox import Inbox
from rca.serve.payload import group_of
from tests.serving import body, until
inbox = Inbox(Path(sys.argv[1]), "shop")
for i in range(100_000):
    future = inbox.take(group_of(body(group=f"g{i}"), ServeLimits()))
    future.result()
    print(i, flush=True)
"""


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(20)]
        time.sleep(0.05)
        process.kill()
        said += process.stdout.readlines()
    acknowledged = [int(line) for line in said if line.endswith("\n")]
    with InboxFileOf(tmp_path) as file:
        found = {episode.group_key for episode in file.episodes(most=10**6)}
    assert {f'{{}}:{{alertname="g{i}"}}' for i in acknowledged} <= found
    assert len(found) <= len(acknowledged) + 1


class InboxFileOf:
    """An inbox to look into."""

    def __init__(self, home: Path) -> None:
        self._file = InboxFile(home)

    def __enter__(self) -> InboxFile:
        return self._file

    def __exit__(self, *error: object) -> None:
        self._file.close()


def test_a_newer_inbox_is_refused(tmp_path: Path) -> None:
    InboxFile(tmp_path).close()
    with sqlite3.connect(tmp_path / INBOX_FILE) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(BadInput, match="schema version"):
        InboxFile(tmp_path)
