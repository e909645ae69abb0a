"""The API: alerts in, incidents and rankings out, labels, and how the server itself does."""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, PlainTextResponse, Response

from rca.errors import BadInput, RcaError
from rca.incidents.inbox import Episode, InboxFile, Receipt, StoredNotice
from rca.incidents.store import IncidentStore
from rca.serve.app import ALERTS_PATH, Desk, answer_to
from rca.serve.asking import Ranks
from rca.serve.auth import Role, Who
from rca.serve.labelling import judged, label_of, labels_of
from rca.serve.notices import leader
from rca.serve.payload import NotJson, group_of
from rca.serve.schemas import (
    INCIDENT_ID,
    AlertOut,
    Answer,
    DeliveryOut,
    Health,
    IncidentDetail,
    IncidentList,
    IncidentSummary,
    LabelIn,
    LabelledIncident,
    LabelList,
    LabelsOut,
    ModelList,
    ModelOut,
    Problem,
    RankedEntity,
    RankingDetail,
    RankingList,
    Taken,
)
from rca.sinks.notice import loaded
from rca.telemetry import SECOND_NS

_LOG: Final = logging.getLogger(__name__)
_MOST_ALERTS: Final = 1000
_MINUTE_S: Final = 60.0
_LARGE: Final = 64 * 2**10  # bytes; a larger notification is not read where others wait for their turn
_TYPES: Final = ("application/json", "")

_Id = Annotated[str, Path(pattern=INCIDENT_ID, description="id of an incident")]
_Before = Annotated[int | None, Query(ge=1, le=2**62, description="`next` of the page before")]
_Most = Annotated[int, Query(ge=1, le=200, description="how many at most")]
_OPEN: Final[dict[str, Any]] = {"security": []}
"""Nobody need say who they are."""
_UNKNOWN: Final[dict[int | str, dict[str, Any]]] = {404: {"model": Problem, "description": "There is no such incident"}}


def api(desk: Desk) -> APIRouter:
    """The routes. Reading takes the role `read`, labelling `label`, posting alerts `send`."""
    router = APIRouter()
    _add_alerts(router, desk)
    _add_incidents(router, desk)
    _add_rankings(router, desk)
    _add_labels(router, desk)
    _add_state(router, desk)
    return router


def _may(desk: Desk, role: Role) -> Any:
    """A dependency: who asks, if they may."""

    async def allowed(request: Request) -> Who:
        return desk.allowed(request, role)

    return Depends(allowed)


# --- alerts in ----------------------------------------------------------------------------------------------------------


def _add_alerts(router: APIRouter, desk: Desk) -> None:
    refusals = _Refusals()
    reference = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Webhook"}}}, "required": True}

    @router.post(
        ALERTS_PATH,
        response_model=Taken,
        tags=["alerts"],
        summary="Take a notification of Alertmanager (version 4), or of Grafana",
        description="Answered once the alerts are on the disk; what is already known changes nothing. The ranking follows.",
        responses={415: {"model": Problem, "description": "The body is of another type than JSON"}},
        openapi_extra={"requestBody": reference},
    )
    async def take(request: Request) -> Response:
        began = time.perf_counter()
        status, body, headers = await _taken(desk, request)
        outcome = {200: "stored", 401: "unauthorized", 403: "unauthorized", 503: "told to wait"}.get(status, "refused")
        desk.metrics.notifications.add(outcome)
        desk.metrics.acknowledgement_seconds.observe(time.perf_counter() - began)
        if 400 <= status < 500 and refusals.first(status, time.monotonic()):
            sender = request.client.host if request.client else "somewhere"
            _LOG.warning("a notification from %s was refused (%d): %s", sender, status, body["detail"])
        return JSONResponse(body, status, headers)

    _ = take


class _Refusals:
    """Which refusals the log shows: the first of a kind in a minute, for a sender that is set up wrongly tries all night."""

    def __init__(self) -> None:
        self._shown: dict[int, float] = {}

    def first(self, status: int, now_s: float) -> bool:
        if now_s - self._shown.get(status, -_MINUTE_S) < _MINUTE_S:
            return False
        self._shown[status] = now_s
        return True


