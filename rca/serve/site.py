"""The pages: the list of incidents, one incident, and its forms. What they show is made by rca.serve.pages."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Annotated, Final
from urllib.parse import urlsplit

from fastapi import APIRouter, Request
from fastapi import Path as PathParameter
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, RedirectResponse, Response

from rca.drawing.similar import Gist, similar_to
from rca.errors import RcaError, UnknownName
from rca.incidents.inbox import Episode, InboxFile, StoredNotice
from rca.incidents.incident import Incident
from rca.incidents.store import AuditEntry, IncidentStore
from rca.serve.api import bundle_of
from rca.serve.app import Desk, answer_to
from rca.serve.auth import Role, Who
from rca.serve.labelling import judged
from rca.serve.pages.labelling import CSRF_FIELD, judgement_of
from rca.serve.pages.listing import Known, Query, list_view
from rca.serve.pages.rendering import HEADERS, render, render_list, render_message
from rca.serve.pages.view import Looker, Stage, view_of
from rca.serve.scenes import Scenes
from rca.serve.schemas import INCIDENT_ID
from rca.sinks.notice import loaded

_LOG: Final = logging.getLogger(__name__)
_MOST_LISTED: Final = 2000
"""Incidents that the list and the search look through, the newest."""
_Id = Annotated[str, PathParameter(pattern=INCIDENT_ID)]


def site(desk: Desk) -> APIRouter:
    """The routes of the pages. Reading takes the role `read`, its forms `label`."""
    router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
    scenes = Scenes(desk.inbox.home)

    @router.get("/")
    async def home() -> Response:
        return RedirectResponse("incidents", 302)

    @router.get("/incidents")
    async def incidents(request: Request) -> Response:
        return await _page(desk, request, "read", lambda who: _list(desk, request, who))

    @router.get("/incidents/{incident_id}")
    async def incident(incident_id: _Id, request: Request) -> Response:
        said = "said" in request.query_params
        return await _page(desk, request, "read", lambda who: _incident(desk, scenes, incident_id, who, said=said))

    @router.post("/incidents/{incident_id}/judgement")
    async def judgement(incident_id: _Id, request: Request) -> Response:
        try:
            form = {name: value for name, value in (await request.form()).items() if isinstance(value, str)}
        except HTTPException as error:
            return _message(desk, None, error.status_code, str(error.detail))
        except ClientDisconnect:
            return _message(desk, None, 400, "the form did not arrive as a whole")
        return await _page(desk, request, "label", lambda who: _judge(desk, scenes, incident_id, who, request, form))

    _ = home, incidents, incident, judgement
    return router


async def _page(desk: Desk, request: Request, role: Role, answer: Callable[[Who], Response]) -> Response:
    """An answer for people, refusals included."""
    who = None
    try:
        who = desk.allowed(request, role)
        async with desk.pages:
            return await run_in_threadpool(answer, who)
    except HTTPException as error:
        return _message(desk, who, error.status_code, str(error.detail), dict(error.headers or {}))
    except RcaError as error:
        status, headers = answer_to(error, desk.settings.limits.retry_after)
        return _message(desk, who, status, str(error), headers)


def _message(desk: Desk, who: Who | None, status: int, words: str, headers: Mapping[str, str] | None = None) -> Response:
    heading = {401: "Who are you?", 403: "Not allowed", 404: "Not found", 503: "Not now"}.get(status, "That did not work")
    looker = _looker(desk, who) if who else Looker(base=_base(desk))
    return HTMLResponse(render_message(heading, words, looker), status, {**HEADERS, **(headers or {})})


def _looker(desk: Desk, who: Who) -> Looker:
    return Looker("label" if "label" in who.roles else "read", who.name, desk.sites.token(who), _base(desk))


def _base(desk: Desk) -> str:
    """Where pages begin: the path of `external_url`, for a proxy that people come through may have others beside them."""
    return urlsplit(desk.settings.url()).path


# --- the list -----------------------------------------------------------------------------------------------------------


def _list(desk: Desk, request: Request, who: Who) -> Response:
    query = Query.of(dict(request.query_params))
    with desk.reading() as file, IncidentStore(desk.inbox.home) as store:
        stored = {incident.id: incident for incident in store.list()}
        known = _everything(file, stored)
    return HTMLResponse(render_list(list_view(known, query, _looker(desk, who))), headers=HEADERS)


def _everything(file: InboxFile, stored: Mapping[str, Incident]) -> list[Known]:
    """The newest incidents and what was answered."""
    latest = dict(file.latest_notices(most=_MOST_LISTED))
    return [_known(episode, latest.get(episode.number), stored) for episode in file.episodes(most=_MOST_LISTED)]


def _known(episode: Episode, notice: StoredNotice | None, stored: Mapping[str, Incident]) -> Known:
    stage: Stage = "ranking" if notice is None else "ranked" if "level" in notice.gist else "unranked"
    gist = Gist.of(notice.gist) if notice is not None else Gist()
    return Known(episode.incident(stored.get(episode.bundle or "")), gist, stage, episode.state, episode.revision)


# --- one incident -------------------------------------------------------------------------------------------------------


def _incident(
    desk: Desk, scenes: Scenes, incident_id: str, who: Who, *, said: bool = False, problem: str = "", status: int = 200
) -> Response:
    with desk.reading() as file, IncidentStore(desk.inbox.home) as store:
        episode = file.episode(incident_id)
        notice = loaded(file.notice(episode.number, episode.revision).body) if episode.revision else None
        stored: Incident | None = None
        audit: tuple[AuditEntry, ...] = ()
        if episode.bundle is not None:
            try:
                stored, audit = store.incident(episode.bundle), store.audit(episode.bundle)
            except UnknownName:
                _LOG.info("%s was removed from the store", episode.bundle)
        incident = episode.incident(stored)
        everything = {each.id: each for each in store.list()}
        past = [(one.incident, one.gist) for one in _everything(file, everything)]
    written = max((entry.number for entry in audit if entry.action in ("added", "replaced")), default=0)
    scene = scenes.of(episode, written, notice) if stored is not None else None
    view = view_of(
        incident,
        notice,
        scene,
        similar=similar_to(incident, _gist_of(episode, past), past),
        audit=audit,
        looker=_looker(desk, who),
        said="Thank you: that is written down, and the model learns from it." if said else "",
        problem=problem,
    )
    return HTMLResponse(render(view), status, HEADERS)


def _gist_of(episode: Episode, past: list[tuple[Incident, Gist]]) -> Gist:
    return next((gist for incident, gist in past if incident.id == episode.incident_id), Gist())


def _judge(desk: Desk, scenes: Scenes, incident_id: str, who: Who, request: Request, form: Mapping[str, str]) -> Response:
    """Write down what somebody says, and show the page again: by a redirection, so that loading it anew says nothing twice."""
    if not desk.sites.fits(who, form.get(CSRF_FIELD, "")):
        desk.refuse(request, who, "a form that was not made here, or before the server started")
        return _incident(desk, scenes, incident_id, who, problem="This page was out of date. Please try again.", status=403)
    try:
        given = judgement_of(form)
        with desk.reading() as file:
            episode = file.episode(incident_id)
            notice = loaded(file.notice(episode.number, episode.revision).body) if episode.revision else None
        bundle = bundle_of(episode)
        desk.done(request, who, f"label {given.verdict}", f"{incident_id} {given.label.name()} {given.label.fault_kind}")
        changed = judged(desk.inbox.home, bundle, given.verdict, given.label, who=who.name)
    except HTTPException as error:
        return _incident(desk, scenes, incident_id, who, problem=str(error.detail), status=error.status_code)
    except RcaError as error:
        status, _ = answer_to(error, desk.settings.limits.retry_after)
        return _incident(desk, scenes, incident_id, who, problem=str(error), status=422 if status == 404 else status)
    desk.labelled(given.verdict, given.label, notice, changed=changed)
    return RedirectResponse(f"../{incident_id}?said", 303)
