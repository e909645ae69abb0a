"""A second cause beside the first: fits the threshold of rca/several.py on simulated systems, and judges it on other ones.

    python -m scripts.several fit [--systems 300]       # prints the threshold that rca/several.py should have
    python -m scripts.several judge [--systems 300]     # docs/results/several.json

Every system is asked about three times: with one fault, with the same fault and a second one that begins with it and has another
cause, and quiet. Kinds of fault are drawn alike.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from rca.bins import Bins
from rca.cli.terminal import progress
from rca.contracts import Case
from rca.faults import is_no_fault
from rca.features import quiet_graph
from rca.incidents.home import default_home
from rca.models.files import write_atomically
from rca.pipeline import case_of
from rca.provenance import code_digest
from rca.simulator import SIMULATED, simulate
from rca.simulator.generation import in_processes
from rca.telemetry import EntityId
from rca.window import Window

FAULTS: Final = tuple(kind for kind in SIMULATED if not is_no_fault(kind))
SINGLE, DOUBLE, QUIET = "single", "double", "quiet"
FIT_SEED: Final = 313_131
JUDGE_SEED: Final = 424_242


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


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["fit", "judge"])
    parser.add_argument("--systems", type=int, default=300)
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args(arguments)
    windows(FIT_SEED if options.what == "fit" else JUDGE_SEED, options.systems, options.processes)


if __name__ == "__main__":
    main()