async def _taken(desk: Desk, request: Request) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, body and headers of the answer to a notification. 503 is the only one that makes its sender try again."""
    retry_after = desk.settings.limits.retry_after
    try:
        desk.allowed(request, "send")
        _check_type(request)
        if desk.inbox.waiting_groups >= desk.settings.limits.waiting:
            raise _busy(desk, f"{desk.inbox.waiting_groups:,} groups wait for their first answer")
        receipt = await _stored(desk, request)
    except HTTPException as error:
        if error.status_code == 408:  # of a notification that is slow on its way: its sender takes nothing but 503 for "again"
            error = _busy(desk, str(error.detail))
        return error.status_code, {"detail": str(error.detail)}, dict(error.headers or {})
    except NotJson as error:
        return 400, {"detail": str(error)}, {}
    except RcaError as error:
        status, headers = answer_to(error, retry_after)
        status = 422 if isinstance(error, BadInput) and status == 404 else status
        if status >= 500:
            _LOG.warning("a notification was not taken: %s", error)
        return (503, {"detail": str(error)}, headers) if status == 500 else (status, {"detail": str(error)}, headers)
    desk.metrics.alerts.add("new", receipt.news)
    desk.metrics.alerts.add("known", receipt.known)
    return 200, {"news": receipt.news, "known": receipt.known, "incident": receipt.incident_id}, {}


def _check_type(request: Request) -> None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in _TYPES:
        raise HTTPException(415, f"Content-Type: expected application/json, found {media_type[:80]!r}")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise HTTPException(415, "Content-Encoding: expected none")


def _busy(desk: Desk, words: str) -> HTTPException:
    wait = str(max(desk.settings.limits.retry_after // SECOND_NS, 1))
    return HTTPException(503, f"{words}; try again later", {"Retry-After": wait})


async def _stored(desk: Desk, request: Request) -> Receipt:
    """What became of the notification, once it is on the disk. Raises as `group_of` and the inbox do, or HTTPException."""
    body, held = bytearray(), 0
    try:
        async for part in request.stream():
            held += len(part)
            desk.pending += len(part)
            if desk.pending > desk.settings.limits.pending:
                raise _busy(desk, "too many bytes are being read")
            body += part
        read = partial(group_of, bytes(body), desk.settings.limits)
        group = await run_in_threadpool(read) if len(body) > _LARGE else read()
        if not group.alerts:
            return Receipt(0, 0, None)
        return await asyncio.wrap_future(desk.inbox.take(group))
    except ClientDisconnect:
        raise HTTPException(400, "body: expected all of it, found the start") from None
    finally:
        desk.pending -= held


# --- incidents ----------------------------------------------------------------------------------------------------------


def _add_incidents(router: APIRouter, desk: Desk) -> None:
    @router.get("/v1/incidents", tags=["incidents"], summary="List incidents, newest first", dependencies=[_may(desk, "read")])
    def incidents(
        state: Annotated[Literal["firing", "resolved"] | None, Query()] = None,
        q: Annotated[str, Query(max_length=200, description="words of its title, id or group key")] = "",
        before: _Before = None,
        limit: _Most = 50,
    ) -> IncidentList:
        with desk.reading() as file, IncidentStore(desk.inbox.home) as store:
            found = file.episodes(state=state, words=q, before=before, most=limit)
            summaries = [_summary(desk, file, store, episode) for episode in found]
        return IncidentList(incidents=summaries, next=found[-1].number if len(found) == limit else None)

    @router.get(
        "/v1/incidents/{incident_id}",
        tags=["incidents"],
        summary="Show one incident: its alerts, answers, and who was told",
        dependencies=[_may(desk, "read")],
        responses=_UNKNOWN,
    )
    def incident(incident_id: _Id) -> IncidentDetail:
        with desk.reading() as file, IncidentStore(desk.inbox.home) as store:
            episode = file.episode(incident_id)
            alerts = [
                AlertOut(
                    fingerprint=alert.fingerprint,
                    status=alert.status,
                    starts_ns=alert.starts_ns,
                    ends_ns=alert.ends_ns,
                    labels=dict(alert.labels),
                    annotations=dict(alert.annotations),
                )
                for alert in file.alerts(episode.number, _MOST_ALERTS)
            ]
            return IncidentDetail(
                incident=_summary(desk, file, store, episode),
                alerts=alerts,
                answers=[_answer(notice) for notice in file.notices(episode.number)],
                deliveries=[
                    DeliveryOut(
                        revision=each.revision,
                        sink=each.sink,
                        state=each.state,
                        tries=each.tries,
                        sent_ns=each.sent_ns,
                        trouble=each.trouble,
                    )
                    for each in file.deliveries(episode.number)
                ],
            )

    _ = incidents, incident


def _summary(desk: Desk, file: InboxFile, store: IncidentStore, episode: Episode) -> IncidentSummary:
    notices = file.notices(episode.number)
    return IncidentSummary(
        id=episode.incident_id,
        title=episode.title,
        group_key=episode.group_key,
        state=episode.state,
        opened_ns=episode.opened_ns,
        closed_ns=episode.closed_ns,
        alerts=episode.alerts,
        firing=episode.firing,
        truncated=episode.truncated,
        revision=episode.revision,
        answer=_answer(notices[-1]) if notices else None,
        labels=list(labels_of(store, episode)),
        page=f"{desk.settings.url()}/incidents/{episode.incident_id}",
    )


def _answer(notice: StoredNotice) -> Answer:
    gist = notice.gist
    return Answer(
        incident=notice.incident_id,
        revision=notice.revision,
        at_ns=notice.at_ns,
        state=notice.state,
        model=gist["model"],
        level=gist.get("level"),
        words=gist.get("words", ""),
        outcome=gist.get("outcome"),
        trouble=gist["trouble"],
        news=gist["news"],
        candidates=[RankedEntity(**candidate) for candidate in gist["candidates"]],
        no_fault=gist.get("no_fault"),
        outside=gist.get("outside"),
    )


# --- rankings -----------------------------------------------------------------------------------------------------------


def _add_rankings(router: APIRouter, desk: Desk) -> None:
    @router.get(
        "/v1/rankings",
        tags=["rankings"],
        summary="List the last answer to every incident, or every answer to one",
        dependencies=[_may(desk, "read")],
        responses=_UNKNOWN,
    )
    def rankings(
        incident: Annotated[str | None, Query(pattern=INCIDENT_ID)] = None, before: _Before = None, limit: _Most = 50
    ) -> RankingList:
        with desk.reading() as file:
            if incident is not None:
                found = [_answer(notice) for notice in reversed(file.notices(file.episode(incident).number))]
                return RankingList(rankings=found[:limit], next=None)
            latest = file.latest_notices(before=before, most=limit)
        more = latest[-1][0] if len(latest) == limit else None
        return RankingList(rankings=[_answer(notice) for _, notice in latest], next=more)

    @router.get(
        "/v1/rankings/{incident_id}",
        tags=["rankings"],
        summary="Show an answer with its whole report",
        dependencies=[_may(desk, "read")],
        responses=_UNKNOWN,
    )
    def ranking(
        incident_id: _Id, revision: Annotated[int | None, Query(ge=1, le=2**31, description="default: the last")] = None
    ) -> RankingDetail:
        with desk.reading() as file:
            episode = file.episode(incident_id)
            notice = file.notice(episode.number, revision or episode.revision)
        report = loaded(notice.body).report
        return RankingDetail(ranking=_answer(notice), report=report.to_json() if report else None)

    _ = rankings, ranking


# --- labels -------------------------------------------------------------------------------------------------------------


def _add_labels(router: APIRouter, desk: Desk) -> None:
    @router.get("/v1/labels", tags=["labels"], summary="List labels", dependencies=[_may(desk, "read")], responses=_UNKNOWN)
    def labels(incident: Annotated[str | None, Query(pattern=INCIDENT_ID)] = None, limit: _Most = 50) -> LabelList:
        if incident is not None:
            with desk.reading() as file, IncidentStore(desk.inbox.home) as store:
                found = labels_of(store, file.episode(incident))
            return LabelList(incidents=[LabelledIncident(incident=incident, labels=list(found))])
        with IncidentStore(desk.inbox.home) as store:
            labelled = [each for each in reversed(store.list()) if each.labels]
        return LabelList(incidents=[LabelledIncident(incident=each.id, labels=list(each.labels)) for each in labelled[:limit]])

    labeller = _may(desk, "label")

    @router.post(
        "/v1/labels",
        tags=["labels"],
        summary="Confirm or correct an answer, or say that there was no fault",
        responses={
            **_UNKNOWN,
            409: {"model": Problem, "description": "There is no telemetry of this incident in the store"},
            415: {"model": Problem, "description": "The body is of another type than JSON"},
        },
    )
    def label(given: LabelIn, request: Request, who: Who = labeller) -> LabelsOut:
        _check_type(request)
        with desk.reading() as file:
            episode = file.episode(given.incident)
            notice = loaded(file.notice(episode.number, episode.revision).body) if episode.revision else None
        bundle = bundle_of(episode)
        verdict = given.verdict
        meant = label_of(
            desk.inbox.home,
            bundle,
            verdict,
            entity=given.entity,
            fault_kind=given.fault_kind,
            note=given.note,
            blamed=leader(notice.report) if notice else None,
        )
        desk.done(request, who, f"label {verdict}", f"{episode.incident_id} {meant.name()} {meant.fault_kind}")
        changed = judged(desk.inbox.home, bundle, verdict, meant, who=who.name, also=given.also)
        desk.labelled(verdict, meant, notice, changed=changed)
        with IncidentStore(desk.inbox.home) as store:
            return LabelsOut(incident=episode.incident_id, changed=changed, labels=list(labels_of(store, episode)))

    _ = labels, label


def _model_out(ranks: Ranks, role: Literal["current", "shadow"]) -> ModelOut:
    return ModelOut(
        id=ranks.model,
        version=ranks.version,
        role=role,
        learned=ranks.learned,
        trouble=ranks.trouble,
        trained_on=list(ranks.trained_on),
        limits=list(ranks.limits),
    )


def bundle_of(episode: Episode) -> str:
    """The id in the store that labels of an incident go to. Raises HTTPException where there is none."""
    if episode.bundle is None:
        raise HTTPException(409, f"{episode.incident_id}: no telemetry of it is in the store (yet), so it cannot be labelled")
    return episode.bundle


# --- how the server does ------------------------------------------------------------------------------------------------


def _add_state(router: APIRouter, desk: Desk) -> None:
    @router.get("/v1/models", tags=["state"], summary="Show what ranks", dependencies=[_may(desk, "read")])
    def models() -> ModelList:
        ranks = desk.ranks()
        if ranks is None:
            return ModelList(models=[])
        shadow = [_model_out(ranks.shadow, "shadow")] if ranks.shadow is not None else []
        return ModelList(models=[_model_out(ranks, "current"), *shadow])

    @router.get("/healthz", tags=["state"], summary="Whether the server runs", openapi_extra=_OPEN)
    async def healthz() -> Health:
        return Health(status="ok", parts={})

    @router.get(
        "/readyz",
        tags=["state"],
        summary="Whether alerts are taken and worked on",
        response_model=Health,
        responses={503: {"model": Health, "description": "Something is wrong"}},
        openapi_extra=_OPEN,
    )
    def readyz() -> Response:
        parts = desk.parts()
        well = all(state == "ok" for state in parts.values())
        return JSONResponse({"status": "ok" if well else "trouble", "parts": parts}, 200 if well else 503)

    @router.get(
        "/metrics",
        tags=["state"],
        summary="Figures for Prometheus",
        response_class=PlainTextResponse,
        dependencies=[_may(desk, "read")],
    )
    def metrics() -> PlainTextResponse:
        return PlainTextResponse(desk.metrics.text(), media_type="text/plain; version=0.0.4")

    _ = models, healthz, readyz, metrics
