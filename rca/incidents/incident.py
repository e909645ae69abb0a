"""An incident and its labels: the content of `incident.json`. Validated by pydantic, which also writes the JSON schema."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rca.faults import NO_FAULT, is_no_fault
from rca.telemetry import EntityId, EntityKind, Interval
from rca.window import Baseline

SCHEMA_VERSION: Final = "1"
LabelProvenance = Literal["injected", "confirmed", "inferred", "disputed"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class IntervalModel(_Model):
    """Half-open interval in nanoseconds since the epoch, UTC."""

    start_ns: int
    end_ns: int

    @model_validator(mode="after")
    def _ends_after_start(self) -> IntervalModel:
        if self.end_ns <= self.start_ns:
            raise ValueError(f"expected end_ns after start_ns, found {self.start_ns} to {self.end_ns}")
        return self

    def interval(self) -> Interval:
        return Interval(self.start_ns, self.end_ns)


class BaselineModel(IntervalModel):
    """A quiet interval and where it comes from."""

    provenance: Literal["preceding", "reference"] = "preceding"

    def baseline(self) -> Baseline:
        return Baseline(self.interval(), self.provenance)


class EntityModel(_Model):
    """An entity by kind and name."""

    kind: EntityKind = "service"
    name: Annotated[str, Field(min_length=1)]
    namespace: str = ""

    def entity(self) -> EntityId:
        return EntityId(self.kind, self.name, self.namespace)


class Label(_Model):
    """One root cause. Several labels on one incident mean several causes; `disputed` ones do not count for training.

    A label without an entity says that nobody is to blame: a quiet window, a traffic surge, a broken telemetry pipeline.
    """

    entity: EntityModel | None = None
    fault_kind: str = "unknown"
    provenance: LabelProvenance
    author: str = ""
    at_ns: int | None = None
    note: str = ""

    @model_validator(mode="after")
    def _names_somebody(self) -> Label:
        if self.entity is None and not is_no_fault(self.fault_kind):
            raise ValueError(f"expected an entity in a label of {self.fault_kind}, found none")
        return self

    def name(self) -> str:
        """Who is to blame, in a word."""
        return self.entity.name if self.entity else NO_FAULT


class GapModel(_Model):
    """Telemetry that is missing: of which source, why, and when, where known."""

    source: str
    reason: str
    interval: IntervalModel | None = None


class Incident(_Model):
    """Everything about an incident but its telemetry frames."""

    schema_version: Annotated[Literal["1"], Field(description="version of the format")] = SCHEMA_VERSION
    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$", description="unique in a store; safe as a file name")]
    system: Annotated[str, Field(description="the system it happened in; incidents of one system share a baseline of behaviour")]
    window: Annotated[IntervalModel, Field(description="the incident itself: start_ns, end_ns")]
    detected_ns: Annotated[int | None, Field(description="when somebody or something noticed, where known")] = None
    onset_ns: Annotated[int | None, Field(description="when the fault began, where known (an injection)")] = None
    baselines: Annotated[
        tuple[BaselineModel, ...],
        Field(description="quiet intervals: start_ns, end_ns, provenance (`preceding`, or a `reference` from elsewhere)"),
    ] = ()
    labels: Annotated[
        tuple[Label, ...],
        Field(
            description="root causes: entity (kind, name, namespace; none where nobody is to blame), fault_kind, provenance, "
            "author, at_ns, note"
        ),
    ] = ()
    alerting: Annotated[tuple[EntityModel, ...], Field(description="entities whose alert brought this up")] = ()
    source: Annotated[str, Field(description="format it was imported from, or the collector that recorded it")] = ""
    title: Annotated[str, Field(description="one line for people")] = ""
    links: Annotated[tuple[str, ...], Field(description="addresses of dashboards, tickets and the like")] = ()
    gaps: Annotated[
        tuple[GapModel, ...], Field(description="telemetry that is missing: source, reason, interval where known")
    ] = ()

    def causes(self) -> tuple[EntityId, ...]:
        """Labelled root causes that nobody disputes."""
        return tuple(label.entity.entity() for label in self.labels if label.entity and label.provenance != "disputed")

    def is_no_fault(self) -> bool:
        """True if an undisputed label says that nobody is to blame, and none names a cause."""
        return not self.causes() and any(label.entity is None and label.provenance != "disputed" for label in self.labels)

    def fault_kind(self) -> str:
        """Fault kind of the first undisputed label; `unknown` where there is none."""
        kinds = [label.fault_kind for label in self.labels if label.provenance != "disputed"]
        return kinds[0] if kinds else "unknown"
