"""The references of the models of models/: what their training graphs looked like, made again without training.

    python -m scripts.references [FOLDER ...]

A model of simulated incidents: they are simulated again, or read from the cache under $RCA_HOME where the code that makes them is
still the same; `made_of` in reference.json has the digest of the code and the number of incidents. A model of recorded incidents:
the training part of incidents/, less what training holds aside. Nothing is asked of the models but what their model.json says.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from rca.cli.terminal import progress
from rca.evaluation.cases import Labels, asked_for, exam_of
from rca.evaluation.runner import to_learn_from
from rca.incidents.home import default_home
from rca.models.files import StoredModel, read_model
from rca.models.reference import Reference, read_reference, reference_of_cases, write_reference
from rca.models.simulated import Order, Simulated, graph_code, simulated_graphs
from rca.models.training import reference_of_graphs

ROOT: Final = Path(__file__).resolve().parent.parent
FOLDERS: Final = (ROOT / "models/simulated", ROOT / "models/general")


def reference_for(model: StoredModel) -> Reference:
    """What a model of models/ was trained on."""
    simulated = model.card.data.get("simulated")
    seed = int(model.card.training["seed"])
    if simulated is None:
        return of_recorded(seed)
    return of_simulated(simulated)


def of_simulated(facts: Mapping[str, Any]) -> Reference:
    """The reference of simulated incidents, as `rca train --simulate` makes them."""
    seed, incidents = int(facts["seed"]), int(facts["incidents"])
    with progress("simulated incidents", incidents) as step:
        graphs = simulated_graphs(
            Simulated(),
            Order(seed, incidents),
            default_home(),
            workers=os.cpu_count() or 1,
            step=lambda done: step("", completed=done),
        )
    return reference_of_graphs(graphs, {"what": "simulated incidents", **facts, "code": graph_code()}, seed)


def of_recorded(seed: int) -> Reference:
    """The reference of the training part of incidents/, as `rca train --bundles incidents --part train` makes it."""
    recorded = [one for one in asked_for(ROOT / "incidents", "train", [], Labels.ANY) if Labels.TOLD.want(one.incident)]
    with progress("recorded incidents", len(recorded)) as step:
        exam = exam_of(recorded, home=default_home(), step=step)
    return reference_of_cases(to_learn_from(exam, seed)[0], seed)


def _before(model: StoredModel) -> Reference | None:
    """The reference of the model of models/ that it went on from; None where it began with nothing."""
    start = model.card.data.get("start")
    told = [each for each in map(read_model, FOLDERS) if start is not None and each.card.data.items() <= start.items()]
    return read_reference(told[0]) if told else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="*", default=FOLDERS)
    for folder in parser.parse_args().folders:
        model = read_model(folder)
        print(write_reference(model, reference_for(model).after(_before(model))))


if __name__ == "__main__":
    main()
