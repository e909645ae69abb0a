"""Takes groups that wait, has them ranked under a deadline, says what was found, once more if that changes, and when it is over.

What is to be done stands in the inbox and nowhere else: after kill -9 the same is done again, under the same revision.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from rca.errors import BadInput, RcaError, StorageFull, Unavailable
from rca.incidents.inbox import Episode, GroupAlert, InboxFile, Task
from rca.incidents.store import IncidentStore
from rca.observe import Observer
from rca.serve.answered import beside, outcome_of
from rca.serve.asking import Asked, AskedGroup, Found, Kept, Ranks, Shadowed
from rca.serve.config import ServeConfig
from rca.serve.inbox import Inbox
from rca.serve.labelling import labels_of
from rca.serve.metrics import Metrics
from rca.serve.notices import MOST_ALERTS, gist_of, notice_of, worth_telling
from rca.sinks.notice import Notice, dumped, loaded
from rca.telemetry import SECOND_NS

_LOG: Final = logging.getLogger(__name__)
_MOST_TOGETHER: Final = 200
_MOST_ASKED: Final = 2000
_FEWEST_ASKED: Final = 10
"""Alerts that travel to the process that ranks: of all groups together, and of each in any case."""
_LONGEST_WAIT_S: Final = 30.0
_AFTER_TROUBLE_S: Final = 1.0
_TIDY_NS: Final = 60 * SECOND_NS
_AFTER_MISTAKE_NS: Final = 60 * SECOND_NS


class Asking(Protocol):
    """Where questions go: rca.serve.process.AskingProcess."""

    ranks: Ranks | None

    def start(self) -> Ranks: ...

    def find(self, asked: Asked) -> Found: ...

    def kept(self) -> Kept: ...

    def stop(self) -> None: ...


class Worker:
    """Works on what the inbox says is due, in one thread. `sinks` are the names of those that hear of it."""

    def __init__(
        self,
        inbox: Inbox,
        asking: Asking,
        settings: ServeConfig,
        sinks: Sequence[str],
        metrics: Metrics,
        *,
        observer: Observer | None = None,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._observer = observer or Observer()
        self._inbox, self._asking, self._settings, self._sinks, self._metrics = inbox, asking, settings, tuple(sinks), metrics
        self._wall_ns = wall_ns
        self._tidied_ns = 0
        self._alone: set[int] = set()
        """Episodes that something went wrong with when they were worked on beside others."""
        self._ending = threading.Event()
        self.failure: BadInput | None = None
        """Why nothing can be ranked, where that lies in the configuration."""
        self._thread = threading.Thread(target=self.run, name="worker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def alive(self) -> bool:
        return self._thread.is_alive()

    def join(self) -> None:
        """Wait until it has ended."""
        self._thread.join()

    def stop(self) -> None:
        """End; what was being ranked is ranked again at the next start."""
        self._ending.set()
        self._asking.stop()
        self._inbox.tell()
        if self._thread.is_alive():
            self._thread.join()

    def run(self) -> None:
        seen = 0
        try:
            self._asking.start()
        except BadInput as error:
            self.failure = error
            return
        except RcaError as error:  # groups that wait are told so, and it is tried again
            _LOG.error("%s", error)
        with self._inbox.reading() as file:
            while not self._ending.is_set():
                try:
                    busy = self.step(file)
                except Exception as error:  # of the disk, mostly: what was to be done is still to be done
                    if not self._ending.wait(_AFTER_TROUBLE_S):
                        _LOG.error("%s", error, exc_info=None if isinstance(error, RcaError) else error)
                    continue
                if not busy:
                    seen = self._inbox.wait(seen, self._patience_s(file))

    def step(self, file: InboxFile) -> bool:
        """Do what is due of one kind; False if nothing is."""
        self._tidy()
        due = file.due(self._wall_ns(), _MOST_TOGETHER)
        if not due:
            return False
        batch = self._batch(file, due)
        try:
            if batch[0].task == "close":
                for episode in batch:
                    self._close(file, episode)
            else:
                self._look(file, batch)
        except (Unavailable, StorageFull):
            raise
        except Exception:  # a mistake of ours about one of these groups must not keep the others from being answered
            _LOG.exception("%s could not be worked on", ", ".join(episode.incident_id for episode in batch))
            if len(batch) > 1:
                self._alone.update(episode.number for episode in batch)
            else:
                self._put_off(batch[0], self._wall_ns() + _AFTER_MISTAKE_NS)
        else:
            self._alone.difference_update(episode.number for episode in batch)
        return True

    def _put_off(self, episode: Episode, later_ns: int) -> None:
        self._inbox.write(lambda file: file.put_off(episode.number, later_ns))

    def _patience_s(self, file: InboxFile) -> float:
        due = file.next_due_ns()
        wait = _LONGEST_WAIT_S if due is None else (due - self._wall_ns()) / SECOND_NS
        return min(max(wait, 0.01), _LONGEST_WAIT_S)

    def _tidy(self) -> None:
        now = self._wall_ns()
        if now - self._tidied_ns >= _TIDY_NS:
            self._tidied_ns = now
            silent_ns, keep_ns = self._settings.silent, self._settings.keep
            self._inbox.write(lambda file: file.tidy(now, silent_ns=silent_ns, keep_ns=keep_ns))

    def _batch(self, file: InboxFile, due: Sequence[Episode]) -> list[Episode]:
        """Those that can be done together: of one kind, and if they are to be ranked, of about one time."""
        first = due[0]
        if first.number in self._alone:
            return [first]
        due = [episode for episode in due if episode.number not in self._alone]
        same = [episode for episode in due if episode.task == first.task]
        if first.task == "close":
            return same
        began = {episode.number: _began(file, episode) for episode in same}
        near = [e for e in same if abs(began[e.number] - began[first.number]) <= self._settings.together]
        return sorted(near, key=lambda episode: (began[episode.number], episode.number))

    def _look(self, file: InboxFile, batch: Sequence[Episode]) -> None:
        """Rank groups together, and say of each what was found."""
        most = max(min(MOST_ALERTS, _MOST_ASKED // len(batch)), _FEWEST_ASKED)
        alerts = {episode.number: file.alerts(episode.number, most) for episode in batch}
        groups = tuple(AskedGroup(e.incident_id, e.title, alerts[e.number]) for e in batch)
        before = {episode.number: _last(file, episode) for episode in batch}
        named = [episode.incident_id for episode in batch]
        with self._observer.span(
            "rank", rca_incident_ids=named, rca_task=str(batch[0].task), rca_alerts=sum(map(len, alerts.values()))
        ) as span:
            began = time.monotonic()
            found, trouble = self._found(Asked(groups, self._settings.deadline, self._observer.context()))
            self._counted(found, time.monotonic() - began)
            if found is None:
                span.fail(trouble)
            else:
                span.tell(rca_model_id=found.model)
            try:
                for episode in batch:
                    self._say(episode, alerts[episode.number], before[episode.number], found, trouble)
            finally:
                if found is not None:
                    self._keep(batch, found)

    def _counted(self, found: Found | None, seconds: float) -> None:
        self._metrics.rankings.add("ranked" if found else "failed")
        self._metrics.ranking_seconds.observe(seconds)
        if found is None:
            return
        self._metrics.ranked_by.add(found.model)
        if found.age_s is not None:
            self._metrics.graph_age_seconds.observe(found.age_s)
        for gap in next(iter(found.reports.values())).ranking.gaps:
            self._metrics.gaps.add(gap.source)

    def _found(self, asked: Asked) -> tuple[Found | None, str]:
        try:
            return self._asking.find(asked), ""
        except RcaError as error:
            if self._ending.is_set():
                raise
            _LOG.warning("%s: %s", asked.groups[0].incident_id, error)
            return None, str(error)

    def _say(
        self, episode: Episode, alerts: Sequence[GroupAlert], before: Notice | None, found: Found | None, trouble: str
    ) -> None:
        report = found.reports.get(episode.incident_id) if found else None
        again = before is not None and before.state != episode.state  # it was said to be over, and goes on
        task, due_ns = self._next(episode, None if again else before, answered=report is not None)
        if before is not None and not again and report is None:
            self._inbox.write(lambda file: self._looked_at(file, episode, task, due_ns))
            return
        model = found.model if found else ""
        notice = notice_of(episode, alerts, self._settings, report, before=before, trouble=trouble, model=model)
        told = before is None or again or report is None or worth_telling(before, report)
        self._tell(episode, notice, task, due_ns, self._sinks if told else ())  # the page shows it with its telemetry anyhow
        if before is None:
            self._metrics.first_answer_seconds.observe((self._wall_ns() - episode.opened_ns) / SECOND_NS)

    def _next(self, episode: Episode, before: Notice | None, *, answered: bool) -> tuple[Task | None, int | None]:
        """What the episode waits for now: another look after the first one, and after alerts have joined.

        Without a ranking, it is looked at again until there is one or it is over.
        """
        once_more = before is None or _joined(episode, before) or (before.report is None and not answered)
        return ("revise", self._later()) if once_more else (None, None)

    def _later(self) -> int:
        return self._wall_ns() + self._settings.revise_after

    def _looked_at(self, file: InboxFile, episode: Episode, task: Task | None, due_ns: int | None) -> None:
        """Note what it waits for; alerts that joined while it was looked at are looked at later."""
        file.looked_at(episode.number, self._wall_ns(), task=task, due_ns=due_ns)
        file.look_again(episode.number, self._later(), seen=episode.alerts)

    def _close(self, file: InboxFile, episode: Episode) -> None:
        """Say that it is over, with what was said last."""
        before = _last(file, episode)
        alerts = file.alerts(episode.number, MOST_ALERTS)
        report, trouble, model = (before.report, before.trouble, before.model) if before else (None, "", "")
        notice = notice_of(episode, alerts, self._settings, report, before=before, trouble=trouble, model=model)
        self._tell(episode, notice, None, None, self._sinks)

    def _tell(self, episode: Episode, notice: Notice, task: Task | None, due_ns: int | None, sinks: Sequence[str]) -> None:
        """Write an answer down, for these sinks to hear of."""
        body, gist, now = dumped(notice), json.dumps(gist_of(notice)), self._wall_ns()

        def told(file: InboxFile) -> None:
            file.answered(episode.number, notice.revision, notice.state, gist, body, sinks, now, task=task, due_ns=due_ns)
            file.look_again(episode.number, self._later(), seen=episode.alerts)

        self._inbox.write(told)
        if sinks or not self._sinks:
            self._metrics.notices.add(notice.state)

    def _keep(self, batch: Sequence[Episode], found: Found) -> None:
        """Note where the telemetry is, once it is in the store, and what the version in shadow said."""
        kept = self._asking.kept()
        if kept.shadow is not None:
            self._note_shadow(batch, found, kept.shadow)
        if kept.bundle is None:
            _LOG.warning("%s: %s", batch[0].incident_id, kept.trouble)
            return
        with IncidentStore(self._inbox.home) as store:
            for episode in batch:
                if not _judged_elsewhere(store, episode, kept.bundle):
                    self._note(episode, kept.bundle)

    def _note_shadow(self, batch: Sequence[Episode], found: Found, shadow: Shadowed) -> None:
        ranking = next(iter(found.reports.values())).ranking
        body, now = json.dumps(beside(ranking, shadow)), self._wall_ns()
        self._metrics.shadow_answers.add(outcome_of(ranking, shadow))

        def noted(file: InboxFile) -> None:
            for episode in batch:
                file.shadowed(episode.number, shadow.version, now, body)

        self._inbox.write(noted)

    def _note(self, episode: Episode, bundle: str) -> None:
        self._inbox.write(lambda file: file.keeps(episode.number, bundle))


def _judged_elsewhere(store: IncidentStore, episode: Episode, bundle: str) -> bool:
    """Whether people labelled it with other telemetry than that: theirs stays, or its page would no longer show their labels."""
    return episode.bundle not in (None, bundle) and bool(labels_of(store, episode))


def _joined(episode: Episode, before: Notice) -> bool:
    """Whether alerts joined since the answer before."""
    return episode.alerts + episode.truncated > len(before.alerts) + before.more_alerts


def _began(file: InboxFile, episode: Episode) -> int:
    first = file.alerts(episode.number, 1)
    return first[0].starts_ns if first else episode.opened_ns


def _last(file: InboxFile, episode: Episode) -> Notice | None:
    return loaded(file.notice(episode.number, episode.revision).body) if episode.revision else None
