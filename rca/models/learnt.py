"""Which recorded incidents a model learnt from: `learnt.json` beside `model.json`, digests alone.

It lists what was trained on and what was held out to stop early and to calibrate, that of the models before it included, for none
of these can judge it. It names the weights that it belongs to; docs/models.md says what it holds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from rca.errors import BadCheckpoint
from rca.models.files import WEIGHTS, StoredModel, read_bytes, write_atomically
from rca.models.reference import digest_of, read_reference

VERSION: Final = "1"
LEARNT_FILE: Final = "learnt.json"


@dataclass(frozen=True)
class Learnt:
    """Digests of the incidents' ids, and of their recordings: an incident that was renamed is still the same."""

    incidents: frozenset[str] = frozenset()
    recordings: frozenset[str] = frozenset()

    @classmethod
    def of(cls, recorded: Iterable[tuple[str, str]]) -> Learnt:
        """From (id, digest of the recording) of every incident."""
        found = list(recorded)
        return cls(frozenset(digest_of(name) for name, _ in found), frozenset(digest for _, digest in found if digest))

    def knows(self, incident_id: str, recording: str = "") -> bool:
        """Whether this incident, under this id or another, was learnt from."""
        return digest_of(incident_id) in self.incidents or (bool(recording) and recording in self.recordings)

    def __or__(self, other: Learnt) -> Learnt:
        return Learnt(self.incidents | other.incidents, self.recordings | other.recordings)


def write_learnt(model: StoredModel, learnt: Learnt) -> None:
    """Write it beside the model, as that of its weights. Raises StorageFull."""
    body = {
        "version": VERSION,
        "weights": model.files[WEIGHTS][1],
        "incidents": sorted(learnt.incidents),
        "recordings": sorted(learnt.recordings),
    }
    write_atomically(model.folder / LEARNT_FILE, (json.dumps(body, indent=1) + "\n").encode())


def read_learnt(model: StoredModel) -> Learnt | None:
    """What a model learnt from; without `learnt.json` what its reference lists, and None where nothing tells.

    Raises BadCheckpoint where either is damaged, or that of other weights.
    """
    path = model.folder / LEARNT_FILE
    if not path.exists():
        return _from_reference(model)
    try:
        body: dict[str, Any] = json.loads(read_bytes(path))
        version, weights = body["version"], body["weights"]
        found = Learnt(frozenset(map(str, body["incidents"])), frozenset(map(str, body["recordings"])))
    except (ValueError, KeyError, TypeError) as error:
        raise BadCheckpoint(str(path), expected="the fields of docs/models.md", found=f"something else: {error}") from error
    if version != VERSION:
        raise BadCheckpoint(str(path), expected=f"a list of version {VERSION!r}", found=repr(version))
    if weights != model.files[WEIGHTS][1]:
        expected = f"that of the weights {model.files[WEIGHTS][1][:12]} beside it"
        raise BadCheckpoint(str(path), expected=expected, found=f"that of {str(weights)[:12]}")
    return found


def simulated_of(model: StoredModel) -> dict[str, Any] | None:
    """Seed and number of the simulated incidents that a model, or one before it, was trained on; None where there were none."""
    data: Any = model.card.data
    while isinstance(data, dict):
        if isinstance(simulated := data.get("simulated"), dict) and {"seed", "incidents"} <= set(simulated):
            return dict(simulated)
        data = data.get("start")
    return None


def _from_reference(model: StoredModel) -> Learnt | None:
    """The ids that a reference lists. A model of simulated incidents alone learnt from no recorded one."""
    reference = read_reference(model)
    if reference is None:
        return None
    if reference.made_of.get("what") == "simulated incidents" and "start" not in model.card.data:
        return Learnt()
    return Learnt(frozenset(reference.incidents)) if reference.incidents else None
