"""How far graphs of now are from those that a model was trained on: features, what is missing of them, and structure. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from rca.arrays import arrays_of
from rca.graph import RELATIONS, Indices, ServiceGraph
from rca.models.measures import MODALITIES, Group, Measure, Measured, Values, measured, title_of
from rca.models.reference import (
    MUCH_MISSING,
    SOME,
    Reference,
    Sketch,
    binned,
    by_chance,
    coarse,
    excess,
    largest_gap,
    section,
    stability_index,
)
from rca.wording import count, listed, percent

Level = Literal["none", "some", "drift"]
_LEAST_LIKELY: Final = 0.01
_RARE: Final = 0.1
_NAMED: Final = 3
FEWEST: Final = 5
"""Of fewer graphs of systems that the model knows, the next one may well be of another kind of fault."""

_ENOUGH: Final = 10
"""Graphs or systems, of which a signal that is louder by half a logarithm is found as a rule (docs/drift.md)."""

How = Literal["higher", "lower", "spread otherwise", "missing more often", "missing less often"]


@dataclass(frozen=True)
class Shift:
    """One quantity now and in training. Shares of values that are missing; `psi_by_chance` is what chance alone stays below.

    `excess` is how many times it is what is large and what chance does, `how` what is most different about it. `ks` is None where
    one side has no value. Medians of training are at the resolution of the reference's cuts.
    """

    name: str
    group: Group
    psi: float
    ks: float | None
    psi_by_chance: float
    missing: float
    missing_training: float
    missing_by_chance: float
    median: float | None
    median_training: float | None
    observed: int
    excess: float
    how: How

    @property
    def level(self) -> Level:
        if self.excess > 1:
            return "drift"
        return "some" if self.psi >= SOME and self.psi > self.psi_by_chance else "none"

    def words(self) -> str:
        """What it is and how it differs, for people."""
        if self.how in ("missing more often", "missing less often"):
            return f"{title_of(self.name)} ({self.how}: {percent(self.missing)}, in training {percent(self.missing_training)})"
        return f"{title_of(self.name)} ({self.how}, PSI {self.psi:.2f})"


@dataclass(frozen=True)
class Modality:
    """Share of graphs that have nothing of one kind of telemetry, and how likely chance alone is to differ so much (Fisher).

    `differs` says that it is worth a look. Where training data are of many systems, what one system records is no news unless it
    was rare among them.
    """

    name: str
    missing: float
    missing_training: float
    likely: float
    differs: bool


@dataclass(frozen=True)
class Drift:
    """Graphs of now against those of training. `strangers` are systems of now that the model was not trained on, where known.

    `units` of now, graphs or systems as `unit` says, are independent of each other.
    """

    graphs: int
    systems: int
    graphs_training: int
    shifts: tuple[Shift, ...]
    modalities: tuple[Modality, ...]
    unseen_kinds: tuple[str, ...]
    unseen_relations: tuple[str, ...]
    expected: Mapping[str, float]  # how many features, and how many quantities of structure, drift by chance alone
    expected_excess: Mapping[str, float]  # and how far the one goes that goes furthest
    strangers: tuple[str, ...]
    systems_training: int | None
    unit: str
    units: int

    @property
    def few(self) -> bool:
        """Whether there are too few graphs to say that features or structure drifted."""
        return self.unit == "graph" and self.units < FEWEST

    def drifted(self, part: str) -> tuple[Shift, ...]:
        """Features or quantities of the structure that drifted, the furthest first."""
        found = [shift for shift in self.shifts if section(shift.group) == part and shift.level == "drift"]
        return tuple(sorted(found, key=lambda shift: (-shift.excess, shift.name)))

    def alarms(self, part: str) -> bool:
        """Whether more has drifted, or something further, than in the worst of a hundred draws of the training data itself."""
        drifted = () if self.few else self.drifted(part)
        furthest = max((shift.excess for shift in drifted), default=0.0)
        return len(drifted) > self.expected[part] or furthest > max(self.expected_excess[part], 1)

    def verdicts(self) -> dict[str, bool]:
        """Whether anything is worth a person's look, by what it is about."""
        return {
            "features": self.alarms("feature"),
            "structure": self.alarms("structure"),
            "telemetry": any(modality.differs for modality in self.modalities),
            "kinds": bool(self.unseen_kinds or self.unseen_relations),
        }

    @property
    def found(self) -> bool:
        """Whether anything is worth a person's look."""
        return any(self.verdicts().values())

    def sentence(self) -> str:
        """What there is to say, in one plain sentence."""
        return "; ".join(self.findings()) or f"features look like training data{self.caution()}"

    def caution(self) -> str:
        """Where so few systems or graphs were seen that little drift would be found: that."""
        return f", as far as {count(self.units, self.unit)} can tell" if self.units < _ENOUGH else ""

    def findings(self) -> Iterator[str]:
        """What is worth a person's look, most telling first."""
        for modality in self.modalities:
            if modality.differs:
                yield (
                    f"{modality.name} are missing in {percent(modality.missing)} of now's graphs, "
                    f"{percent(modality.missing_training)} in training"
                )
        if strange := [*self.unseen_kinds, *map(_edge_words, self._strange_relations())]:
            yield f"no training graph had {' or '.join(map(_a, strange))}"
        if self.alarms("feature"):
            yield self._count("feature", "features")
        if self.alarms("structure"):
            yield self._count("structure", "measures of the structure")

    def _count(self, part: str, what: str) -> str:
        drifted = self.drifted(part)
        of = sum(section(shift.group) == part for shift in self.shifts)
        first = listed([alike[0].words() for alike in _by_title(drifted)], _NAMED)
        return f"{len(drifted)} of {of} {what} differ from training data, above all {first}"

    def _strange_relations(self) -> list[str]:
        """Relations that no training graph had, though it had what they lead from and to."""
        return [name for name in self.unseen_relations if not set(RELATIONS.get(name, ())) & set(self.unseen_kinds)]


