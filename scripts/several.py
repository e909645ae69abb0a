"""A second cause beside the first: fits the threshold of rca/several.py, and judges it on systems that nothing was fitted on.

    python -m scripts.several fit [--systems 150]       # says which threshold rca/several.py should have
    python -m scripts.several judge [--systems 300]

Both keep what they find in docs/results/several.json. Every simulated system is asked about three times: with one fault, with the
same fault and a second one that begins with it and has another cause, and quiet. Kinds of fault are drawn alike. A system that
cannot have both faults is drawn again for the second question. The recorded shop's incidents have one fault each: its training
part is fitted on too, its test part judged. Whom the shipped model names first is the first cause; what is counted is what a
report would say.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import math
import pickle
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from rca.bins import Bins
from rca.cli.terminal import progress
from rca.contracts import Case, group_of
from rca.evaluation.cases import Labels, case_for, from_folder, rolled_up
from rca.evaluation.metrics import estimate_share
from rca.faults import is_no_fault
from rca.features import quiet_graph
from rca.incidents.home import default_home
from rca.models.files import write_atomically
from rca.models.shipped import shipped_ranker
from rca.pipeline import case_of
from rca.provenance import code_digest
from rca.ranking import rounded
from rca.report import outcome_of
from rca.several import THRESHOLD, also_of, joined, loudest_other
from rca.simulator import SIMULATED, simulate
from rca.simulator.generation import in_processes
from rca.telemetry import EntityId
from rca.window import Window
from scripts.sets import INCIDENTS, SEVERAL, read_result, write_result

FAULTS: Final = tuple(kind for kind in SIMULATED if not is_no_fault(kind))
SINGLE, DOUBLE, QUIET = "single", "double", "quiet"
FIT_SEED: Final = 313_131
JUDGE_SEED: Final = 424_242
SYSTEMS: Final = {"fit": 150, "judge": 300}
MOST_FALSE: Final = 0.05
FALSE: Final = "one fault, its cause first: a second cause is told"
TOLD: Final = "two faults, one of the causes first: a second cause is told"
NAMED: Final = "two faults, one of the causes first: it is the other"


@dataclass(frozen=True, eq=False)
class Asked:
    """One window, and who is to blame in it. Of the case's telemetry only alerts are kept."""

    how: str
    case: Case
    causes: tuple[EntityId, ...]
    kinds: tuple[str, ...]
    system: int


def asked_of(seed: int, index: int) -> list[Asked]:
    """The windows of one simulated system."""
    rng = np.random.default_rng([seed, index, 3])
    first, second = (str(kind) for kind in rng.choice(FAULTS, 2))
    made = []
    for how, beside in ((SINGLE, None), (DOUBLE, second)):
        incident, telemetry = simulate(seed, index, kind=first, second=beside)
        case = case_of(incident, telemetry)
        case = replace(case, window=_thin(case.window))
        if case.graph.candidates and len(incident.causes()) == 1 + (how == DOUBLE):
            made.append(Asked(how, case, incident.causes(), tuple(label.fault_kind for label in incident.labels), index))
        if how == SINGLE and case.quiet:
            place = int(rng.integers(len(case.quiet)))
            others = tuple(stretch for at, stretch in enumerate(case.quiet) if at != place)
            quiet = Case(_thin(case.window, alerts=False), case.quiet[place], others, quiet_graph(case.quiet, place))
            made.append(Asked(QUIET, quiet, (), (), index))
    return made


def _thin(window: Window, *, alerts: bool = True) -> Window:
    frames = {name: getattr(window, name).clear() for name in ("metrics", "events", "logs", "calls", "topology")}
    return replace(window, bins=Bins.empty(), alerts=window.alerts if alerts else window.alerts.clear(), **frames)


def _make(seed: int, folder: Path, index: int) -> None:
    write_atomically(folder / f"{index}.pickle", pickle.dumps(asked_of(seed, index)))


def windows(seed: int, systems: int, processes: int) -> list[Asked]:
    """The windows of simulated systems, kept in $RCA_HOME/cache/several as they are made."""
    made_by = "".join(inspect.getsource(one) for one in (Asked, asked_of, _thin))
    key = hashlib.blake2b(f"{code_digest('simulator')} {made_by}".encode(), digest_size=12).hexdigest()
    folder = default_home() / "cache" / "several" / f"{key}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    missing = [index for index in range(systems) if not (folder / f"{index}.pickle").exists()]
    with progress("Simulating", systems) as step:
        step("", completed=systems - len(missing))
        for done, _ in enumerate(in_processes(partial(_make, seed, folder), missing, processes), 1):
            step("", completed=systems - len(missing) + done)
    return [one for index in range(systems) for one in pickle.loads((folder / f"{index}.pickle").read_bytes())]  # our own files


