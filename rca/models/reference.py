"""What the training graphs of a model looked like: counts of every feature, small enough to travel with the model.

The file `reference.json` lies beside `model.json` and names the weights that it belongs to; docs/drift.md says what it holds. It
has neither names of entities nor of systems. Reading it needs no machine-learning library.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from rca.arrays import GraphArrays, arrays_of
from rca.contracts import LabelledCase
from rca.errors import BadCheckpoint
from rca.graph import Indices
from rca.models.files import WEIGHTS, StoredModel, read_bytes, write_atomically
from rca.models.measures import Group, Measure, Values, measured

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

VERSION: Final = "1"
REFERENCE_FILE: Final = "reference.json"

SOME: Final = 0.1
MUCH: Final = 0.25
"""A population stability index below the first is usually read as no change, above the second as a change to act on."""
MUCH_MISSING: Final = 0.25
"""Difference of two shares that counts as one."""

DRAWS: Final = (1, 3, 10, 30, 100, 300)
"""How many units of training data are drawn to learn what chance alone does."""

_LEVELS, _BINS = 20, 10
_ROUNDS, _COUNTED = 200, 100
_QUANTILE: Final = 0.99
_FEWEST_SYSTEMS: Final = 3
"""Of fewer systems, graphs are drawn instead: what differs between two systems says nothing of a third."""
_MOST_NAMED: Final = 2000
_UNKNOWN: Final = 1e6
"""More than any index, or difference of shares, can be."""

_DIGITS: Final = 4


@dataclass(frozen=True)
class Sketch:
    """One quantity in the training graphs: `counts` of values in (cuts[i-1], cuts[i]], the first and last bin open.

    `missing` is the share without a value, `units` how many systems or graphs have one. `psi_by_chance` and `missing_by_chance`
    are what 99 of 100 draws of DRAWS units of the training data itself stay below.
    """

    group: Group
    cuts: tuple[float, ...]  # in as few digits as a 16-bit float needs
    counts: tuple[int, ...]
    missing: float
    units: int
    psi_by_chance: tuple[float, ...]
    missing_by_chance: tuple[float, ...]

    @property
    def observed(self) -> int:
        return sum(self.counts)

    @property
    def median(self) -> float | None:
        """The value in the middle, at the resolution of the cuts; None without any."""
        return self.at(0.5)

    def at(self, share: float) -> float | None:
        """The first cut that has so many of the values below it."""
        if not self.observed or not self.cuts:
            return None
        reached = np.cumsum(self.counts) >= share * self.observed
        return self.cuts[min(int(reached.argmax()), len(self.cuts) - 1)]


@dataclass(frozen=True)
class Reference:
    """What the graphs were that a model was trained on. `weights` is the SHA-256 of the model's weights.

    What was drawn are `units`: systems where there were at least three, else graphs. `systems` and `incidents` are digests,
    none where there were too many to list. `by_chance` is how many quantities of a group drift in the worst of 100 draws of
    DRAWS units, `excess_by_chance` how far the one goes that goes furthest (`excess`). `kinds` and `relations` count what the
    models saw that it went on from, too.
    """

    weights: str
    made_of: Mapping[str, Any]
    graphs: int
    unit: str
    units: int
    systems: tuple[str, ...]
    incidents: tuple[str, ...]
    missing: Mapping[str, int]  # modality -> graphs that have nothing of it
    kinds: Mapping[str, int]
    relations: Mapping[str, int]
    by_chance: Mapping[str, tuple[int, ...]]
    excess_by_chance: Mapping[str, tuple[float, ...]]
    sketches: Mapping[str, Sketch]
    version: str = VERSION

    def knows(self, system: str) -> bool:
        """Whether the model was trained on incidents of this system, as far as that is listed."""
        return digest_of(system) in self.systems

    def after(self, before: Reference | None) -> Reference:
        """The same of a model that went on from another one: what that one had seen is no unseen kind of entity or relation."""
        if before is None:
            return self
        return replace(self, kinds=_both(self.kinds, before.kinds), relations=_both(self.relations, before.relations))

    def learnt_from(self, incident_id: str) -> bool:
        """Whether the model was trained on this incident, as far as that is listed."""
        return digest_of(incident_id) in self.incidents


def _both(counts: Mapping[str, int], others: Mapping[str, int]) -> dict[str, int]:
    return {name: counts.get(name, 0) + others.get(name, 0) for name in {**counts, **others}}


def digest_of(name: str) -> str:
    """What stands for a name in a reference."""
    return hashlib.sha256(name.encode()).hexdigest()[:12]


def reference_of(
    arrays: GraphArrays,
    systems: Sequence[str],
    *,
    incidents: Sequence[str] = (),
    weights: str = "",
    made_of: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Reference:
    """The reference of G graphs, `systems` naming that of each.

    What chance alone does is found by drawing: half of the units in the place of the training data, and DRAWS of the other half,
    with replacement, in the place of what it is compared with.
    """
    found = measured(arrays)
    names = {name: row for row, name in enumerate(dict.fromkeys(systems))}
    by_system = len(names) >= _FEWEST_SYSTEMS
    unit = np.array([names[name] for name in systems]) if by_system else np.arange(found.graphs)
    units = int(unit.max(initial=-1)) + 1
    draws = _Draws.of(units, seed)
    sketches: dict[str, Sketch] = {}
    drifting: dict[str, Counts] = {}
    furthest: dict[str, Floats] = {}
    for name, measure in found.measures.items():
        sketches[name], excesses = _sketch(measure, unit, draws)
        part = section(measure.group)
        drifting[part] = drifting.get(part, np.zeros(excesses.shape, dtype=np.int64)) + (excesses > 1)
        furthest[part] = np.maximum(furthest.get(part, excesses), excesses)
    return Reference(
        weights=weights,
        made_of=dict(made_of or {}),
        graphs=found.graphs,
        unit="system" if by_system else "graph",
        units=units,
        systems=_digests(names),
        incidents=_digests(dict.fromkeys(incidents)),
        missing={modality: int(gone.sum()) for modality, gone in found.missing.items()},
        kinds=found.kinds,
        relations=found.relations,
        by_chance={part: tuple(counts.max(axis=1).tolist()) for part, counts in drifting.items()},
        excess_by_chance={part: tuple(far.max(axis=1).round(_DIGITS).tolist()) for part, far in furthest.items()},
        sketches=sketches,
    )


def reference_of_cases(cases: Sequence[LabelledCase], seed: int = 0) -> Reference:
    """The reference of the incidents that a model was trained on, labelled or not, as they were recorded."""
    return reference_of(
        arrays_of([case.case.graph for case in cases]),
        [case.system for case in cases],
        incidents=[case.incident_id for case in cases],
        made_of={"what": "recorded incidents"},
        seed=seed,
    )


def section(group: Group) -> str:
    """Quantities are counted in two groups: features, of entities and of calls, and structure."""
    return "structure" if group == "structure" else "feature"


def _digests(names: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(sorted(digest_of(name) for name in names)) if len(names) <= _MOST_NAMED else ()


# --- binning and distances --------------------------------------------------------------------------------------


def cuts_of(values: Values) -> Values:
    """Twentieths of the values. One that is a twentieth of them all by itself gets a bin to itself."""
    if not len(values):
        return values
    ordered = np.sort(values)
    places = np.ceil(np.arange(1, _LEVELS) / _LEVELS * len(ordered)).astype(int) - 1
    cuts, repeated = np.unique(ordered[places], return_counts=True)
    own = np.nextafter(cuts[repeated > 1], np.float16(-np.inf))
    return np.unique(np.concatenate([cuts, own]))


def binned(values: Values, cuts: Values) -> Indices:
    """Bin of every value, right ends included."""
    return np.searchsorted(cuts, values, side="left")


def coarse(counts: Sequence[int] | Counts) -> list[int]:
    """First bin of each of the about ten that the index is computed on: tenths of the counts, frequent values by themselves."""
    total = np.cumsum(counts)
    if not total[-1]:
        return [0]
    last, repeated = np.unique(
        [int((total >= level * total[-1] / _BINS).argmax()) for level in range(1, _BINS)], return_counts=True
    )
    ends = {*last.tolist(), *(last[repeated > 1] - 1).tolist()}
    return [0, *(end + 1 for end in sorted(ends) if 0 <= end < len(total) - 1)]


def stability_index(training: Floats, now: Floats, units: Floats | float) -> Floats:
    """Population stability index of counts over the last axis: sum of (q - p) ln(q / p) of the shares p and q of the bins.

    `units` is how many systems or graphs, independent of each other, the side with fewer of them has values of. Half a unit a bin
    is shared evenly among the bins, in the same measure on both sides, since what few of them never showed may still be. Never
    negative, 0 for equal shares, and where one side has no value at all.
    """
    bins = training.shape[-1]
    even = np.asarray(1 / (1 + 2 * np.asarray(units) / bins))[..., None]
    p, q = (
        (1 - even) * counts / np.maximum(counts.sum(axis=-1, keepdims=True), 1e-9) + even / bins for counts in (training, now)
    )
    index: Floats = np.where(np.asarray(units) > 0, ((q - p) * np.log(q / p)).sum(axis=-1), 0.0)
    return np.maximum(index, 0.0)


def largest_gap(training: Floats, now: Floats) -> float | None:
    """Distance of Kolmogorov and Smirnov: the largest difference of the shares up to a cut. None where one side has no value."""
    if not training.sum() or not now.sum():
        return None
    return float(np.abs(np.cumsum(training) / training.sum() - np.cumsum(now) / now.sum()).max())


# --- what chance does -------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Draws:
    """How often every unit was drawn, (rounds, units): in the place of the training data, and of `DRAWS` units of now.

    Both halves of a round have no unit in common: what is new is drawn from what the training data of that round never saw.
    """

    training: Floats
    now: tuple[Floats, ...]

    @classmethod
    def of(cls, units: int, seed: int) -> _Draws:
        rng = np.random.default_rng([seed, 7])
        rounds = _ROUNDS + _COUNTED
        if not units:
            return cls(np.zeros((rounds, 0)), (np.zeros((rounds, 0)),) * len(DRAWS))
        first = rng.permuted(np.tile(np.arange(units), (rounds, 1)), axis=1) < (units + 1) // 2
        rest = ~first / np.maximum((~first).sum(axis=1, keepdims=True), 1)
        now = tuple(np.array([rng.multinomial(count, each) for each in rest], dtype=np.float64) for count in DRAWS)
        return cls(first.astype(np.float64), now)


def _sketch(measure: Measure, unit: Indices, draws: _Draws) -> tuple[Sketch, Floats]:
    """The sketch of a quantity, and its excess in each of the draws that are counted, (DRAWS, counted)."""
    cuts = cuts_of(measure.values)
    bins, units = len(cuts) + 1, draws.training.shape[1]
    place = unit[measure.owner] * bins + binned(measure.values, cuts)
    by_unit = np.bincount(place, minlength=units * bins).reshape(units, bins)  # (U, B)
    counts = by_unit.sum(axis=0)
    merged = np.add.reduceat(by_unit, coarse(counts), axis=1).astype(np.float64)
    asked = np.bincount(unit, weights=measure.asked, minlength=units).astype(np.float64)
    training, training_gone = draws.training @ merged, _gone(draws.training, merged, asked)
    has = by_unit.any(axis=1)
    having = (draws.training[:, has] > 0).sum(axis=1)  # (R,) units with a value
    psi_floor, gone_floor, excesses = [], [], []
    for now in draws.now:
        psi = stability_index(training, now @ merged, np.minimum(having, (now[:, has] > 0).sum(axis=1)))
        gone = np.abs(_gone(now, merged, asked) - training_gone)
        known = units > 1  # of a single unit nobody knows what another one would be like
        floors = [float(np.quantile(values[:_ROUNDS], _QUANTILE)) if known else _UNKNOWN for values in (psi, gone)]
        psi_floor.append(round(floors[0], _DIGITS))
        gone_floor.append(round(floors[1], _DIGITS))
        excesses.append(excess(psi, gone, *floors)[_ROUNDS:])
    total = float(measure.asked.sum())
    sketch = Sketch(
        measure.group,
        tuple(float(str(cut)) for cut in cuts),
        tuple(counts.tolist()),
        round(1 - len(measure.values) / total, 6) if total else 1.0,
        int(has.sum()),
        tuple(psi_floor),
        tuple(gone_floor),
    )
    return sketch, np.array(excesses)


def excess(psi: Floats, missing: Floats, psi_floor: float, missing_floor: float) -> Floats:
    """How many times an index, or a difference of what is missing, is what is large and what chance does: above 1, it drifted."""
    return np.maximum(psi / max(psi_floor, MUCH), missing / max(missing_floor, MUCH_MISSING))


def _gone(drawn: Floats, by_unit: Floats, asked: Floats) -> Floats:
    """Share without a value in every round; 0 where nothing could have had one."""
    total = drawn @ asked
    return np.where(total > 0, 1 - (drawn @ by_unit.sum(axis=1)) / np.maximum(total, 1), 0.0)


def by_chance(values: Sequence[float], units: int) -> float:
    """A value that is known for DRAWS units, for another number of them: on a line over the logarithm, flat beyond both ends."""
    return float(np.interp(math.log(max(units, 1)), np.log(DRAWS), values))


# --- the file ---------------------------------------------------------------------------------------------------


def write_reference(model: StoredModel, reference: Reference) -> Path:
    """Write it beside the model, as that of its weights, over the one that is there. Raises StorageFull."""
    body = asdict(reference) | {"weights": model.files[WEIGHTS][1]}
    path = model.folder / REFERENCE_FILE
    write_atomically(path, _text({"digest": _digest(body), **body}).encode())
    return path


def read_reference(model: StoredModel) -> Reference | None:
    """The reference of a model; None where it has none. Raises BadCheckpoint where it is damaged, or that of other weights."""
    path = model.folder / REFERENCE_FILE
    if not path.exists():
        return None
    try:
        body = json.loads(read_bytes(path))
        digest, version = body.pop("digest"), body["version"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadCheckpoint(str(path), expected="a reference (docs/drift.md)", found=f"something else: {error}") from error
    if version != VERSION:
        raise BadCheckpoint(str(path), expected=f"a reference of version {VERSION!r}", found=repr(version))
    if (found := _digest(body)) != digest:
        raise BadCheckpoint(str(path), expected=f"digest {str(digest)[:12]}", found=f"{found[:12]} (damaged or changed)")
    if (weights := body["weights"]) != model.files[WEIGHTS][1]:
        expected = f"that of the weights {model.files[WEIGHTS][1][:12]} beside it"
        raise BadCheckpoint(str(path), expected=expected, found=f"that of {str(weights)[:12]}")
    try:
        return _parsed(body)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise BadCheckpoint(str(path), expected="the fields of docs/drift.md", found=str(error)) from error


def _parsed(body: Mapping[str, Any]) -> Reference:
    sketches = {name: Sketch(**_with_tuples(sketch)) for name, sketch in body["sketches"].items()}
    chance = {name: _with_tuples(body[name]) for name in ("by_chance", "excess_by_chance")}
    reference = Reference(**_with_tuples({**body, "sketches": sketches, **chance}))
    for name, sketch in sketches.items():
        _check(name, sketch)
    return reference


def _check(name: str, sketch: Sketch) -> None:
    if len(sketch.counts) != len(sketch.cuts) + 1 or any(low >= high for low, high in pairwise(sketch.cuts)):
        raise ValueError(f"{name}: {len(sketch.cuts)} rising cuts and {len(sketch.counts)} counts do not belong together")
    if {len(sketch.psi_by_chance), len(sketch.missing_by_chance)} != {len(DRAWS)}:
        raise ValueError(f"{name}: expected {len(DRAWS)} draws")


def _with_tuples(body: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in body.items()}


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _text(body: Mapping[str, Any], line: Callable[[Any], str] = lambda value: json.dumps(value, separators=(",", ":"))) -> str:
    """JSON with a line for every field and every sketch."""
    sketches = ",\n".join(f"  {json.dumps(name)}: {line(sketch)}" for name, sketch in body["sketches"].items())
    rest = ",\n".join(f" {json.dumps(key)}: {line(value)}" for key, value in body.items() if key != "sketches")
    return f'{{\n{rest},\n "sketches": {{\n{sketches}\n }}\n}}\n'
