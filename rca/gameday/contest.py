"""Plays a game day through again: every injection and every quiet time, before every ranker, as it would have been asked live.

Answers are kept below the home as they are made, by what they hang on, so that an interruption loses none of them and another
ranker costs only its own.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from rca.collectors.config import Config
from rca.contracts import Case, Ranker
from rca.errors import BadInput, UnknownName
from rca.evaluation.cases import Recorded
from rca.evaluation.predictions import Prediction, Truth
from rca.gameday.folder import GameDay, Injected, Watch
from rca.gameday.replay import (
    Answer,
    Noticed,
    answer_of,
    asked_at,
    asked_in_quiet,
    digest_of,
    moments,
    noticed,
    quiet_windows,
    told_until,
)
from rca.gameday.scores import Role, Standing
from rca.incidents.incident import Incident
from rca.incidents.store import IncidentStore
from rca.models import registry
from rca.models.shipped import checked, default_ranker
from rca.pipeline import case_of
from rca.provenance import code_digest
from rca.telemetry import EntityId, Interval, Telemetry

BASELINES: Final = ("floor", "max-z", "simple-rca", "pagerank-z", "prism-additive")
"""What a model is compared with unless others are asked for: the label-free score, and the rules that do best on recordings."""
CACHE_FOLDER: Final = "cache/answers"
_ANSWERED_BY: Final = ("models", "collectors/live.py", "collectors/gathering.py", "gameday/replay.py")
"""Code that answers hang on, beside that which makes cases."""

Told = Callable[[str, int, int], None]
"""Called with what is being asked about, how many injections are done, and of how many."""


@dataclass(frozen=True)
class Contender:
    """A ranker that is ready, under the name that tables have for it. `digest` changes with whatever it would answer."""

    label: str
    role: Role
    ranker: Ranker
    digest: str
    note: str = ""


def contenders(
    models: Sequence[Path] = (), rankers: Sequence[str] = BASELINES, home: Path | None = None
) -> tuple[Contender, ...]:
    """The model in use in this home first, then other models and rules, each once.

    Raises UnknownName, BadCheckpoint, and BadInput for a ranker that would have to be trained.
    """
    found = [_contender(default_ranker(home), "in use")]
    found += [_contender(checked(folder), "model") for folder in models]
    for name in rankers:
        ranker = registry.create(name)
        if ranker.learned:
            expected = "a ranker that needs no training, or --model"
            raise BadInput("--ranker", expected=expected, found=f"{name}, which needs training")
        found.append(_contender(ranker, "baseline"))
    return tuple({contender.label: contender for contender in reversed(found)}.values())[::-1]


def _contender(ranker: Ranker, role: Role) -> Contender:
    card = getattr(ranker, "card", None)
    made_of = json.dumps(asdict(card), sort_keys=True, default=str) if card is not None else ""
    return Contender(ranker.name, role, ranker, digest_of(ranker.name, made_of), str(getattr(ranker, "reason", "")))


@dataclass(frozen=True, eq=False)
class Played:
    """An injection with what was said about it: by ranker, one answer for each of `moments`, and one for the known window."""

    injected: Injected
    standing: Standing
    trouble: str = ""
    system: str = ""
    causes: tuple[EntityId, ...] = ()
    overlapping: tuple[int, ...] = ()
    seen: Noticed | None = None
    moments: tuple[int, ...] = ()
    said: Mapping[str, tuple[Answer, ...]] = field(default_factory=dict)
    known_window: Mapping[str, Answer] = field(default_factory=dict)

    @property
    def from_ns(self) -> int:
        """From when on minutes count."""
        return self.seen.from_ns if self.seen else self.injected.injection.start_ns

    @property
    def truth(self) -> Truth:
        """What is known about it, under its number: injections that overlap share an incident."""
        injection = self.injected.injection
        return Truth(f"injection {injection.number}", self.system, self.causes, injection.fault_kind, injection.start_ns)

    def beside(self, answer: Answer) -> Prediction:
        """An answer beside the truth."""
        return answer.beside(self.truth)


@dataclass(frozen=True, eq=False)
class QuietAnswers:
    """What was said about a quiet time, by ranker, one answer for each window; none where no telemetry is left of it."""

    interval: Interval
    windows: tuple[Interval, ...] = ()
    alerts: int = 0
    said: Mapping[str, tuple[Answer, ...]] = field(default_factory=dict)


class Kept:
    """Answers that were given before, a file each. They are this user's own and may be dropped at any time."""

    def __init__(self, home: Path) -> None:
        self._folder = home / CACHE_FOLDER

    def get(self, key: str) -> Answer | None:
        """The answer of a key; None where there is none that can be read."""
        try:
            return _decoded(json.loads((self._folder / f"{key}.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, key: str, answer: Answer) -> None:
        """Keep an answer, in one step. A full disk costs the answer, not the scores."""
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            unfinished = self._folder / f"{key}.{os.getpid()}"
            unfinished.write_text(json.dumps(asdict(answer), separators=(",", ":")), encoding="utf-8")
            unfinished.replace(self._folder / f"{key}.json")


def _decoded(body: dict[str, Any]) -> Answer:
    return Answer(
        tuple(_entity(each) for each in body["candidates"]),
        tuple(body["scores"]),
        tuple(body["probabilities"]),
        body["no_fault"],
        body["level"],
        tuple((_entity(entity), _entity(name)) for entity, name in body["names"]),
        body["failure"],
    )


def _entity(body: dict[str, Any]) -> EntityId:
    return EntityId(body["kind"], body["name"], body["namespace"])


# --- playing ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Contest:
    """Who plays, under which settings, and where answers are kept."""

    home: Path
    rankers: tuple[Contender, ...]
    config: Config

    def play(self, game: GameDay, told: Told = lambda _what, _done, _of: None) -> tuple[list[Played], list[QuietAnswers]]:
        """Ask everybody about everything, in the order of the injections and then of the quiet times."""
        total = len(game.injections) + len(game.watches)
        played: list[Played] = []
        quiet: list[QuietAnswers] = []
        with IncidentStore(self.home) as store:
            for injected in game.injections:
                told(injected.injection.name, len(played), total)
                guessed = [guess.entity for guess in game.guesses if guess.number == injected.injection.number]
                played.append(self._play(_standing(injected, game, store), store, guessed))
            for watch in game.watches:
                told("quiet time", len(played) + len(quiet), total)
                quiet.append(self._watch(watch, store))
        told("", total, total)
        return played, quiet

    def _play(self, one: Played, store: IncidentStore, guessed: Sequence[EntityId]) -> Played:
        injected = one.injected
        if one.standing in ("not collected", "unlabelled") or injected.incident_id is None:
            return one
        try:
            digest, (incident, telemetry) = _recorded(injected.incident_id, store)
        except BadInput as error:
            return replace(one, standing="not collected", trouble=f"its telemetry cannot be read: {error}")
        seen = noticed(telemetry, injected.injection.start_ns, injected.alerts_ns, injected.over_ns)
        until_ns = min(told_until(telemetry), max(incident.window.end_ns, resolved_ns(injected) or 0))
        times = moments(seen, until_ns, self.config.triage.lag)
        about = tuple(dict.fromkeys([*one.causes, *guessed]))
        at = [self._answers((digest, seen, time), about, partial(asked_at, self.config, telemetry, seen, time)) for time in times]
        window = self._answers((digest, "known window"), about, lambda: (incident, telemetry))
        said = {who.label: tuple(answers[who.label] for answers in at) for who in self.rankers}
        return replace(one, seen=seen, moments=times, said=said, known_window=window)

    def _watch(self, watch: Watch, store: IncidentStore) -> QuietAnswers:
        try:
            digest, (_, telemetry) = _recorded(watch.incident_id, store)
        except BadInput:
            return QuietAnswers(watch.interval)
        windows = quiet_windows(watch.interval, telemetry)
        at = [
            self._answers((digest, "quiet", window), (), partial(asked_in_quiet, self.config, telemetry, window))
            for window in windows
        ]
        start_ns, end_ns = watch.interval.start_ns, watch.interval.end_ns
        fired = telemetry.alerts["time_unix_nano"].is_between(start_ns, end_ns, closed="left").sum()
        said = {who.label: tuple(answers[who.label] for answers in at) for who in self.rankers}
        return QuietAnswers(watch.interval, windows, int(fired), said)

    def _answers(
        self, what: tuple[object, ...], about: Sequence[EntityId], ask: Callable[[], tuple[Incident, Telemetry]]
    ) -> dict[str, Answer]:
        """What every ranker says to one question; it is put only if somebody's answer is not kept yet."""
        kept = Kept(self.home)
        settings = (self.config.triage.model_dump_json(), sorted(self.config.names.items()))
        asked = digest_of(*what, *settings, *about, code_digest(*_ANSWERED_BY))
        keys = {who.label: digest_of(asked, who.digest) for who in self.rankers}
        found = {label: kept.get(key) for label, key in keys.items()}
        if any(answer is None for answer in found.values()):
            case = _case(ask)
            for who in self.rankers:
                if found[who.label] is None:
                    answer = Answer(failure=case) if isinstance(case, str) else answer_of(who.ranker, case, about)
                    kept.put(keys[who.label], answer)
                    found[who.label] = answer
        return {label: answer for label, answer in found.items() if answer is not None}


def _case(ask: Callable[[], tuple[Incident, Telemetry]]) -> Case | str:
    """The case of a question, or why it could not be put: it was too early, or nothing was recorded."""
    try:
        return case_of(*ask())
    except BadInput as error:
        return str(error)


# --- what counts how --------------------------------------------------------------------------------------------------


def _standing(injected: Injected, game: GameDay, store: IncidentStore) -> Played:
    """The injection, how it counts, and whom the label in the store, and the injections that overlap it, blame."""
    injection = injected.injection
    own = (injection.culprit,) if injection.culprit else ()
    if injected.incident_id is None:
        return Played(injected, "not collected", injected.trouble or "no incident was kept of it", causes=own)
    try:
        incident = store.incident(injected.incident_id)
    except UnknownName:
        return Played(injected, "not collected", "its incident is not in the store any more", causes=own)
    others = tuple(_overlapping(injected, game))
    theirs = [other.injection.culprit for other in others if other.injection.culprit is not None]
    numbers = tuple(other.injection.number for other in others)
    causes = tuple(dict.fromkeys([*incident.causes(), *theirs]))
    base = Played(injected, "scored", injected.trouble, incident.system, causes, numbers)
    if incident.causes():
        return base
    if not incident.is_no_fault():
        why = "its label is disputed" if incident.labels else "its incident has no label"
        return replace(base, standing="unlabelled", trouble=f"{why}, so nobody knows who is to blame")
    if theirs:
        return replace(base, standing="unlabelled", trouble="nobody is to blame for it, but another fault was on")
    return replace(base, standing="nobody")


def _overlapping(injected: Injected, game: GameDay) -> Iterator[Injected]:
    """Other injections that were on at the same time."""
    mine = _span(injected)
    for other in game.injections:
        if other.injection.number != injected.injection.number and mine.overlaps(_span(other)):
            yield other


def _span(injected: Injected) -> Interval:
    injection = injected.injection
    return Interval(injection.start_ns, max(injection.end_ns or 0, injection.start_ns + 1))


def _recorded(incident_id: str, store: IncidentStore) -> tuple[str, tuple[Incident, Telemetry]]:
    """A recording, and a digest of it. Raises UnknownName, BadBundle, BadTelemetry."""
    recorded = Recorded.of(store.manifest(incident_id), partial(store.get, incident_id))
    return recorded.digest, recorded.read()


def digest_of_day(game: GameDay, home: Path) -> str:
    """A digest of what scores are of: what was injected, guessed and fixed, and what the labels in the store say."""
    named = [injected.incident_id for injected in game.injections if injected.incident_id]
    labels = []
    with IncidentStore(home) as store:
        for incident_id in named:
            try:
                labels.append(store.incident(incident_id).model_dump_json(include={"labels"}))
            except UnknownName:
                labels.append("gone")
    return digest_of(game.name, game.injections, game.guesses, game.watches, game.state, game.why, *labels)


def resolved_ns(injected: Injected) -> int | None:
    """When it was over: somebody said so, or its last alert ended, or else the fault was taken back. None where nobody knows."""
    return injected.fixed_ns or injected.over_ns or injected.injection.end_ns
