"""What happens to a version: it is measured, and promoted where that says that it may be."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rca import __version__
from rca.errors import BadInput
from rca.evaluation.cases import Recorded
from rca.evaluation.promotion import Asked, Evaluation, Verdict, check_held_out, evaluated, judged
from rca.models.files import read_model
from rca.models.learnt import Learnt, read_learnt
from rca.models.shipped import checked, shipped_folder, shipped_ranker
from rca.models.versions import Change, State, Version, Versions
from rca.provenance import code_digest
from rca.wording import clock, count, percent


@dataclass(frozen=True)
class Judgement:
    """The evaluation that a promotion rests on, its digest, and the verdict."""

    evaluation: Evaluation
    digest: str
    verdict: Verdict


def current_of(versions: Versions, state: State) -> Asked:
    """The model that ranks: the promoted version, else the one that ships. Raises BadCheckpoint, BadInput."""
    if state.current is not None:
        model = versions.get(state.current).model
        return Asked(checked(model.folder), read_learnt(model))
    folder = shipped_folder()
    return Asked(shipped_ranker(), read_learnt(read_model(folder)) if folder is not None else Learnt())


def code() -> str:
    """Version and digest of the program that measures."""
    return f"{__version__}+{code_digest('models', 'evaluation')}"


def unseen(recorded: Sequence[Recorded], *learnt: Learnt | None) -> list[Recorded]:
    """The incidents that none of these learnt from."""
    known = [each for each in learnt if each is not None]
    return [one for one in recorded if not any(each.knows(one.incident.id, one.digest) for each in known)]


def examine(
    versions: Versions, version: Version, recorded: Sequence[Recorded], *, of: str, who: str, step: Callable[[str], None]
) -> Judgement:
    """Measure a version on labelled incidents beside what ranks now, and keep that.

    Raises BadInput where the version ranks already, or learnt from some of the incidents.
    """
    state = versions.state()
    if version.id == state.current:
        raise BadInput("evaluation", expected="another version than the one that ranks", found=version.id)
    model, current = Asked(checked(version.folder), read_learnt(version.model)), current_of(versions, state)
    made = evaluated(
        recorded,
        version.id,
        model,
        state.current,
        current,
        of=of,
        made_ns=time.time_ns(),
        who=who,
        code=code(),
        home=versions.home,
        step=step,
    )
    if not made.incidents:
        raise BadInput("evaluation", expected="labelled incidents that can be read", found=f"none of {len(recorded)}")
    return Judgement(made, versions.add_evaluation(version.id, made.to_json()), judged(made))


def judgement(versions: Versions, version: Version, state: State) -> Judgement:
    """The newest evaluation of a version beside what ranks now, and what it says.

    Raises BadInput where there is none, or where the version learnt from incidents of it.
    """
    how = f"`rca models evaluate {version.id}`"
    found = [(body["digest"], Evaluation.from_json(body)) for body in versions.evaluations(version.id)]
    if not found:
        raise BadInput(f"promotion of {version.id}", expected=f"an evaluation of it ({how} makes one)", found="none")
    name = current_of(versions, state).ranker.name
    fitting = [each for each in found if (each[1].beside, each[1].current.ranker) == (state.current, name)]
    if not fitting:
        beside = found[-1][1].beside or found[-1][1].current.ranker
        expected = f"an evaluation beside {state.current or name}, which ranks now ({how} makes one)"
        raise BadInput(f"promotion of {version.id}", expected=expected, found=f"one beside {beside}")
    digest, evaluation = fitting[-1]
    check_held_out(version.id, read_learnt(version.model), [(one.id, one.recording) for one in evaluation.incidents])
    if evaluation.version != version.id:
        raise BadInput(f"evaluation {digest}", expected=f"one of {version.id}", found=evaluation.version)
    return Judgement(evaluation, digest, judged(evaluation))


def promoted(versions: Versions, version: Version, state: State, found: Judgement | None, *, why: str, forced: bool) -> Change:
    """Have a version rank; `forced` past a verdict against it, or without any. Raises BadInput where it may not."""
    if version.id == state.current:
        raise BadInput("promotion", expected="another version than the one that ranks", found=version.id)
    if not forced and (found is None or not found.verdict.passed):
        raise BadInput(f"promotion of {version.id}", expected="a verdict for it", found="none")
    return versions.promote(version, expected=state, why=why, evaluation=found.digest if found else None, forced=forced)


# --- in words ---------------------------------------------------------------------------------------------------


def figures(evaluation: Evaluation) -> list[tuple[str, str, str, str, str, str]]:
    """Rows of a table: cohort, incidents, and how often version, current model and best rule named the cause first."""
    rule = evaluation.best_rule()
    rows = [overall(evaluation)]
    for what, parts in evaluation.cohorts().items():
        rows += [_row(f"{what} {name}", evaluation, places, rule.ranker) for name, places in parts.items()]
    return rows


def overall(evaluation: Evaluation) -> tuple[str, str, str, str, str, str]:
    """The first of these rows: all incidents together."""
    return _row("all", evaluation, evaluation.rows(), evaluation.best_rule().ranker)


HEAD = ("cohort", "incidents", "groups", "this version", "ranks now", "best rule")


def _row(name: str, evaluation: Evaluation, rows: Sequence[int], rule: str) -> tuple[str, str, str, str, str, str]:
    best = next(each for each in evaluation.rules if each.ranker == rule)
    shares = []
    for answers in (evaluation.model, evaluation.current, best):
        found = evaluation.accuracy(answers, rows)
        between = f" ({percent(found.low)}-{percent(found.high)})" if found.low is not None and found.high is not None else ""
        shares.append(f"{percent(found.value)}{between}" if rows else "-")
    return name, str(len(rows)), str(len(set(evaluation.groups(rows)))), shares[0], shares[1], shares[2]


def verdict_lines(found: Judgement) -> list[str]:
    """What the gate says, a line for every requirement."""
    return [f"{'yes' if reason.met else 'NO '}  {reason.what}: {reason.words}" for reason in found.verdict.reasons]


def facts_of(version: Version) -> list[tuple[str, str]]:
    """What is known of a version, as pairs of words."""
    card, facts = version.model.card, version.facts
    learnt = read_learnt(version.model)
    return [
        ("version", version.id),
        ("ranks as", version.model.id),
        ("registered", f"{clock(facts.registered_ns, date=True)} UTC by {facts.who}, {facts.source}"),
        ("parent", facts.parent or "-"),
        ("code", facts.code),
        ("seed", str(card.training.get("seed", "-"))),
        ("trained on", _trained_on(card.data)),
        ("learnt from", count(len(learnt.incidents), "recorded incident") if learnt else "unknown"),
        ("correction", percent(float(card.training.get("strength", 0.0)))),
        ("temperature", f"{card.temperature:.2f}"),
        ("note", facts.note or "-"),
    ]


def _trained_on(data: Mapping[str, Any]) -> str:
    """Number of graphs, and the digests of what they were."""
    digests = [f"{name} {str(data[name])[:12]}" for name in ("training", "validation") if name in data]
    digests += [f"{source.get('name')} {str(source.get('sha256', ''))[:12]}" for source in data.get("sources", ())]
    if isinstance(simulated := data.get("simulated"), dict):
        digests.append(f"{simulated.get('incidents')} simulated of seed {simulated.get('seed')}, code {simulated.get('code')}")
    return ", ".join([count(int(data.get("graphs", 0)), "graph"), *digests])


def card_of(version: Version, evaluations: Sequence[Mapping[str, Any]]) -> str:
    """The card of a version as Markdown."""
    card = version.model.card
    lines = [f"# {version.id}", "", *(f"- {name}: {words}" for name, words in facts_of(version)), ""]
    lines += [card.intended_use, ""] if card.intended_use else []
    lines += [*(f"- {limit}" for limit in card.limits), ""] if card.limits else []
    lines += ["## Files", "", *(f"- `{name}` {digest}" for name, digest in version.facts.files.items()), ""]
    for body in evaluations:
        made = Evaluation.from_json(body)
        lines += [f"## Evaluation {body['digest']}: {made.of}, beside {made.beside or made.current.ranker}", ""]
        lines += [f"| {' | '.join(HEAD)} |", "| --- " * len(HEAD) + "|"]
        lines += [f"| {' | '.join(row)} |" for row in figures(made)]
        lines += ["", *(f"- {'yes' if each.met else 'no'}: {each.what}: {each.words}" for each in judged(made).reasons), ""]
    return "\n".join(lines)
