"""Alerts that were received and what was answered: the durable queue of `rca serve`, in an SQLite file beside the store's.

The file is one of its own, because the store holds its lock while it writes a bundle, and an alert must not wait for that. A
*group* is what Alertmanager groups by; an *episode* is one time that a group fires, from its first alert until all are resolved.
An episode is an incident, and the id that it gets stays. Nothing here is kept in memory: what a transaction wrote survives
kill -9, and what was not done is found again by `due` and `deliveries_due`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from rca.errors import UnknownName
from rca.incidents.database import Database, explained
from rca.incidents.incident import Incident, IntervalModel
from rca.telemetry import SECOND_NS

INBOX_FILE: Final = "inbox.sqlite3"
BUSY_SECONDS: Final = 30.0
_LATE_NS: Final = 600 * SECOND_NS
"""An alert that fires may be told of so long after its end was, and is late news: twice as long as Alertmanager keeps trying."""
_FORGOTTEN: Final = 500
"""Rows that are forgotten at a time."""

Status = Literal["firing", "resolved"]
Task = Literal["answer", "revise", "close"]
"""What an episode waits for: its first answer, a second look, or the message that it is over."""
DeliveryState = Literal["waiting", "sent", "given up"]

MIGRATIONS: Final[list[tuple[str, ...]]] = [
    (
        """CREATE TABLE groups (
             id INTEGER PRIMARY KEY,
             key TEXT NOT NULL UNIQUE,
             episode INTEGER) STRICT    -- the one that is open""",
        """CREATE TABLE episodes (
             number INTEGER PRIMARY KEY AUTOINCREMENT,
             incident_id TEXT NOT NULL UNIQUE,
             group_id INTEGER NOT NULL REFERENCES groups (id),
             opened_ns INTEGER NOT NULL,
             heard_ns INTEGER NOT NULL,
             closed_ns INTEGER,
             firing INTEGER NOT NULL,   -- alerts that still fire
             alerts INTEGER NOT NULL,
             truncated INTEGER NOT NULL,
             about TEXT NOT NULL,       -- JSON: receiver, labels, annotations, link
             title TEXT NOT NULL,
             task TEXT,
             due_ns INTEGER,
             revision INTEGER NOT NULL,
             bundle TEXT) STRICT        -- id in the store under which its telemetry is""",
        "CREATE INDEX episodes_due ON episodes (due_ns) WHERE task IS NOT NULL",
        "CREATE INDEX episodes_open ON episodes (heard_ns) WHERE closed_ns IS NULL",
        "CREATE INDEX episodes_closed ON episodes (closed_ns)",
        "CREATE INDEX episodes_of_group ON episodes (group_id)",
        """CREATE TABLE alerts (
             group_id INTEGER NOT NULL REFERENCES groups (id),
             fingerprint TEXT NOT NULL,
             starts_ns INTEGER NOT NULL,
             episode INTEGER REFERENCES episodes (number) ON DELETE CASCADE, -- none: resolved before anybody heard of it
             status TEXT NOT NULL,
             ends_ns INTEGER,
             received_ns INTEGER NOT NULL,
             body TEXT NOT NULL,        -- JSON: labels, annotations, links
             PRIMARY KEY (group_id, fingerprint, starts_ns)) STRICT""",
        "CREATE INDEX alerts_of_episode ON alerts (episode, starts_ns)",
        """CREATE TABLE notices (
             episode INTEGER NOT NULL REFERENCES episodes (number) ON DELETE CASCADE,
             revision INTEGER NOT NULL,
             at_ns INTEGER NOT NULL,
             state TEXT NOT NULL,
             gist TEXT NOT NULL,        -- JSON: what lists show of it
             body TEXT NOT NULL,        -- JSON of the notice
             PRIMARY KEY (episode, revision)) STRICT""",
        """CREATE TABLE deliveries (
             episode INTEGER NOT NULL REFERENCES episodes (number) ON DELETE CASCADE,
             revision INTEGER NOT NULL,
             sink TEXT NOT NULL,
             state TEXT NOT NULL,
             tries INTEGER NOT NULL,
             due_ns INTEGER NOT NULL,
             sent_ns INTEGER,
             reference TEXT,
             trouble TEXT NOT NULL,
             made_ns INTEGER NOT NULL,
             PRIMARY KEY (episode, revision, sink)) STRICT""",
        "CREATE INDEX deliveries_due ON deliveries (sink, due_ns) WHERE state = 'waiting'",
    ),
    (
        """CREATE TABLE shadows (
             episode INTEGER NOT NULL REFERENCES episodes (number) ON DELETE CASCADE,
             version TEXT NOT NULL,
             at_ns INTEGER NOT NULL,
             body TEXT NOT NULL,        -- JSON: what was told, and what the version in shadow said of the same question
             PRIMARY KEY (episode, version)) STRICT""",
    ),
]


@dataclass(frozen=True)
class GroupAlert:
    """One alert as it arrived. `ends_ns` is None while it fires. `links` are (words, address)."""

    fingerprint: str
    status: Status
    starts_ns: int
    ends_ns: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    links: tuple[tuple[str, str], ...] = ()

    @property
    def key(self) -> tuple[str, int]:
        """What tells one alert of a group from another; its status changes."""
        return self.fingerprint, self.starts_ns


@dataclass(frozen=True)
class AlertGroup:
    """One notification: alerts of one group, of which the sender left `truncated` out.

    `over` where the sender says that nothing of the group fires: what is not among the alerts has been silenced or inhibited.
    """

    key: str
    receiver: str
    alerts: tuple[GroupAlert, ...]
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    link: str = ""
    truncated: int = 0
    over: bool = False


@dataclass(frozen=True)
class Receipt:
    """What became of a notification: alerts or changes that were news, those that were known, and the incident they belong to."""

    news: int
    known: int
    incident_id: str | None


@dataclass(frozen=True)
class Episode:
    """One time that a group fires. `bundle` is the id in the store under which its telemetry is, None where there is none."""

    number: int
    incident_id: str
    group_key: str
    opened_ns: int
    heard_ns: int
    closed_ns: int | None
    firing: int
    alerts: int
    truncated: int
    about: Mapping[str, Any]
    title: str
    task: Task | None
    due_ns: int | None
    revision: int
    bundle: str | None

    @property
    def state(self) -> Status:
        return "firing" if self.closed_ns is None else "resolved"

    def incident(self, stored: Incident | None) -> Incident:
        """The incident as the store has it, under the id of this episode; a bare one where it has none."""
        if stored is not None:
            return stored.model_copy(update={"id": self.incident_id, "title": self.title})
        end_ns = max(self.closed_ns or self.heard_ns, self.opened_ns + SECOND_NS)
        window = IntervalModel(start_ns=self.opened_ns, end_ns=end_ns)
        return Incident(id=self.incident_id, system="", window=window, title=self.title, detected_ns=self.opened_ns)


@dataclass(frozen=True)
class StoredNotice:
    """One answer that was made. `gist` is what lists show of it (JSON); `body` is the notice as JSON text, empty in lists."""

    incident_id: str
    revision: int
    at_ns: int
    state: Status
    gist: Mapping[str, Any]
    body: str = ""


@dataclass(frozen=True)
class Delivery:
    """One answer to one sink. `reference` is what the sink said of the message."""

    episode: int
    incident_id: str
    revision: int
    sink: str
    state: DeliveryState
    tries: int
    due_ns: int
    sent_ns: int | None
    reference: str | None
    trouble: str
    made_ns: int


_NOTICE: Final = """SELECT incident_id, n.revision, at_ns, state, gist, number
    FROM notices n JOIN episodes ON number = n.episode"""
JOINED_NS: Final = 10 * SECOND_NS
"""How long after alerts joined an episode to look at it again: alerts come in flocks."""
_SAID_OVER: Final = """EXISTS (SELECT 1 FROM notices
    WHERE notices.episode = number AND notices.revision = episodes.revision AND notices.state = 'resolved')"""
"""Whether the last answer to an episode says that it is over."""
_EPISODE: Final = """SELECT number, incident_id, key, opened_ns, heard_ns, closed_ns, firing, alerts, truncated, about, title,
    task, due_ns, revision, bundle FROM episodes JOIN groups ON groups.id = group_id"""
_DELIVERY: Final = """SELECT d.episode, incident_id, d.revision, sink, state, tries, d.due_ns, sent_ns, reference, trouble,
    made_ns FROM deliveries d JOIN episodes ON number = d.episode"""


@dataclass(frozen=True)
class _Standing:
    """How an alert stands: its status, its episode, and when that was told."""

    status: Status
    episode: int | None
    told_ns: int


_Known = Mapping[tuple[str, int], _Standing]


class InboxFile:
    """One connection to the inbox of a home; it belongs to one thread, unless `shared` by such as take turns.

    Methods that change something belong inside `writing`.

    Raises as the store does: StorageFull, Unavailable, BadInput.
    """

    def __init__(self, home: Path, *, shared: bool = False) -> None:
        self.path = home / INBOX_FILE
        with self._explained():
            home.mkdir(parents=True, exist_ok=True)
            self._database = Database(self.path, MIGRATIONS, BUSY_SECONDS, shared=shared)
            self._db = self._database.connection
            # Whoever commits would pay for the copy into the main file; `checkpoint` does it from another thread.
            self._db.execute("PRAGMA wal_autocheckpoint = 0")

    def close(self) -> None:
        self._database.close()

    def _explained(self) -> AbstractContextManager[None]:
        return explained(self.path, "an inbox of alerts", BUSY_SECONDS)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One transaction, on the disk when it ends."""
        with self._explained(), self._database.writing():
            yield

    def checkpoint(self) -> None:
        """Copy what was committed into the main file, as far as nobody is in the way."""
        with self._explained():
            self._db.execute("PRAGMA wal_checkpoint(PASSIVE)")

    # --- alerts in ----------------------------------------------------------------------------------------------

    def take(self, group: AlertGroup, now_ns: int, system: str) -> Receipt:
        """Store what is new of a notification. Doing it again changes nothing but when the group was heard of last.

        An alert that is resolved stays so if late news of it arrive; if it still fires long after, its episode goes on. One that
        fires anew has ended before. When the last one has ended, or the sender says so, the episode is over; the next that fires
        opens another one.
        """
        group_id, number = self._group(group.key)
        known = self._known(group_id, group.alerts)
        latest = {alert.key: alert for alert in _resolved_last(group.alerts)}
        news = {key: alert for key, alert in latest.items() if _is_news(alert, known.get(key), now_ns)}
        begins: dict[str, list[int]] = {}
        for alert in news.values():
            begins.setdefault(alert.fingerprint, []).append(alert.starts_ns)
        told = [self._as_it_stands(group_id, alert, begins[alert.fingerprint]) for alert in news.values()]
        resolved = [alert for alert in told if alert.status == "resolved"]
        firing = [alert for alert in told if alert.status == "firing"]
        number = self._reopened(group_id, known, firing, now_ns) if number is None else number
        self._end(group_id, number, resolved, known, now_ns)
        self._supersede(group_id, number, firing)
        goes_on = any(alert.key in known for alert in firing)
        if number is not None and not goes_on and (group.over or self._firing(number) == 0):
            self._close(group_id, number, now_ns)
            number = number if not firing else None
        if firing:
            number = self._fire(group, group_id, number, firing, known, now_ns, system)
        if number is None:
            return Receipt(len(news), len(group.alerts) - len(news), None)
        self._db.execute(
            "UPDATE episodes SET heard_ns = ?, truncated = max(truncated, ?) WHERE number = ?",
            (now_ns, group.truncated, number),
        )
        row = self._db.execute("SELECT incident_id FROM episodes WHERE number = ?", (number,)).fetchone()
        return Receipt(len(news), len(group.alerts) - len(news), row[0])

    def _group(self, key: str) -> tuple[int, int | None]:
        """The group's id, and the number of its open episode."""
        row = self._db.execute("SELECT id, episode FROM groups WHERE key = ?", (key,)).fetchone()
        if row is None:
            made = self._db.execute("INSERT INTO groups (key) VALUES (?)", (key,))
            return int(made.lastrowid or 0), None
        return row[0], row[1]

    def _known(self, group_id: int, alerts: Sequence[GroupAlert]) -> _Known:
        """How those alerts stand that are known."""
        query = "SELECT status, episode, received_ns FROM alerts WHERE group_id = ? AND fingerprint = ? AND starts_ns = ?"
        found = {alert.key: self._db.execute(query, (group_id, *alert.key)).fetchone() for alert in alerts}
        return {key: _Standing(*row) for key, row in found.items() if row is not None}

    def _reopened(self, group_id: int, known: _Known, firing: Sequence[GroupAlert], now_ns: int) -> int | None:
        """The episode of alerts that are heard of again, though it was taken for over: nobody told of it (`tidy`), all but the
        silenced ones had ended, or the sender had lost sight of them."""
        again = [standing for standing in known.values() if standing.status == "firing"]
        again += [known[alert.key] for alert in firing if alert.key in known]
        number = max((standing.episode for standing in again if standing.episode is not None), default=None)
        if number is not None:
            to_say = f"{_SAID_OVER} OR task = 'close'"
            self._db.execute(
                f"""UPDATE episodes SET closed_ns = NULL, task = CASE WHEN {to_say} THEN 'revise' ELSE task END,
                    due_ns = CASE WHEN {to_say} THEN ? ELSE due_ns END WHERE number = ?""",
                (now_ns, number),
            )
            self._db.execute("UPDATE groups SET episode = ? WHERE id = ?", (number, group_id))
        return number

    def _as_it_stands(self, group_id: int, alert: GroupAlert, begins: Sequence[int]) -> GroupAlert:
        """The alert; over, if it is late news of one that has begun anew since. `begins` are the times told of just now."""
        if alert.status == "resolved":
            return alert
        query = "SELECT min(starts_ns) FROM alerts WHERE group_id = ? AND fingerprint = ? AND starts_ns > ?"
        known = self._db.execute(query, (group_id, *alert.key)).fetchone()[0]
        later = [starts_ns for starts_ns in begins if starts_ns > alert.starts_ns]
        again = min([*later, *([known] if known is not None else [])], default=None)
        return alert if again is None else replace(alert, status="resolved", ends_ns=again)

    def _end(self, group_id: int, number: int | None, resolved: Sequence[GroupAlert], known: _Known, now_ns: int) -> None:
        """Store alerts that are resolved; those that nobody heard of before belong to the episode that is open."""
        self._db.executemany(
            """INSERT INTO alerts VALUES (?1, ?2, ?3, ?4, 'resolved', ?5, ?6, ?7)
               ON CONFLICT DO UPDATE SET status = 'resolved', ends_ns = ?5, received_ns = ?6""",
            [(group_id, *alert.key, number, alert.ends_ns or now_ns, now_ns, _body(alert)) for alert in resolved],
        )
        standing = [known[alert.key] for alert in resolved if alert.key in known]
        for episode, ended in Counter(each.episode for each in standing if each.status == "firing").items():
            self._count(episode, firing=-ended, alerts=0)
        self._count(number, firing=0, alerts=len(resolved) - len(standing))

    def _supersede(self, group_id: int, number: int | None, firing: Sequence[GroupAlert]) -> None:
        """End alerts that fire anew, for nobody said that they had ended."""
        query = """UPDATE alerts SET status = 'resolved', ends_ns = ?1
                   WHERE group_id = ?2 AND fingerprint = ?3 AND starts_ns < ?1 AND status = 'firing' AND episode = ?4"""
        rows = [(alert.starts_ns, group_id, alert.fingerprint, number) for alert in firing if number is not None]
        self._count(number, firing=-sum(self._db.execute(query, row).rowcount for row in rows), alerts=0)

    def _count(self, number: int | None, *, firing: int, alerts: int) -> None:
        """Add to the counts of an episode."""
        if number is not None and (firing or alerts):
            query = "UPDATE episodes SET firing = firing + ?, alerts = alerts + ? WHERE number = ?"
            self._db.execute(query, (firing, alerts, number))

    def _firing(self, number: int) -> int:
        return int(self._db.execute("SELECT firing FROM episodes WHERE number = ?", (number,)).fetchone()[0])

    def _close(self, group_id: int, number: int, now_ns: int) -> None:
        """The episode is over. One that waits for its first answer still gets it; of one that was said to be, nothing is said."""
        self._db.execute(
            f"""UPDATE episodes SET closed_ns = ?1,
                  task = CASE WHEN task = 'answer' THEN task WHEN {_SAID_OVER} THEN NULL ELSE 'close' END,
                  due_ns = CASE task WHEN 'answer' THEN due_ns ELSE ?1 END WHERE number = ?2""",
            (now_ns, number),
        )
        self._db.execute("UPDATE groups SET episode = NULL WHERE id = ?", (group_id,))

    def _fire(
        self, group: AlertGroup, group_id: int, number: int | None, firing: Sequence[GroupAlert], known: _Known, now_ns: int,
        system: str,
    ) -> int:  # fmt: skip
        """Add alerts that fire to the episode, which is opened if there is none; its number."""
        if number is None:
            about = {"receiver": group.receiver, "labels": group.labels, "annotations": group.annotations, "link": group.link}
            first = min(firing, key=lambda alert: alert.starts_ns)
            made = self._db.execute(
                """INSERT INTO episodes (incident_id, group_id, opened_ns, heard_ns, firing, alerts, truncated, about, title,
                   task, due_ns, revision) VALUES (?, ?, ?, ?, 0, 0, 0, ?, ?, 'answer', ?, 0)""",
                (_incident_id(system, group.key, first), group_id, now_ns, now_ns, json.dumps(about), _title(first), now_ns),
            )
            number = int(made.lastrowid or 0)
            self._db.execute("UPDATE groups SET episode = ? WHERE id = ?", (number, group_id))
        self._db.executemany(
            """INSERT INTO alerts VALUES (?1, ?2, ?3, ?4, 'firing', NULL, ?5, ?6)
               ON CONFLICT DO UPDATE SET status = 'firing', ends_ns = NULL, episode = ?4, received_ns = ?5""",
            [(group_id, *alert.key, number, now_ns, _body(alert)) for alert in firing],
        )
        for episode, moved in Counter(known[alert.key].episode for alert in firing if alert.key in known).items():
            self._count(episode, firing=0, alerts=-moved)
        self._count(number, firing=len(firing), alerts=len(firing))
        self.look_again(number, now_ns + JOINED_NS)
        return number

    # --- work ---------------------------------------------------------------------------------------------------

    def due(self, now_ns: int, most: int) -> tuple[Episode, ...]:
        """Episodes that something is to be done about by now: first answers, then ends, then second looks, the oldest first."""
        order = "CASE task WHEN 'answer' THEN 0 WHEN 'close' THEN 1 ELSE 2 END, due_ns, number"
        query = f"{_EPISODE} WHERE task IS NOT NULL AND due_ns <= ? ORDER BY {order} LIMIT ?"
        return self._episodes(query, (now_ns, most))

    def next_due_ns(self) -> int | None:
        """When something is to be done about an episode next; None if nothing is."""
        with self._explained():
            found: int | None = self._db.execute("SELECT min(due_ns) FROM episodes WHERE task IS NOT NULL").fetchone()[0]
        return found

    def next_delivery_ns(self, sink: str) -> int | None:
        """When a delivery to a sink is to be tried next; None if none waits."""
        query = "SELECT min(due_ns) FROM deliveries WHERE state = 'waiting' AND sink = ?"
        with self._explained():
            found: int | None = self._db.execute(query, (sink,)).fetchone()[0]
        return found

    def waiting(self) -> int:
        """Episodes that wait for their first answer."""
        with self._explained():
            return int(self._db.execute("SELECT count(*) FROM episodes WHERE task = 'answer'").fetchone()[0])

    def waiting_for(self, sinks: Sequence[str]) -> int:
        """Deliveries that wait for one of these sinks; those for others wait until there is such a sink again."""
        query = "SELECT count(*) FROM deliveries WHERE state = 'waiting' AND sink IN (SELECT value FROM json_each(?))"
        with self._explained():
            return int(self._db.execute(query, (json.dumps(list(sinks)),)).fetchone()[0])

    def answered(
        self, number: int, revision: int, state: Status, gist: str, body: str, sinks: Sequence[str], now_ns: int, *,
        task: Task | None, due_ns: int | None,
    ) -> None:  # fmt: skip
        """Store an answer with a delivery to every sink, and what the episode waits for next."""
        self._db.execute("INSERT INTO notices VALUES (?, ?, ?, ?, ?, ?)", (number, revision, now_ns, state, gist, body))
        self._db.executemany(
            "INSERT INTO deliveries VALUES (?1, ?2, ?3, 'waiting', 0, ?4, NULL, NULL, '', ?4)",
            [(number, revision, sink, now_ns) for sink in sinks],
        )
        self._db.execute("UPDATE episodes SET revision = ? WHERE number = ?", (revision, number))
        self.looked_at(number, now_ns, task=task, due_ns=due_ns)

    def looked_at(self, number: int, now_ns: int, *, task: Task | None, due_ns: int | None) -> None:
        """Nothing new was found: what the episode waits for next. One that closed or went on since waits to have that said."""
        self._db.execute(
            f"""UPDATE episodes SET
                  task = CASE WHEN (closed_ns IS NOT NULL) = {_SAID_OVER} THEN iif(closed_ns IS NULL, ?1, NULL)
                              ELSE iif(closed_ns IS NULL, 'revise', 'close') END,
                  due_ns = CASE WHEN closed_ns IS NULL AND NOT {_SAID_OVER} THEN ?2 ELSE ?3 END
                WHERE number = ?4""",
            (task, due_ns, now_ns, number),
        )

    def look_again(self, number: int, due_ns: int, *, seen: int = 0) -> None:
        """Have an episode that goes on looked at again where nothing else is to be done and more than `seen` alerts joined it."""
        self._db.execute(
            """UPDATE episodes SET task = 'revise', due_ns = ?
               WHERE number = ? AND task IS NULL AND closed_ns IS NULL AND alerts > ?""",
            (due_ns, number, seen),
        )

    def keeps(self, number: int, bundle: str) -> None:
        """The telemetry of an episode is in the store, under that id."""
        self._db.execute("UPDATE episodes SET bundle = ? WHERE number = ?", (bundle, number))

    def put_off(self, number: int, due_ns: int) -> None:
        """Look at an episode later."""
        self._db.execute("UPDATE episodes SET due_ns = ? WHERE number = ?", (due_ns, number))

    def shadowed(self, number: int, version: str, at_ns: int, body: str) -> None:
        """Keep what a version in shadow said last of an episode, beside what was told."""
        self._db.execute("INSERT OR REPLACE INTO shadows VALUES (?, ?, ?, ?)", (number, version, at_ns, body))

    def deliveries_due(self, sink: str, now_ns: int, most: int) -> tuple[Delivery, ...]:
        """Deliveries to a sink to try by now; of one incident the oldest revision alone, so that their order holds."""
        query = f"""{_DELIVERY} WHERE state = 'waiting' AND sink = ? AND d.due_ns <= ? AND NOT EXISTS (
                      SELECT 1 FROM deliveries e WHERE e.episode = d.episode AND e.sink = d.sink AND e.revision < d.revision
                        AND e.state = 'waiting') ORDER BY d.due_ns, d.episode LIMIT ?"""
        with self._explained():
            return tuple(Delivery(*row) for row in self._db.execute(query, (sink, now_ns, most)))

    def reference(self, number: int, sink: str) -> str | None:
        """What the sink said of the message that it took last for this incident."""
        query = """SELECT reference FROM deliveries WHERE episode = ? AND sink = ? AND state = 'sent' AND reference IS NOT NULL
                   ORDER BY revision DESC LIMIT 1"""
        with self._explained():
            row = self._db.execute(query, (number, sink)).fetchone()
        return row[0] if row else None

    def delivered(self, delivery: Delivery, now_ns: int, reference: str | None, trouble: str = "") -> None:
        """The sink took it; `trouble` says what it had to leave out."""
        self._after(delivery, "sent", now_ns, now_ns, reference, trouble)

    def failed(self, delivery: Delivery, trouble: str, due_ns: int | None) -> None:
        """The sink did not take it: try again then, or give it up."""
        self._after(delivery, "waiting" if due_ns else "given up", due_ns or delivery.due_ns, None, None, trouble)

    def _after(
        self, delivery: Delivery, state: DeliveryState, due_ns: int, sent_ns: int | None, reference: str | None, trouble: str
    ) -> None:
        self._db.execute(
            """UPDATE deliveries SET state = ?, tries = tries + 1, due_ns = ?, sent_ns = ?, reference = ?, trouble = ?
               WHERE episode = ? AND revision = ? AND sink = ?""",
            (state, due_ns, sent_ns, reference, trouble, delivery.episode, delivery.revision, delivery.sink),
        )

    def tidy(self, now_ns: int, *, silent_ns: int, keep_ns: int) -> tuple[int, int]:
        """Close episodes whose group nobody told of for so long, forget some that closed so long ago; how many of each."""
        silent = self._db.execute(
            "UPDATE episodes SET closed_ns = ?1, task = CASE task WHEN 'answer' THEN task END "
            "WHERE closed_ns IS NULL AND heard_ns < ?2",
            (now_ns, now_ns - silent_ns),
        ).rowcount
        if silent:
            self._db.execute(
                "UPDATE groups SET episode = NULL WHERE episode IN (SELECT number FROM episodes WHERE closed_ns = ?)", (now_ns,)
            )
        before = now_ns - keep_ns
        old = self._forget("episodes", "number", "closed_ns < ? AND task IS NULL", before)
        old_alerts = self._forget("alerts", "rowid", "episode IS NULL AND received_ns < ?", before)
        if not old and not old_alerts:
            return silent, 0
        bare = "NOT EXISTS (SELECT 1 FROM {} WHERE group_id = groups.id)"
        self._forget("groups", "id", f"episode IS NULL AND {bare.format('episodes')} AND {bare.format('alerts')}")
        return silent, old

    def _forget(self, table: str, key: str, which: str, *values: int) -> int:
        """Delete some rows, not so many that an alert would have to wait for it; how many."""
        query = f"DELETE FROM {table} WHERE {key} IN (SELECT {key} FROM {table} WHERE {which} LIMIT {_FORGOTTEN})"
        return self._db.execute(query, values).rowcount

    # --- reading ------------------------------------------------------------------------------------------------

    def episodes(
        self, *, state: Status | None = None, words: str = "", before: int | None = None, most: int = 50
    ) -> tuple[Episode, ...]:
        """Episodes, newest first, whose title, id or group key holds the words, with numbers below `before`."""
        query = f"""{_EPISODE} WHERE (?1 IS NULL OR (closed_ns IS NULL) = (?1 = 'firing'))
            AND (?2 = '' OR instr(lower(title || ' ' || incident_id || ' ' || key), lower(?2)))
            AND (?3 IS NULL OR number < ?3) ORDER BY number DESC LIMIT ?4"""
        return self._episodes(query, (state, words, before, most))

    def episode(self, incident_id: str) -> Episode:
        """The episode of an incident. Raises UnknownName."""
        found = self._episodes(f"{_EPISODE} WHERE incident_id = ?", (incident_id,))
        if not found:
            known = [row[0] for row in self._db.execute("SELECT incident_id FROM episodes ORDER BY number DESC LIMIT 1000")]
            raise UnknownName("incidents that were received", incident_id, known)
        return found[0]

    def _episodes(self, query: str, values: tuple[Any, ...]) -> tuple[Episode, ...]:
        with self._explained():
            return tuple(_episode(row) for row in self._db.execute(query, values))

    def alerts(self, number: int, most: int) -> tuple[GroupAlert, ...]:
        """The alerts of an episode, those that fire before those that are resolved, oldest first."""
        query = """SELECT fingerprint, status, starts_ns, ends_ns, body FROM alerts WHERE episode = ?
                   ORDER BY status, starts_ns, fingerprint LIMIT ?"""
        with self._explained():
            return tuple(_alert(row) for row in self._db.execute(query, (number, most)))

    def notices(self, number: int) -> tuple[StoredNotice, ...]:
        """The answers to an episode in order, without their bodies."""
        with self._explained():
            rows = self._db.execute(f"{_NOTICE} WHERE n.episode = ? ORDER BY n.revision", (number,))
            return tuple(_notice(row) for row in rows)

    def latest_notices(self, *, before: int | None = None, most: int = 50) -> tuple[tuple[int, StoredNotice], ...]:
        """The last answer to every episode that has one, without its body, newest episode first, with the episode's number."""
        query = f"""{_NOTICE} WHERE n.revision = episodes.revision AND (?1 IS NULL OR number < ?1)
                    ORDER BY number DESC LIMIT ?2"""
        with self._explained():
            return tuple((row[-1], _notice(row)) for row in self._db.execute(query, (before, most)))

    def last_answers(self) -> Iterator[tuple[str, StoredNotice]]:
        """The last answer to every episode whose telemetry is in the store, oldest episode first, with its body, and the
        telemetry's id in the store."""
        query = f"""{_NOTICE.replace("gist, number", "gist, body, bundle")}
                    WHERE n.revision = episodes.revision AND bundle IS NOT NULL ORDER BY number"""
        with self._explained():
            for row in self._db.execute(query):
                yield row[6], replace(_notice(row), body=row[5])

    def answers_since(self, since_ns: int) -> Iterator[tuple[str, StoredNotice]]:
        """The last answer to every such episode that was given after a moment, without its body, and the telemetry's id in the
        store."""
        query = f"""{_NOTICE.replace("gist, number", "gist, bundle")}
                    WHERE n.revision = episodes.revision AND bundle IS NOT NULL AND at_ns > ? ORDER BY number"""
        with self._explained():
            for row in self._db.execute(query, (since_ns,)):
                yield row[5], _notice(row)

    def shadows(self, version: str | None = None) -> Iterator[tuple[str, str, int, Any]]:
        """What versions in shadow said, oldest episode first: the telemetry's id in the store (else the incident's), the version,
        when, and the JSON that was kept."""
        query = """SELECT coalesce(bundle, incident_id), version, at_ns, body FROM shadows JOIN episodes ON number = episode
                   WHERE ?1 IS NULL OR version = ?1 ORDER BY number"""
        with self._explained():
            for row in self._db.execute(query, (version,)):
                yield row[0], row[1], row[2], json.loads(row[3])

    def notice(self, number: int, revision: int) -> StoredNotice:
        """One answer with its body. Raises UnknownName."""
        query = f"{_NOTICE.replace('gist, number', 'gist, body, number')} WHERE n.episode = ? AND n.revision = ?"
        with self._explained():
            row = self._db.execute(query, (number, revision)).fetchone()
        if row is None:
            known = [str(notice.revision) for notice in self.notices(number)]
            raise UnknownName("revisions of this incident", str(revision), known)
        return replace(_notice(row), body=row[5])

    def deliveries(self, number: int) -> tuple[Delivery, ...]:
        """Every delivery of an episode, by revision and sink."""
        with self._explained():
            rows = self._db.execute(f"{_DELIVERY} WHERE d.episode = ? ORDER BY d.revision, sink", (number,))
            return tuple(Delivery(*row) for row in rows)

    def ready(self) -> None:
        """Raises if the file cannot be read."""
        with self._explained():
            self._db.execute("SELECT 1 FROM groups LIMIT 1").fetchone()