def _by_title(shifts: Sequence[Shift]) -> list[list[Shift]]:
    """Those that are called alike together, in their order."""
    found: dict[str, list[Shift]] = {}
    for shift in shifts:
        found.setdefault(title_of(shift.name), []).append(shift)
    return list(found.values())


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _edge_words(relation: str) -> str:
    return f"relation `{relation}`"


def drift_of(reference: Reference, graphs: Sequence[ServiceGraph], systems: Sequence[str]) -> Drift:
    """Compare graphs, `systems` naming that of each, with those that a model was trained on. Raises BadGraph without a graph."""
    return drift_of_measured(reference, measured(arrays_of(graphs)), systems)


def drift_of_measured(reference: Reference, now: Measured, systems: Sequence[str]) -> Drift:
    """The same of graphs that are counted already."""
    distinct = sorted(set(systems))
    by_system = reference.unit == "system"
    unit = np.array([distinct.index(name) for name in systems]) if by_system else np.arange(now.graphs)
    units = len(distinct) if by_system else now.graphs
    known = bool(reference.systems)
    return Drift(
        graphs=now.graphs,
        systems=len(distinct),
        graphs_training=reference.graphs,
        shifts=tuple(
            _shift(name, reference.sketches[name], measure, unit, units)
            for name, measure in now.measures.items()
            if name in reference.sketches
        ),
        modalities=tuple(_modalities(reference, now)),
        unseen_kinds=_unseen(reference.kinds, now.kinds),
        unseen_relations=_unseen(reference.relations, now.relations),
        expected={part: by_chance(counts, units) for part, counts in reference.by_chance.items()},
        expected_excess={part: by_chance(far, units) for part, far in reference.excess_by_chance.items()},
        strangers=tuple(name for name in distinct if known and not reference.knows(name)),
        systems_training=len(reference.systems) if known else None,
        unit=reference.unit,
        units=units,
    )


def _shift(name: str, sketch: Sketch, measure: Measure, unit: Indices, units: int) -> Shift:
    cuts = np.array(sketch.cuts, dtype=np.float16)
    counts = np.bincount(binned(measure.values, cuts), minlength=len(sketch.counts)).astype(np.float64)
    training = np.array(sketch.counts, dtype=np.float64)
    bins = coarse(sketch.counts)
    having = min(sketch.units, len(np.unique(unit[measure.owner])))
    psi = float(stability_index(np.add.reduceat(training, bins), np.add.reduceat(counts, bins), having))
    asked = int(measure.asked.sum())
    missing = 1 - len(measure.values) / asked if asked else sketch.missing
    psi_floor, missing_floor = by_chance(sketch.psi_by_chance, units), by_chance(sketch.missing_by_chance, units)
    far, gone = excess(np.array([psi, 0.0]), np.array([0.0, abs(missing - sketch.missing)]), psi_floor, missing_floor)
    median = float(np.median(measure.values.astype(np.float64))) if len(measure.values) else None
    return Shift(
        name=name,
        group=measure.group,
        psi=psi,
        ks=largest_gap(training, counts),
        psi_by_chance=psi_floor,
        missing=missing,
        missing_training=sketch.missing,
        missing_by_chance=missing_floor,
        median=median,
        median_training=sketch.median,
        observed=len(measure.values),
        excess=float(max(far, gone)),
        how=_how(median, sketch.median, cuts) if far >= gone else _missing_how(missing, sketch.missing),
    )


def _how(now: float | None, training: float | None, cuts: Values) -> How:
    """Where the middle of the values went, at the resolution of the cuts."""
    if now is None or training is None:
        return "spread otherwise"
    places = binned(np.array([now, training], dtype=np.float16), cuts)
    return "higher" if places[0] > places[1] else "lower" if places[0] < places[1] else "spread otherwise"


def _missing_how(now: float, training: float) -> How:
    return "missing more often" if now > training else "missing less often"


def _modalities(reference: Reference, now: Measured) -> Iterator[Modality]:
    for name in MODALITIES:
        gone, before = int(now.missing[name].sum()), reference.missing.get(name, 0)
        share, share_before = gone / max(now.graphs, 1), before / max(reference.graphs, 1)
        likely = as_uneven_by_chance(gone, now.graphs, before, reference.graphs)
        was_rare = min(share_before, 1 - share_before) <= _RARE
        news = was_rare if reference.unit == "system" else True
        differs = abs(share - share_before) >= MUCH_MISSING and likely < _LEAST_LIKELY and news
        yield Modality(name, share, share_before, likely, differs)


def as_uneven_by_chance(hits: int, of: int, others: int, of_others: int) -> float:
    """Fisher's exact test, two-sided: how likely a split of all hits over both groups is that is no likelier than this one."""
    total, drawn = of + of_others, hits + others
    low, high = max(0, drawn - of_others), min(of, drawn)
    likely = np.array([_ways(of, k) + _ways(of_others, drawn - k) - _ways(total, drawn) for k in range(low, high + 1)])
    return min(1.0, float(np.exp(likely[likely <= likely[hits - low] + 1e-9]).sum()))


def _ways(n: int, k: int) -> float:
    """Logarithm of the number of ways to choose k of n."""
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _unseen(training: Mapping[str, int], now: Mapping[str, int]) -> tuple[str, ...]:
    return tuple(name for name, count in now.items() if count and not training.get(name))
