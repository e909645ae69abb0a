"""Is it time to train again? By labels, by time, and by drift, as `[training]` says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rca.collectors.config import TrainingRules
from rca.evaluation.cases import Labels, Recorded, from_store
from rca.evaluation.lately import RECENT_NS, count_recorded, known_of, lately
from rca.evaluation.life import unseen
from rca.incidents.store import DATABASE_FILE
from rca.models.files import StoredModel, read_model
from rca.models.learnt import read_learnt
from rca.models.shipped import shipped_folder
from rca.models.versions import Versions
from rca.telemetry import SECOND_NS
from rca.wording import count, seconds


@dataclass(frozen=True)
class Rule:
    """One rule of `[training]`, whether it says that it is time, and why."""

    name: str
    met: bool
    words: str


@dataclass(frozen=True)
class Due:
    """What the rules say. Without a single new label there is nothing to learn, whatever the others say."""

    fresh: int
    rules: tuple[Rule, ...]

    @property
    def met(self) -> bool:
        return self.fresh > 0 and any(rule.met for rule in self.rules)

    def words(self) -> str:
        """In one sentence."""
        if not self.fresh:
            return "not due: there is no label that the model in use did not learn from"
        said = [rule.words for rule in self.rules if rule.met] or [rule.words for rule in self.rules]
        return f"{'due' if self.met else 'not due'}: {'; '.join(said)}"


def due(
    home: Path, rules: TrainingRules, now_ns: int, *, systems: Sequence[str] = (), step: Callable[[str], None] = lambda _: None
) -> Due:
    """What the rules say of the labels in the store at `home` and of the model in use there. Raises BadCheckpoint."""
    versions = Versions(home)
    state = versions.state()
    version = versions.get(state.current) if state.current else None
    folder = shipped_folder()
    model = version.model if version else read_model(folder) if folder else None
    recorded = from_store(systems, home, Labels.ANY) if (home / DATABASE_FILE).exists() else []
    fresh = unseen([one for one in recorded if Labels.TOLD.want(one.incident)], read_learnt(model) if model else None)
    words = f"{count(len(fresh), 'new label')}, of {rules.labels} ([training] labels)"
    found = [Rule("labels", len(fresh) >= rules.labels, words)]
    if fresh:
        since_ns = version.facts.registered_ns if version else min(one.incident.window.end_ns for one in fresh)
        age_ns = max(now_ns - since_ns, 0)
        whose = "the model in use is" if version else "the oldest new label is"
        words = f"{whose} {seconds(age_ns / SECOND_NS)} old, of {seconds(rules.every / SECOND_NS)} ([training] every)"
        found.append(Rule("time", age_ns >= rules.every, words))
        if rules.drift:
            met, said = _drift(model, recorded, home, now_ns, systems, step)
            found.append(Rule("drift", met, f"{said} ([training] drift)"))
    return Due(len(fresh), tuple(found))


def _drift(
    model: StoredModel | None,
    recorded: Sequence[Recorded],
    home: Path,
    now_ns: int,
    systems: Sequence[str],
    step: Callable[[str], None],
) -> tuple[bool, str]:
    """The same figures as in `rca serve` and `rca doctor`, after counting what these have not counted."""
    known = known_of(model.folder if model else None)
    if known.reference is None:
        return False, f"no drift can be told: {known.why_not}"
    count_recorded(home, [one for one in recorded if one.incident.window.end_ns > now_ns - RECENT_NS], step=step)
    found = lately(home, known, now_ns, systems)
    if found.drift is None:
        return False, "no drift can be told: no incident of the last 30 days"
    return found.drift.found, found.drift.sentence()