def _resolved_last(alerts: Sequence[GroupAlert]) -> list[GroupAlert]:
    """Of an alert that is named twice, the news that it is resolved counts."""
    return sorted(alerts, key=lambda alert: alert.status == "resolved")


def _is_news(alert: GroupAlert, known: _Standing | None, now_ns: int) -> bool:
    """Whether it is heard of for the first time, has ended, or fires although it was said to have ended long ago."""
    if known is None or alert.status == known.status:
        return known is None
    return alert.status == "resolved" or now_ns - known.told_ns > _LATE_NS


def _incident_id(system: str, key: str, first: GroupAlert) -> str:
    """An id that no other episode has: of one group, no two begin with the same alert."""
    moment = datetime.fromtimestamp(first.starts_ns // SECOND_NS, UTC)
    digest = hashlib.sha256(f"{key}\0{first.fingerprint}\0{first.starts_ns}".encode()).hexdigest()
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", system).lstrip("-._")[:80] or "live"
    return f"{name}-{moment:%Y%m%dT%H%M%SZ}-{digest[:10]}"


def _title(first: GroupAlert) -> str:
    name = first.labels.get("alertname") or "alert"
    summary = first.annotations.get("summary") or first.annotations.get("description") or ""
    return f"{name}: {summary}" if summary else name


def _body(alert: GroupAlert) -> str:
    return json.dumps({"labels": dict(alert.labels), "annotations": dict(alert.annotations), "links": alert.links})


def _alert(row: tuple[str, Status, int, int | None, str]) -> GroupAlert:
    body = json.loads(row[4])
    links = tuple((words, address) for words, address in body["links"])
    return GroupAlert(*row[:4], body["labels"], body["annotations"], links)


def _episode(row: Sequence[Any]) -> Episode:
    values = list(row)
    values[9] = json.loads(values[9])
    return Episode(*values)


def _notice(row: Sequence[Any]) -> StoredNotice:
    return StoredNotice(row[0], row[1], row[2], row[3], json.loads(row[4]))
