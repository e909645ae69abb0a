"""The incidents that the experiments test on: the public data sets in the store, and the recorded incidents of the shop.

rca import nezha PATH; rca import petshop PATH; rca import tvdiag PATH     once, into $RCA_HOME
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Final, Literal

from rca.contracts import LabelledCase
from rca.errors import BadInput
from rca.evaluation.cases import Labels, exam_of, from_folder, from_store
from rca.evaluation.runner import Exam
from rca.incidents.home import default_home
from rca.incidents.store import IncidentStore
from rca.models.files import MODEL_FILE, ONNX, read_model, write_atomically
from rca.shop import manifest

ROOT: Final = Path(__file__).resolve().parent.parent
RESULTS: Final = ROOT / "docs" / "results"
MODELS: Final = ROOT / "models"
INCIDENTS: Final = ROOT / "incidents"
PUBLIC: Final = ("onlineboutique", "trainticket", "petshop", "sockshop")
"""Systems of the public data sets; none of them is ever trained on to be tested, but for the learning curve."""
SHOP: Final = "shop"
TRANSFER, CURVE, REALISM = "transfer", "learning_curve", "realism"
EXPLANATIONS, ROBUSTNESS, CONFIDENCE = "explanations", "robustness", "confidence"
"""Results by name."""
SEVERAL: Final = "several"
"""That of scripts/several.py."""
_SAID_OF_MODELS: Final = ("name", "intended_use", "limits", "data", "metrics", ONNX)


def public_sets() -> dict[str, Exam]:
    """Those of the public sets that the store holds."""
    with IncidentStore() as store:
        there = {incident.system for incident in store.list(state="labelled")}
    return {name: exam_of(from_store([name]), home=default_home()) for name in PUBLIC if name in there}


def shop_set(part: Literal["train", "test"]) -> Exam | None:
    """Recorded incidents of the shop, of one part of the manifest; None where nothing was recorded yet.

    Raises BadInput for a bundle that is not the one of the manifest.
    """
    if part not in manifest.parts(INCIDENTS):
        return None
    return exam_of(from_folder(INCIDENTS, labels=Labels.TOLD, part=part), home=default_home())


def model_digest(folder: Path) -> str:
    """What a model's rankings hang on: its weights and settings; what its card says about it may change. Raises BadCheckpoint."""
    read_model(folder)  # or say what is wrong with it
    body = json.loads((folder / MODEL_FILE).read_bytes())
    text = json.dumps({name: value for name, value in body.items() if name not in _SAID_OF_MODELS}, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def unlabelled(cases: tuple[LabelledCase, ...]) -> list[LabelledCase]:
    """The cases without their answers: what a team has before it labels anything."""
    return [LabelledCase(case.case, case.incident_id, case.system, (), "unknown") for case in cases]


def read_result(name: str) -> dict[str, Any]:
    """docs/results/<name>.json; empty where it is not there yet. Raises BadInput."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return {}
    body = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(body, dict):
        raise BadInput(str(path), expected="a JSON object", found=type(body).__name__)
    return body


def write_result(name: str, body: dict[str, Any]) -> None:
    """Replace docs/results/<name>.json in one step: an interruption leaves the old one."""
    write_atomically(RESULTS / f"{name}.json", (json.dumps(body, indent=1, ensure_ascii=False) + "\n").encode())
