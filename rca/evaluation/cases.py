"""Recorded incidents to labelled cases, with a cache: a case is built once for every transform and version of the code."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, Final

from rca.contracts import Case, LabelledCase
from rca.errors import BadInput, UnknownName
from rca.evaluation.predictions import Truth
from rca.evaluation.runner import Exam
from rca.evaluation.transforms import NONE, QUIET, transform
from rca.faults import NO_FAULT
from rca.graph import ServiceGraph
from rca.incidents.bundle import IncidentFile, is_bundle, read_bundle, read_manifest
from rca.incidents.incident import Incident
from rca.incidents.store import IncidentStore
from rca.pipeline import case_of
from rca.provenance import code_digest
from rca.shop import manifest
from rca.telemetry import EntityId, Telemetry
from rca.topology import standing_for

CACHE_FOLDER: Final = "cache/cases"
_NOTHING_WRONG: Final[dict[str, Any]] = {"causes": (), "fault_kind": NO_FAULT}


@dataclass(frozen=True, eq=False)
class Recorded:
    """A recorded incident whose telemetry is read when it is needed. `digest` changes with its telemetry and its times."""

    incident: Incident
    digest: str
    read: Callable[[], tuple[Incident, Telemetry]]

    @classmethod
    def of(cls, file: IncidentFile, read: Callable[[], tuple[Incident, Telemetry]]) -> Recorded:
        return cls(file.incident(), recording_digest(file), read)


def recording_digest(file: IncidentFile) -> str:
    """What changes with the telemetry of a recording and with its times, and with nothing else."""
    facts = file.model_dump_json(include={"window", "baselines", "onset_ns", "gaps", "frames"})
    return hashlib.blake2b(facts.encode(), digest_size=12).hexdigest()


class Labels(Enum):
    """Which incidents are wanted, by what their labels say."""

    CAUSE = "a cause"
    TOLD = "a cause, or that nobody is to blame"
    ANY = "anything or nothing"

    def want(self, incident: Incident) -> bool:
        return self is Labels.ANY or bool(incident.causes()) or (self is Labels.TOLD and incident.is_no_fault())


def asked_for(
    bundles: Path | None,
    part: str | None,
    systems: Sequence[str],
    labels: Labels = Labels.CAUSE,
    home: Path | None = None,
) -> list[Recorded]:
    """What is asked for on a command line: bundles of a folder, of one part or all, or else incidents of the store.

    Raises BadInput, UnknownName.
    """
    if bundles is not None:
        return from_folder(bundles, systems, labels, part)
    if part is not None:
        raise BadInput("--part", expected="--bundles with a folder of recordings beside it", found="no folder")
    return from_store(systems, home, labels)


def from_folder(
    folder: Path, systems: Sequence[str] = (), labels: Labels = Labels.CAUSE, part: str | None = None
) -> list[Recorded]:
    """Bundles of a folder, or the one bundle that it is, of the given systems and with such labels, by time.

    With `part` only the recordings of this part of the folder's manifest (rca.shop.manifest). Raises BadInput if there is no
    bundle, or if one of the part was changed, UnknownName for a system that no bundle is of.
    """
    if part is not None:
        paths = manifest.files_of(folder, part)
        if not paths:
            found_parts = " and ".join(manifest.parts(folder)) or "none"
            raise BadInput(str(folder / manifest.MANIFEST), expected=f"recordings of the part {part!r}", found=found_parts)
    else:
        paths = [folder] if is_bundle(folder) else sorted(path for path in folder.glob("*") if is_bundle(path))
    if not paths:
        raise BadInput(str(folder), expected="an incident bundle, or a folder of them", found="none")
    found = [Recorded.of(read_manifest(path), partial(read_bundle, path)) for path in paths]
    _check_known(systems, {one.incident.system for one in found})
    return _chosen(found, systems, labels)


def from_store(systems: Sequence[str] = (), home: Path | None = None, labels: Labels = Labels.CAUSE) -> list[Recorded]:
    """Incidents of the store, of the given systems and with such labels, by time.

    Raises UnknownName for a system that the store lacks.
    """
    with IncidentStore(home) as store:
        _check_known(systems, {incident.system for incident in store.list()})
        manifests = [store.manifest(incident.id) for incident in store.list()]
    return _chosen([Recorded.of(m, partial(_get, m.id, home)) for m in manifests], systems, labels)


def _check_known(systems: Sequence[str], known: Collection[str]) -> None:
    for system in systems:
        if system not in known:
            raise UnknownName("system", system, known)


def _get(incident_id: str, home: Path | None) -> tuple[Incident, Telemetry]:
    with IncidentStore(home) as store:
        return store.get(incident_id)


def _chosen(recorded: Iterable[Recorded], systems: Sequence[str], labels: Labels) -> list[Recorded]:
    chosen = [one for one in recorded if labels.want(one.incident) and (not systems or one.incident.system in systems)]
    return sorted(chosen, key=lambda one: (one.incident.system, one.incident.window.start_ns, one.incident.id))


def exam_of(
    recorded: Sequence[Recorded],
    transform_name: str = NONE,
    *,
    home: Path | None = None,
    step: Callable[[str], None] = lambda _: None,
) -> Exam:
    """Build, or fetch from the cache under `home`, the cases of labelled incidents: clean ones to train on, transformed to test.

    Incidents that cannot be transformed (no baseline long enough for a quiet window) are left out of the test and the training.
    """
    truths, training, tested, digests = [], [], [], []
    for one in recorded:
        clean = case_for(one, NONE, home)
        spoilt = clean if transform_name == NONE else case_for(one, transform_name, home)
        step(one.incident.id)
        if clean is None or spoilt is None:
            continue
        training.append(_labelled(clean, one.incident))
        tested.append(replace(training[-1], case=spoilt, **(_NOTHING_WRONG if transform_name == QUIET else {})))
        incident, causes = one.incident, training[-1].causes
        truths.append(Truth(incident.id, incident.system, causes, training[-1].fault_kind, incident.window.start_ns))
        digests.append(one.digest)
    return Exam(tuple(truths), tuple(training), tuple(tested), transform_name, tuple(digests))


def case_for(recorded: Recorded, transform_name: str = NONE, home: Path | None = None) -> Case | None:
    """The case of an incident after a transform, from the cache if it is there; None if it cannot be transformed."""
    change = transform(transform_name)
    file = None if home is None else home / CACHE_FOLDER / f"{_key(recorded, transform_name)}.pickle"
    if file is not None and (cached := _fetch(file)) is not None:
        return cached
    incident, telemetry = recorded.read()
    try:
        changed = change(incident, telemetry)
    except BadInput:
        return None
    case = case_of(*changed)
    if file is not None:
        _keep(file, case)
    return case


def _labelled(case: Case, incident: Incident) -> LabelledCase:
    causes = tuple(rolled_up(incident.causes(), case.graph))
    return LabelledCase(case, incident.id, incident.system, causes, incident.fault_kind())


def rolled_up(causes: Sequence[EntityId], graph: ServiceGraph) -> list[EntityId]:
    """Causes as the graph calls them, pods replaced by the service that runs them, as spans or the topology say."""
    causes = [standing_for(cause, graph.rows) for cause in causes]
    rows = {cause: graph.rows.get(cause) for cause in causes}
    owned = {cause: graph.owners.get(row) for cause, row in rows.items() if row is not None}
    owners = {cause: graph.entities[row] for cause, row in owned.items() if row is not None}
    return list(dict.fromkeys(owners.get(cause, cause) for cause in causes))


def _key(recorded: Recorded, transform_name: str) -> str:
    code = code_digest() if transform_name == NONE else code_digest("evaluation/transforms.py", "evaluation/damage.py")
    text = f"{recorded.digest} {transform_name} {code}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _fetch(file: Path) -> Case | None:
    """A cached case; None if there is none that can be read. The cache is this user's own and may be dropped at any time."""
    try:
        found: Any = pickle.loads(file.read_bytes())
    except Exception:
        return None
    return found if isinstance(found, Case) else None


def _keep(file: Path, case: Case) -> None:
    with contextlib.suppress(OSError):  # a full disk costs the cache, not the evaluation
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        unfinished = file.with_suffix(f".{os.getpid()}")
        unfinished.write_bytes(pickle.dumps(case, protocol=pickle.HIGHEST_PROTOCOL))
        unfinished.replace(file)
