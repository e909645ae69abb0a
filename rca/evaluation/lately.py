"""Do the incidents of the last 30 days look like what a model learnt from, and was it right where people know better?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rca.collectors.findings import Finding
from rca.errors import RcaError
from rca.evaluation.cases import Recorded, case_for
from rca.incidents.inbox import INBOX_FILE, InboxFile, StoredNotice
from rca.incidents.incident import Incident, Label
from rca.incidents.store import DATABASE_FILE, IncidentStore
from rca.models.drift import FEWEST, Drift, drift_of_measured
from rca.models.files import read_model
from rca.models.measures import joined
from rca.models.recent import MOST_KEPT, RECENT_FILE, Recent
from rca.models.reference import Reference, read_reference
from rca.models.shipped import default_folder, shipped_folder
from rca.telemetry import MINUTE_NS, EntityId
from rca.topology import standing_for
from rca.wording import count

RECENT_NS: Final = 30 * 24 * 60 * MINUTE_NS
FEWEST_JUDGED: Final = 10
"""Of fewer answers, a share that was right says little."""
SOURCE: Final = "model"
"""Whom `rca doctor` says that the findings are about."""

_JUDGED_BY: Final = ("confirmed", "injected")


@dataclass(frozen=True)
class Lately:
    """The incidents of the last 30 days that were counted, against what a model learnt from; without that, why there is none.

    `judged` are incidents that were answered and whose cause is confirmed or was injected, of which `agreed` were answered so.
    """

    incidents: int = 0
    drift: Drift | None = None
    why_not: str = "no incident was counted yet"
    judged: int = 0
    agreed: int = 0

    @property
    def few(self) -> bool:
        """Whether too few incidents were counted to say that they look like training; what is amiss may be told of one."""
        return self.drift is None or (self.incidents < FEWEST and not self.drift.found)


@dataclass(frozen=True)
class Known:
    """What is known of the training data of a model, or why nothing is."""

    model: str
    reference: Reference | None = field(default=None, repr=False)
    why_not: str = ""


def known_of(folder: Path | None) -> Known:
    """What is known of the training data of the model in a folder; without one, the label-free score ranks."""
    if folder is None:
        return Known("the label-free score", None, "the label-free score ranks, which learnt from nothing")
    try:
        model = read_model(folder)
        reference = read_reference(model)
    except RcaError as error:
        return Known(str(folder), None, str(error))
    why_not = "" if reference else f"{model.id} keeps no reference of what it learnt from (`rca train` writes one)"
    return Known(model.id, reference, why_not)


def known_in_use(home: Path, ranker: str = "") -> Known:
    """What is known of the model that ranks by default in a home, or, if another one had to take its place, of that `ranker`."""
    try:
        found = known_of(default_folder(home))
    except RcaError as error:
        found = Known("the model in use", None, str(error))
    if ranker not in ("", found.model):
        shipped = known_of(shipped_folder())
        found = shipped if shipped.model == ranker else Known(ranker, None, f"nothing is kept of what {ranker} learnt from")
    return found


def lately(home: Path, known: Known, now_ns: int, systems: Sequence[str] = ()) -> Lately:
    """What was counted of the last 30 days in a home, of all or some systems. Reads no telemetry and makes no file.

    Raises as `Recent`, the store and the inbox do.
    """
    since_ns = now_ns - RECENT_NS
    judged, agreed = agreement(home, since_ns)
    counted = []
    if (home / RECENT_FILE).exists():
        with Recent(home) as recent:
            counted = [each for each in recent.since(since_ns) if not systems or each.system in systems]
    if known.reference is None or not counted:
        why_not = known.why_not or "no incident of the last 30 days was counted: `rca serve` counts those that it answers"
        return Lately(len(counted), None, why_not, judged, agreed)
    now = joined([each.measured for each in counted])
    drift = drift_of_measured(known.reference, now, [each.system for each in counted])
    return Lately(len(counted), drift, "", judged, agreed)


def count_recorded(
    home: Path, recorded: Iterable[Recorded], *, step: Callable[[str], None] = lambda _: None
) -> tuple[tuple[str, str], ...]:
    """Count incidents of the store that were not, or were recorded anew since; those that cannot be read, and why.

    Of more than are kept, the newest: others would be forgotten at once. Raises as `Recent` does.
    """
    newest = sorted(recorded, key=lambda one: one.incident.window.end_ns)[-MOST_KEPT:]
    left_out = []
    with Recent(home) as recent:
        known = recent.recordings()
        for one in newest:
            incident = one.incident
            if known.get(incident.id) != one.digest:
                try:
                    case = case_for(one, home=home)
                except RcaError as error:
                    left_out.append((incident.id, str(error)))
                else:
                    if case is not None:
                        recent.keep(incident.id, one.digest, incident.system, incident.window.end_ns, case.graph)
            step(incident.id)
    return tuple(left_out)


# --- agreement with labels ----------------------------------------------------------------------------------------


def agreement(home: Path, since_ns: int) -> tuple[int, int]:
    """How many incidents that were answered after a moment have a confirmed or injected cause, or nobody to blame, and how many
    of these were answered so: with one of the causes first, or with nobody. The last answer counts.

    Raises as the store and the inbox do.
    """
    if not (home / INBOX_FILE).exists() or not (home / DATABASE_FILE).exists():
        return 0, 0
    found: dict[str, StoredNotice] = {}
    with closing(InboxFile(home)) as file:
        for bundle, notice in file.answers_since(since_ns):
            if "level" in notice.gist and (bundle not in found or notice.incident_id == bundle):
                found[bundle] = notice
    with IncidentStore(home) as store:
        labels = {incident.id: _standing(incident) for incident in store.list(state="labelled") if incident.id in found}
    judged = [(found[incident_id], standing) for incident_id, standing in labels.items() if standing]
    return len(judged), sum(_agrees(notice, standing) for notice, standing in judged)


def _standing(incident: Incident) -> list[Label]:
    return [label for label in incident.labels if label.provenance in _JUDGED_BY]


def _agrees(notice: StoredNotice, labels: Sequence[Label]) -> bool:
    named = [EntityId(each["kind"], each["name"], each["namespace"]) for each in notice.gist["candidates"][:1]]
    causes = [label.entity.entity() for label in labels if label.entity]
    return not named if not causes else any(standing_for(cause, named) in named for cause in causes)


# --- what rca doctor says -----------------------------------------------------------------------------------------


def findings_of(home: Path, known: Known, now_ns: int) -> tuple[Finding, ...]:
    """One sentence about drift, and one about agreement where anybody judged answers."""
    try:
        found = lately(home, known, now_ns)
    except RcaError as error:
        return (Finding(SOURCE, "warning", f"nothing can be said about drift: {error}"),)
    return (drift_finding(found), *agreement_findings(found))


def drift_finding(found: Lately) -> Finding:
    """Whether the incidents of the last 30 days look like what the model learnt from."""
    if found.drift is None:
        return Finding(SOURCE, "note", f"nothing can be said about drift: {found.why_not}", "docs/drift.md")
    of = f"the last {count(found.incidents, 'incident')}"
    if found.drift.found:
        differs = "differs" if found.incidents == 1 else "differ"
        words = f"{of} {differs} from what the model learnt from: {'; '.join(found.drift.findings())}"
        advice = "answers may be less sure than they say; `rca report models` has the figures, docs/drift.md what to do"
        return Finding(SOURCE, "warning", words, advice)
    if found.few:
        words = f"too few incidents ({found.incidents} of {FEWEST}) to tell whether they look like what the model learnt from"
        return Finding(SOURCE, "note", words)
    caution = found.drift.caution()
    if caution and found.drift.unit == "graph":
        caution = ", as far as so few can tell"
    return Finding(SOURCE, "ok", f"{of} look like what the model learnt from{caution}")


def agreement_findings(found: Lately) -> Iterator[Finding]:
    """How often people, or injected faults, agree with what was answered; nothing where nobody judged."""
    if not found.judged:
        return
    words = f"{found.agreed} of {count(found.judged, 'answer')} of the last 30 days named the confirmed or injected cause first"
    if found.judged < FEWEST_JUDGED or 2 * found.agreed >= found.judged:
        yield Finding(SOURCE, "ok", words)
        return
    yield Finding(SOURCE, "warning", words, "`rca report models` tells which were missed; docs/operating.md, RcaServeModelWrong")
