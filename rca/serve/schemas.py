"""What the API says, as models: they check what comes in and describe what goes out (OpenAPI)."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from rca.incidents.incident import Label
from rca.serve.labelling import MOST_NOTE
from rca.sinks.example import example_notices

INCIDENT_ID: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
_ID: Final = "shop-20260115T101000Z-3f0c9a77be"


_CANDIDATE: Final = {"kind": "service", "name": "payment", "namespace": "shop", "probability": 0.93, "family": "cpu"}
_ANSWER: Final = {
    "incident": _ID,
    "revision": 1,
    "at_ns": 1768471803000000000,
    "state": "firing",
    "model": "general 2026-11",
    "level": "clear",
    "words": "payment stands out clearly",
    "outcome": "cause",
    "trouble": "",
    "news": [],
    "candidates": [_CANDIDATE],
    "no_fault": 0.02,
    "outside": 0.01,
}
_REPORT: Final = example_notices()[0].report
_LABEL: Final = {
    "entity": {"kind": "service", "name": "payment", "namespace": "shop"},
    "fault_kind": "cpu_contention",
    "provenance": "confirmed",
    "author": "oncall",
    "at_ns": 1768473000000000000,
    "note": "",
}
_INCIDENT: Final = {
    "id": _ID,
    "title": "HighLatency: checkout answers slowly",
    "group_key": '{}:{alertname="HighLatency"}',
    "state": "resolved",
    "opened_ns": 1768471800000000000,
    "closed_ns": 1768473000000000000,
    "alerts": 1,
    "firing": 0,
    "truncated": 0,
    "revision": 1,
    "answer": _ANSWER,
    "labels": [_LABEL],
    "page": f"https://rca.example.com/incidents/{_ID}",
}


def _example(**values: Any) -> ConfigDict:
    """The configuration of a model that is described with an example; in it, null would be left out."""
    return ConfigDict(json_schema_extra={"example": values})


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Problem(_Model):
    """Why a request was refused: what was expected, what was found, and where."""

    model_config = _example(detail="version: expected \"4\", found '5'")

    detail: str


class Taken(_Model):
    """A notification that is on the disk. `known` of its alerts had been told before; nothing more is done about those."""

    model_config = _example(news=1, known=0, incident=_ID)

    news: int
    known: int
    incident: Annotated[str | None, Field(description="the incident they belong to; none for alerts that were over already")]


class RankedEntity(_Model):
    """One of the first candidates."""

    kind: str
    name: str
    namespace: str
    probability: float
    family: Annotated[str, Field(description="family of faults; empty where nothing points to one")]


class Answer(_Model):
    """The answer to an incident at one revision."""

    incident: str
    revision: int
    at_ns: int
    state: Literal["firing", "resolved"]
    model: Annotated[str, Field(description="id of what ranked; empty where nothing did")]
    level: Annotated[str | None, Field(description="how sure: clear, likely, close, unsure, nothing")]
    words: Annotated[str, Field(description="how sure, in a sentence")]
    outcome: Annotated[str | None, Field(description="what it comes to: cause, no_fault, outside, not_enough_telemetry")]
    trouble: Annotated[str, Field(description="why there is no ranking")]
    news: Annotated[list[str], Field(description="what changed against the revision before")]
    candidates: Annotated[list[RankedEntity], Field(description="the first ones; none where nothing stands out")]
    no_fault: Annotated[float | None, Field(description="probability that nobody is to blame")]
    outside: Annotated[float | None, Field(description="probability of a fault whose cause is no candidate")]


class IncidentSummary(_Model):
    """An incident: one time that a group of alerts fired."""

    id: str
    title: str
    group_key: str
    state: Literal["firing", "resolved"]
    opened_ns: Annotated[int, Field(description="when its first alert arrived")]
    closed_ns: Annotated[int | None, Field(description="when the last one was resolved")]
    alerts: int
    firing: int
    truncated: Annotated[int, Field(description="alerts that the sender left out")]
    revision: Annotated[int, Field(description="of the last answer; 0 while there is none")]
    answer: Annotated[Answer | None, Field(description="the last one")]
    labels: list[Label]
    page: str


class IncidentList(_Model):
    """Incidents, newest first; `next` is what to ask for `before` to get more, if there are."""

    model_config = _example(schema_version="1", incidents=[_INCIDENT], next=41)

    schema_version: Literal["1"] = "1"
    incidents: list[IncidentSummary]
    next: int | None


class AlertOut(_Model):
    """One alert of an incident."""

    fingerprint: str
    status: Literal["firing", "resolved"]
    starts_ns: int
    ends_ns: int | None
    labels: dict[str, str]
    annotations: dict[str, str]


class DeliveryOut(_Model):
    """What became of an answer at one sink."""

    revision: int
    sink: str
    state: Literal["waiting", "sent", "given up"]
    tries: int
    sent_ns: int | None
    trouble: str


class IncidentDetail(_Model):
    """Everything about one incident but its telemetry. Of very many alerts, the first are named."""

    model_config = _example(
        schema_version="1",
        incident=_INCIDENT,
        alerts=[
            {
                "fingerprint": "8b2cd5f24b1ab79a",
                "status": "resolved",
                "starts_ns": 1768471800000000000,
                "ends_ns": 1768472940000000000,
                "labels": {"alertname": "HighLatency", "service": "checkout", "severity": "page"},
                "annotations": {"summary": "checkout answers slowly"},
            }
        ],
        answers=[_ANSWER],
        deliveries=[{"revision": 1, "sink": "slack", "state": "sent", "tries": 1, "sent_ns": 1768471804000000000, "trouble": ""}],
    )

    schema_version: Literal["1"] = "1"
    incident: IncidentSummary
    alerts: list[AlertOut]
    answers: list[Answer]
    deliveries: list[DeliveryOut]


class RankingList(_Model):
    """The last answer to each incident, or every answer to one; newest first."""

    model_config = _example(schema_version="1", rankings=[_ANSWER], next=41)

    schema_version: Literal["1"] = "1"
    rankings: list[Answer]
    next: int | None


class RankingDetail(_Model):
    """An answer with its whole report, as docs/ranking.schema.json describes it; null where no ranking could be made."""

    model_config = _example(schema_version="1", ranking=_ANSWER, report=_REPORT.to_json() if _REPORT else {})

    schema_version: Literal["1"] = "1"
    ranking: Answer
    report: dict[str, Any] | None


class LabelIn(_Model):
    """What somebody says the cause was."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"incident": _ID, "verdict": "confirm", "fault_kind": "cpu_contention"},
                {"incident": _ID, "verdict": "correct", "entity": "database:orders", "note": "the disk was full"},
                {"incident": _ID, "verdict": "no_fault", "fault_kind": "traffic_surge"},
            ]
        }
    )

    incident: Annotated[str, Field(pattern=INCIDENT_ID)]
    verdict: Annotated[
        Literal["confirm", "correct", "no_fault", "withdraw"],
        Field(
            description="`confirm` the first candidate, `correct` it to `entity`, say that it was `no_fault`, or `withdraw` the "
            "label of `entity` (of nobody, without one)"
        ),
    ]
    entity: Annotated[str, Field(max_length=300, description="who it was: a name, or kind:name")] = ""
    fault_kind: Annotated[str, Field(max_length=80, description="what it was, where it is known (docs/faults.md)")] = ""
    note: Annotated[str, Field(max_length=MOST_NOTE, description="why, in a sentence")] = ""
    also: Annotated[bool, Field(description="one cause among several: what others were labelled with stands")] = False


