"""What happens to a version: it is measured, and promoted where that says that it may be."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rca import __version__
from rca.errors import BadInput
from rca.evaluation.cases import Recorded
from rca.evaluation.metrics import Estimate
from rca.evaluation.promotion import Answers, Asked, Evaluation, Verdict, check_held_out, evaluated, failed, judged, large_enough
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


def figures(evaluation: Evaluation) -> list[tuple[str, str, str, str, str]]:
    """Rows of a table: cohort, incidents, and how often version, current model and best rule named the cause first, in percent.

    Cohorts are listed one by one where they are few; else those that are large enough for the gate to look at.
    """
    rule = evaluation.best_rule()
    rows = [_row("all", evaluation, evaluation.rows(), rule)]
    for what, parts in evaluation.cohorts().items():
        shown = {name: places for name, places in parts.items() if len(parts) <= _MOST_ROWS or large_enough(evaluation, places)}
        rows.append((f"by {what}", "", "", "", ""))
        rows += [_row(name, evaluation, places, rule) for name, places in shown.items()]
        if left := len(parts) - len(shown):
            rows.append(
                (f"{left} too small to tell", str(sum(map(len, parts.values())) - sum(map(len, shown.values()))), "", "", "")
            )
    return rows


def overall(evaluation: Evaluation) -> str:
    """How often the version named the cause first, and of how many incidents."""
    rows = evaluation.rows()
    return f"{percent(evaluation.accuracy(evaluation.model, rows).value)} of {len(rows)}" if rows else "-"


HEAD = ("cause first, %", "n", "this version", "ranks now", "best rule")
_MOST_ROWS = 30


def _row(name: str, evaluation: Evaluation, rows: Sequence[int], rule: Answers) -> tuple[str, str, str, str, str]:
    shares = [_share(evaluation.accuracy(each, rows)) if rows else "-" for each in (evaluation.model, evaluation.current, rule)]
    return name, str(len(rows)), shares[0], shares[1], shares[2]


def _share(found: Estimate) -> str:
    """In whole percent, with its 95 % interval where there is one."""
    between = f" ({100 * found.low:.0f}-{100 * found.high:.0f})" if found.low is not None and found.high is not None else ""
    return f"{100 * found.value:.0f}{between}"


def said_of(found: Judgement) -> str:
    """What was measured when and by whom, beside what."""
    made = found.evaluation
    when = clock(made.made_ns, date=True)
    return f"evaluation {found.digest} of {made.of}, {when} UTC by {made.who}, beside {made.beside or made.current.ranker}"


def notes_of(evaluation: Evaluation) -> list[str]:
    """What the figures do not show: incidents that could not be read, and rankers beside the version that failed."""
    notes = [failed(each, len(evaluation.incidents)) for each in (evaluation.current, *evaluation.rules) if each.failures]
    if evaluation.left_out:
        name, why = evaluation.left_out[0]
        notes.append(f"left out, since unreadable: {count(len(evaluation.left_out), 'incident')} ({name}: {why})")
    return notes


def verdict_rows(verdict: Verdict) -> list[tuple[str, str]]:
    """What the gate says, a row for every requirement."""
    return [("yes" if reason.met else "NO", f"{reason.what}: {reason.words}") for reason in verdict.reasons]


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
        found = Judgement(made, body["digest"], judged(made))
        lines += [f"## {said_of(found)}", "", f"| {' | '.join(HEAD)} |", "| --- " * len(HEAD) + "|"]
        lines += [f"| {' | '.join(row)} |" for row in figures(made)]
        lines += ["", *(f"- {met.lower()}: {words}" for met, words in verdict_rows(found.verdict))]
        lines += [*(f"- {words}" for words in notes_of(made)), ""]
    return "\n".join(lines)