def fit(asked: Sequence[Asked]) -> dict[str, Any]:
    """The least threshold at which at most MOST_FALSE of the incidents with one fault, whose cause comes first, get a second."""
    loudest = sorted((each for each in map(_loudest, asked) if each is not None), reverse=True)
    allowed = math.floor(MOST_FALSE * len(loudest))
    return {"incidents": len(loudest), "threshold": math.ceil(100 * loudest[allowed]) / 100}


def _loudest(one: Asked) -> float | None:
    """The least threshold at which no second cause is told; None where there are two, or the first is none."""
    ranking = shipped_ranker().rank(one.case)
    if one.how != SINGLE or ranking.candidates[0].entity not in one.causes:
        return None
    return loudest_other(one.case.graph, ranking) if outcome_of(ranking) == "cause" else -math.inf


@dataclass(frozen=True)
class Answer:
    """What is said of one window. `second` is None where the first is no cause or there is one cause only."""

    how: str
    group: object
    right: bool
    said: tuple[EntityId, ...]
    causes: tuple[EntityId, ...]
    second: EntityId | None = None
    apart: bool = False


def answer(one: Asked, group: object) -> Answer:
    """Whom the report names first, and beside it."""
    graph, causes, ranking = one.case.graph, one.causes, shipped_ranker().rank(one.case)
    first = ranking.candidates[0].entity
    second = next((cause for cause in causes if cause != first), None) if first in causes else None
    apart = second in graph.rows and second is not None and not joined(graph, graph.rows[first])[graph.rows[second]]
    said = also_of(graph, ranking) if outcome_of(ranking) == "cause" else ()
    return Answer(one.how, group, first in causes, said, causes, second, apart)


def findings(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """How often what is said, each with how many windows were asked about and its interval."""

    def share(what: str, of: Callable[[Answer], bool], holds: Callable[[Answer], bool]) -> dict[str, Any]:
        chosen = [one for one in answers if of(one)]
        found = estimate_share(np.array([float(holds(one)) for one in chosen]), [one.group for one in chosen])
        return {"what": what, "n": len(chosen), **(rounded(asdict(found)) if chosen else {})}

    def told(one: Answer) -> bool:
        return bool(one.said)

    def both(one: Answer) -> bool:
        return one.second is not None

    made = [
        share(FALSE, lambda one: one.how == SINGLE and one.right, told),
        share("one fault, whoever comes first: a second cause is told", lambda one: one.how == SINGLE, told),
        share("quiet: a second cause is told", lambda one: one.how == QUIET, told),
        share("two faults, one of the causes first: nothing joins it with the other", both, lambda one: one.apart),
        share(TOLD, both, told),
        share(NAMED, both, lambda one: one.second in one.said),
        share(
            "two faults, one of the causes first, nothing joins them: it is the other",
            lambda one: both(one) and one.apart,
            lambda one: one.second in one.said,
        ),
    ]
    return [one for one in made if one["n"]]


def recorded(part: Literal["train", "test"]) -> list[Asked]:
    """Windows of the recorded shop, whose incidents have one fault each."""
    found, asked = from_folder(INCIDENTS, labels=Labels.CAUSE, part=part), []
    with progress("Shop", len(found)) as step:
        for place, one in enumerate(found):
            case = case_for(one, home=default_home())
            if case is not None and case.graph.candidates:
                causes, kinds = tuple(rolled_up(one.incident.causes(), case.graph)), (one.incident.fault_kind(),)
                asked.append(Asked(SINGLE, case, causes, kinds, place))
            step(one.incident.id)
    return asked


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit or judge, and keep what comes of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["fit", "judge"])
    parser.add_argument("--systems", type=int, help=f"simulated systems; default: {SYSTEMS}")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args(arguments)
    systems, body = options.systems or SYSTEMS[options.what], read_result(SEVERAL)
    if options.what == "fit":
        found = {"simulated": fit(windows(FIT_SEED, systems, options.processes)), "shop": fit(recorded("train"))}
        threshold = max(each["threshold"] for each in found.values())
        body["fit"] = {"seed": FIT_SEED, "systems": systems, "most_false": MOST_FALSE, "threshold": threshold, **found}
        if threshold != THRESHOLD:
            print(f"rca.several has a threshold of {THRESHOLD}, {threshold} was found", file=sys.stderr)
    else:
        asked = windows(JUDGE_SEED, systems, options.processes)
        body["judged"] = {
            "ranker": shipped_ranker().name,
            "threshold": THRESHOLD,
            "seed": JUDGE_SEED,
            "systems": systems,
            "simulated": findings([answer(one, one.system) for one in asked]),
            "shop": findings([answer(one, group_of("shop", one.causes, one.kinds[0])) for one in recorded("test")]),
        }
    write_result(SEVERAL, body)


if __name__ == "__main__":
    main()