class LabelsOut(_Model):
    """The labels of an incident, disputed ones included. `changed` is false where the same was said before."""

    model_config = _example(schema_version="1", incident=_ID, changed=True, labels=[_LABEL])

    schema_version: Literal["1"] = "1"
    incident: str
    changed: bool
    labels: list[Label]


class LabelledIncident(_Model):
    """An incident and its labels."""

    incident: str
    labels: list[Label]


class LabelList(_Model):
    """Incidents that have labels, newest first."""

    model_config = _example(schema_version="1", incidents=[{"incident": _ID, "labels": [_LABEL]}])

    schema_version: Literal["1"] = "1"
    incidents: list[LabelledIncident]


class ModelOut(_Model):
    """What ranks, or what does so in shadow, beside it and untold. `version` is that of `rca models`, empty for another model.

    `trouble` says why it is not the model that was asked for.
    """

    id: str
    version: str
    role: Literal["current", "shadow"]
    learned: bool
    trouble: str
    trained_on: list[str]
    limits: list[str]


class ModelList(_Model):
    """What ranks now, and what does in shadow; none before the first ranking process is up."""

    model_config = _example(
        schema_version="1",
        models=[
            {
                "id": "general-51b18fc4",
                "version": "",
                "role": "current",
                "learned": True,
                "trouble": "",
                "trained_on": ["shop"],
                "limits": [],
            }
        ],
    )

    schema_version: Literal["1"] = "1"
    models: list[ModelOut]


class Health(_Model):
    """How things stand, part by part: `ok`, or what is wrong."""

    model_config = _example(status="ok", parts={"inbox": "ok", "worker": "ok", "ranking": "ok"})

    status: Literal["ok", "trouble"]
    parts: dict[str, str]
