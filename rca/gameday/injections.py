"""One injection: which fault, on whom, from when to when, and the incident that it becomes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from rca.incidents.incident import EntityModel, Incident, Label
from rca.telemetry import EntityId

Source = Literal["shop", "chaos-mesh", "flagd", "file"]
"""Who injected it: `rca gameday run`, or another tool whose records were read."""

AUTHOR: Final = "rca gameday"
QUIET: Final = "quiet"
"""What ids of quiet watches say instead of a fault."""
_LONGEST_ID: Final = 128
_STRANGE: Final = re.compile(r"[^A-Za-z0-9.-]+")


@dataclass(frozen=True)
class Injection:
    """A fault that somebody put into a system. Times in ns since the epoch; `end_ns` is None while it lasts, or is not known.

    `number` counts from 1 in the order of time. `target` is what the injecting tool calls whom it hit; `culprit` is whom a label
    names, None where nobody is to blame (a surge of traffic, skewed clocks). `strength` lies in 0 to 1, where known.
    """

    number: int
    fault_kind: str
    target: str
    culprit: EntityId | None
    start_ns: int
    end_ns: int | None
    strength: float | None
    source: Source
    note: str = ""

    @property
    def name(self) -> str:
        """The fault and its target, for people."""
        return f"{self.fault_kind} at {self.target}" if self.target else self.fault_kind


def incident_id(day: str, number: int, fault_kind: str, target: str) -> str:
    """Id of the incident that an injection of a game day becomes: `<day>-NN-<fault>-<target>`."""
    said = [_STRANGE.sub("-", text).strip("-.") for text in (fault_kind, target)]
    return "-".join([day, f"{number:02}", *filter(None, said)])[:_LONGEST_ID].rstrip("-.")


def source_name(day: str) -> str:
    """What incidents of a game day say that they come from."""
    return f"gameday:{day}"


def label_of(injection: Injection) -> Label:
    """The label of its incident. Raises ValueError where a fault that names somebody has no culprit."""
    culprit = injection.culprit
    entity = EntityModel(kind=culprit.kind, name=culprit.name, namespace=culprit.namespace) if culprit else None
    return Label(
        entity=entity,
        fault_kind=injection.fault_kind,
        provenance="injected",
        author=AUTHOR,
        at_ns=injection.start_ns,
        note=injection.note,
    )


def labelled(incident: Incident, day: str, name: str, labels: tuple[Label, ...]) -> Incident:
    """The incident as one of a game day: under its own id, with its labels."""
    return incident.model_copy(update={"id": name, "labels": labels, "source": source_name(day)})
