"""From answers to numbers: how often the tool was right, how soon, how sure, and what it said where nothing was wrong.

Every number has an interval. Repetitions of one injection (system, service, fault kind) are drawn together, as in rca.evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Final

import numpy as np
import numpy.typing as npt

from rca import __version__
from rca.collectors.config import Config
from rca.contracts import group_of
from rca.errors import UnknownName
from rca.evaluation import metrics
from rca.evaluation.metrics import Estimate
from rca.evaluation.predictions import Prediction
from rca.gameday.contest import Contender, Played, QuietAnswers, resolved_ns
from rca.gameday.folder import GameDay, Guess
from rca.gameday.replay import BLAMING, GRID_S, Answer
from rca.gameday.scores import (
    RANKS,
    Bin,
    Calibration,
    Figure,
    GuessScore,
    InjectionScore,
    Named,
    Person,
    Point,
    QuietTimes,
    RankerScore,
    Said,
    Scores,
    Settings,
)
from rca.telemetry import MINUTE_NS, SECOND_NS

_DIGITS: Final = 4
_SHOWN: Final = 3
_BINS: Final = 10
Floats = npt.NDArray[np.float64]


def scores_of(
    game: GameDay,
    of: str,
    rankers: Sequence[Contender],
    played: Sequence[Played],
    quiet: Sequence[QuietAnswers],
    config: Config,
    *,
    seed: int = 0,
) -> Scores:
    """The scores of a game day that was played through. Raises UnknownName for a guess about an injection that there is not."""
    in_use = rankers[0].label
    injections = tuple(_injection(one, [who.label for who in rankers], _guesses_about(game, one), in_use) for one in played)
    triage = config.triage
    return Scores(
        game_day=game.name,
        of=of,
        state=game.state,
        why=game.why,
        settings=Settings(
            lag_s=triage.lag / SECOND_NS,
            lookback_s=triage.lookback / SECOND_NS,
            baseline_s=triage.baseline / SECOND_NS,
            longest_s=triage.longest / SECOND_NS,
            seed=seed,
            made_with=f"rca {__version__}",
        ),
        injections=injections,
        rankers=tuple(_ranker(who, rankers[0], played, injections, quiet, seed) for who in rankers),
        people=tuple(_people(played, injections, in_use, seed)),
        quiet=QuietTimes(
            intervals=len(quiet),
            unrecorded=sum(1 for one in quiet if not one.windows),
            windows=sum(len(one.windows) for one in quiet),
            seconds=sum(window.seconds for one in quiet for window in one.windows),
            alerts=sum(one.alerts for one in quiet),
        ),
    )


# --- one injection ----------------------------------------------------------------------------------------------------


def _injection(one: Played, labels: Sequence[str], guesses: Sequence[Guess], in_use: str) -> InjectionScore:
    injected = one.injected
    injection = injected.injection
    said = {label: tuple(_all_said(one, label)) for label in labels if label in one.said}
    known = {label: _said(one, one.known_window[label], one.moments[-1]) for label in labels if label in one.known_window}
    over_ns = resolved_ns(injected)
    resolved = one.standing in ("scored", "nobody") and over_ns is not None and over_ns > one.from_ns
    return InjectionScore(
        number=injection.number,
        fault_kind=injection.fault_kind,
        target=injection.target,
        source=injection.source,
        note=injection.note,
        strength=injection.strength,
        start_ns=injection.start_ns,
        end_ns=injection.end_ns,
        incident_id=injected.incident_id,
        standing=one.standing,
        trouble=one.trouble,
        causes=tuple(map(str, one.causes)),
        overlapping=one.overlapping,
        counted_from="alert" if one.seen is not None and one.seen.alert is not None else "injection",
        from_ns=one.from_ns,
        over_ns=injected.over_ns,
        fixed_ns=injected.fixed_ns,
        said=said,
        known_window=known,
        settled_minute={label: settled(answers) for label, answers in said.items()} if one.standing == "scored" else {},
        resolve_minutes=_minutes(over_ns - one.from_ns) if resolved and over_ns is not None else None,
        right_by_then=(
            {label: _right_at(answers, over_ns) for label, answers in said.items()}
            if resolved and over_ns is not None and one.standing == "scored"
            else {}
        ),
        guesses=tuple(_guess(one, guess, said.get(in_use, ())) for guess in guesses),
    )


def _all_said(one: Played, label: str) -> Iterable[Said]:
    for at_ns, answer in zip(one.moments, one.said[label], strict=True):
        yield _said(one, answer, at_ns)


def _said(one: Played, answer: Answer, at_ns: int) -> Said:
    prediction = one.beside(answer)
    firsts = zip(answer.candidates[:_SHOWN], answer.probabilities, strict=False)
    return Said(
        minute=_minutes(at_ns - one.from_ns),
        at_ns=at_ns,
        first=tuple(Named(entity=str(entity), probability=probability) for entity, probability in firsts),
        no_fault=answer.no_fault,
        level=answer.level,
        rank=prediction.cause_rank,
        right=prediction.cause_rank == 1 if one.standing == "scored" else None,
        failure=answer.failure,
    )


def settled(said: Sequence[Said]) -> float | None:
    """The first minute from which on every answer is right; None where the last one is not."""
    since = None
    for answer in said:
        since = (answer.minute if since is None else since) if answer.right else None
    return since


def newest(said: Sequence[Said], at_ns: int) -> Said | None:
    """The answer that stood at a moment; None before the first one."""
    return next((answer for answer in reversed(said) if answer.at_ns <= at_ns), None)


def _right_at(said: Sequence[Said], at_ns: int) -> bool:
    answer = newest(said, at_ns)
    return answer is not None and bool(answer.right)


def _guesses_about(game: GameDay, one: Played) -> list[Guess]:
    """Guesses about an injection in order of time."""
    known = {injected.injection.number for injected in game.injections}
    for guess in game.guesses:
        if guess.number not in known:
            raise UnknownName(f"guess of {guess.who}: injections of {game.name}", str(guess.number), map(str, sorted(known)))
    mine = [guess for guess in game.guesses if guess.number == one.injected.injection.number]
    return sorted(mine, key=lambda guess: (guess.at_ns, guess.who))


def _guess(one: Played, guess: Guess, said: Sequence[Said]) -> GuessScore:
    scored = one.standing == "scored"
    return GuessScore(
        who=guess.who,
        minute=_minutes(guess.at_ns - one.from_ns),
        at_ns=guess.at_ns,
        entity=str(guess.entity),
        right=_names_a_cause(one, guess) if scored else None,
        tool_right=_right_at(said, guess.at_ns) if scored else None,
    )


def _names_a_cause(one: Played, guess: Guess) -> bool:
    """Whether the guess is a cause, either called as the label has it or as some graph of the incident does."""
    answers = [*one.known_window.values(), *(answer for said in one.said.values() for answer in said)]
    return guess.entity in one.causes or any(
        set(answer.called([guess.entity])) & set(answer.called(one.causes)) for answer in answers
    )


# --- one ranker -------------------------------------------------------------------------------------------------------


def _ranker(
    who: Contender,
    in_use: Contender,
    played: Sequence[Played],
    injections: Sequence[InjectionScore],
    quiet: Sequence[QuietAnswers],
    seed: int,
) -> RankerScore:
    label = who.label
    pairs = [(one, score) for one, score in zip(played, injections, strict=True) if one.standing == "scored"]
    scored = [one for one, _ in pairs]
    last = _last_answers(scored, label)
    known = [one.beside(one.known_window[label]) for one in scored]
    nobody = [one for one in played if one.standing == "nobody"]
    groups = [prediction.truth.group for prediction in last]
    return RankerScore(
        label=label,
        role=who.role,
        note=who.note,
        accuracy={metric: _accuracy(metric, last, seed) for metric in RANKS},
        known_window={metric: _accuracy(metric, known, seed) for metric in RANKS},
        with_uncollected=_with_uncollected(played, last, seed),
        chance={metric: _rounded(metrics.chance(metric, last)) for metric in RANKS},
        curve=tuple(_curve(pairs, label, groups, seed)),
        settled=median([score.settled_minute[label] for _, score in pairs], groups, seed),
        calibration=calibration_of(last, seed),
        quiet=_quiet(quiet, label, seed),
        nobody=_blaming(nobody, [one.said[label][-1].blames for one in nobody], seed),
        nobody_ever=_blaming(nobody, [any(answer.blames for answer in one.said[label]) for one in nobody], seed),
        resolve_right=_resolve(pairs, label, groups, seed, right=True),
        resolve_wrong=_resolve(pairs, label, groups, seed, right=False),
        by_fault_kind=_by(lambda p: p.truth.fault_kind, last, seed),
        by_service=_by(lambda p: ", ".join(sorted(map(str, p.truth.causes))), last, seed),
        ahead=None if who is in_use else _ahead(in_use, scored, last, seed),
        failures=sum(1 for prediction in last if prediction.failure),
    )


def _last_answers(scored: Sequence[Played], label: str) -> list[Prediction]:
    return [one.beside(one.said[label][-1]) for one in scored]


def _accuracy(metric: str, predictions: Sequence[Prediction], seed: int) -> Figure:
    groups = [prediction.truth.group for prediction in predictions]
    return figure(metrics.accuracy(metric, predictions, seed=seed), groups)


def _with_uncollected(played: Sequence[Played], last: Sequence[Prediction], seed: int) -> Figure:
    """AC@1 with the injections that were not collected as misses."""
    lost = [one for one in played if one.standing == "not collected" and one.causes]
    system = last[0].truth.system if last else ""
    groups = [prediction.truth.group for prediction in last]
    groups += [group_of(system, one.causes, one.injected.injection.fault_kind) for one in lost]
    values = np.append(metrics.per_incident("ac1", last), np.zeros(len(lost)))
    return share(values, groups, seed)


def _curve(pairs: Sequence[tuple[Played, InjectionScore]], label: str, groups: Sequence[object], seed: int) -> Iterable[Point]:
    """Share of right answers at every minute of the grid, up to the first at which all have said their last."""
    lasts = [score.said[label][-1].minute for _, score in pairs]
    longest = max(lasts, default=0.0)
    for seconds in GRID_S:
        minute = seconds / 60
        stood = [newest(score.said[label], one.from_ns + seconds * SECOND_NS) for one, score in pairs]
        right = np.array([answer is not None and bool(answer.right) for answer in stood], dtype=np.float64)
        misled = np.array(
            [answer is not None and not answer.right and answer.level in BLAMING for answer in stood], dtype=np.float64
        )
        yield Point(minute=minute, share=share(right, groups, seed), misled=share(misled, groups, seed))
        if minute >= longest:
            return


def calibration_of(last: Sequence[Prediction], seed: int) -> Calibration:
    """ECE and Brier with bootstrap intervals, and the bins of equal width that hold an answer."""
    groups = [prediction.truth.group for prediction in last]
    right = metrics.per_incident("ac1", last)
    confidence = np.array([prediction.confidence for prediction in last])
    place = np.minimum((confidence * _BINS).astype(int), _BINS - 1) if len(last) else confidence.astype(int)
    bins = []
    for number in range(_BINS):
        mine = np.flatnonzero(place == number)
        if len(mine):
            inside = share(right[mine], [groups[row] for row in mine], seed)
            mean = float(confidence[mine].mean())
            bins.append(
                Bin(low=number / _BINS, high=(number + 1) / _BINS, n=len(mine), confidence=round(mean, _DIGITS), right=inside)
            )

    def errors(rows: npt.NDArray[np.int64]) -> Floats:
        gaps = [np.where(place[rows] == number, (right - confidence)[rows], 0.0).sum(axis=1) for number in range(_BINS)]
        found: Floats = np.abs(gaps).sum(axis=0) / rows.shape[1]
        return found

    return Calibration(
        ece=figure(metrics.estimate_of(errors, groups, seed=seed), groups),
        brier=figure(metrics.estimate((confidence - right) ** 2, groups, seed=seed), groups),
        bins=tuple(bins),
    )


def _quiet(quiet: Sequence[QuietAnswers], label: str, seed: int) -> Figure:
    """Share of quiet windows in which somebody is named; windows of one quiet time are drawn together."""
    said = [(one.interval, answer.level in BLAMING) for one in quiet for answer in one.said.get(label, ())]
    values = np.array([blamed for _, blamed in said], dtype=np.float64)
    return share(values, [interval for interval, _ in said], seed)


def _blaming(nobody: Sequence[Played], blamed: Sequence[bool], seed: int) -> Figure:
    groups = [(one.injected.injection.fault_kind, one.injected.injection.target) for one in nobody]
    return share(np.array(blamed, dtype=np.float64), groups, seed)


def _resolve(
    pairs: Sequence[tuple[Played, InjectionScore]], label: str, groups: Sequence[object], seed: int, *, right: bool
) -> Figure:
    """Median minutes to resolve, of the injections by whose end the answer was right, or of the others."""
    chosen = [(score, group) for (_, score), group in zip(pairs, groups, strict=True) if score.right_by_then.get(label) is right]
    return median([score.resolve_minutes for score, _ in chosen], [group for _, group in chosen], seed)


def _by(key: Callable[[Prediction], str], last: Sequence[Prediction], seed: int) -> dict[str, Figure]:
    return {name: _accuracy("ac1", mine, seed) for name, mine in metrics.by(key, last).items()}


def _ahead(in_use: Contender, scored: Sequence[Played], theirs: Sequence[Prediction], seed: int) -> Figure:
    """AC@1 of the model in use minus that of the other, on the same injections."""
    ours = _last_answers(scored, in_use.label)
    return figure(metrics.paired_difference("ac1", ours, theirs, seed=seed), [prediction.truth.group for prediction in ours])


# --- people -----------------------------------------------------------------------------------------------------------


def _people(played: Sequence[Played], injections: Sequence[InjectionScore], in_use: str, seed: int) -> Iterable[Person]:
    """Everybody who guessed, beside the model in use on the same injections. Only guesses about injections with a cause count."""
    groups = {one.injected.injection.number: one.truth.group for one in played}
    counted = [score for score in injections if score.standing == "scored"]
    for who in sorted({guess.who for score in injections for guess in score.guesses}):
        about = [(score, [g for g in score.guesses if g.who == who]) for score in counted]
        mine = [(score, guesses) for score, guesses in about if guesses]
        clusters = [groups[score.number] for score, _ in mine]

        def of(values: Iterable[bool | None], clusters: Sequence[object] = clusters) -> Figure:
            return share(np.array([bool(value) for value in values], dtype=np.float64), clusters, seed)

        yield Person(
            who=who,
            guesses=sum(1 for score in injections for guess in score.guesses if guess.who == who),
            first=of(guesses[0].right for _, guesses in mine),
            last=of(guesses[-1].right for _, guesses in mine),
            tool_then=of(guesses[-1].tool_right for _, guesses in mine),
            tool_last=of(score.said[in_use][-1].right for score, _ in mine),
            settled=median([_settled_guess(guesses) for _, guesses in mine], clusters, seed),
            tool_settled=median([score.settled_minute[in_use] for score, _ in mine], clusters, seed),
        )


def _settled_guess(guesses: Sequence[GuessScore]) -> float | None:
    """The minute of the first guess from which on all are right; None where the last one is not."""
    since = None
    for guess in guesses:
        since = (guess.minute if since is None else since) if guess.right else None
    return since


# --- numbers ----------------------------------------------------------------------------------------------------------


def share(values: Floats, groups: Sequence[object], seed: int) -> Figure:
    """Mean of values between 0 and 1."""
    return figure(metrics.estimate_share(values, groups, seed=seed), groups)


def median(values: Sequence[float | None], groups: Sequence[object], seed: int) -> Figure:
    """Median of the values that there are; `n` counts these."""
    there = [(value, group) for value, group in zip(values, groups, strict=True) if value is not None]
    known = np.array([value for value, _ in there], dtype=np.float64)
    clusters = [group for _, group in there]
    return figure(metrics.estimate_of(lambda rows: np.median(known[rows], axis=1), clusters, seed=seed), clusters)


def figure(estimate: Estimate, groups: Sequence[object]) -> Figure:
    """An estimate with how much it rests on. Where all draws are alike the bootstrap says nothing, and there is no interval."""
    rounded = {end: _rounded(value) for end, value in asdict(estimate).items()}
    if rounded["low"] == rounded["high"]:
        rounded |= {"low": None, "high": None}
    return Figure(n=len(groups), groups=len(set(groups)), **rounded)


def _rounded(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else round(value, _DIGITS) + 0.0


def _minutes(ns: int) -> float:
    return round(ns / MINUTE_NS, 2)
