"""The pages: the list of incidents, one incident, and its forms. What they show is made by rca.serve.pages."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

import anyio.to_thread
from fastapi import APIRouter, Request
from fastapi import Path as PathParameter
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, RedirectResponse, Response

from rca.drawing.similar import Gist, similar_to
from rca.errors import RcaError, Unavailable, UnknownName
from rca.incidents.inbox import Episode, InboxFile, StoredNotice
from rca.incidents.incident import Incident, IntervalModel
from rca.incidents.store import AuditEntry, IncidentStore
from rca.pipeline import case_of
from rca.report import TriageReport
from rca.serve.api import bundle_of
from rca.serve.app import Desk, answer_to
from rca.serve.auth import Role, Who
from rca.serve.labelling import judged
from rca.serve.notices import loaded
from rca.serve.pages.labelling import CSRF_FIELD, judgement_of
from rca.serve.pages.listing import Known, Query, list_view
from rca.serve.pages.rendering import HEADERS, render, render_list, render_message
from rca.serve.pages.view import Looker, Scene, Stage, scene_of, view_of
from rca.serve.process import begin
from rca.serve.schemas import INCIDENT_ID
from rca.sinks.notice import Notice
from rca.telemetry import SECOND_NS, EntityId

_LOG: Final = logging.getLogger(__name__)
_MOST_LISTED: Final = 2000
"""Incidents that the list and the search look through, the newest."""
_SCENES: Final = 32
_SCENE_S: Final = 20.0
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
        return await anyio.to_thread.run_sync(answer, who, limiter=desk.pages)
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
    gist = _gist(notice.gist) if notice is not None else Gist()
    return Known(_about(episode, stored.get(episode.bundle or "")), gist, stage, episode.state, episode.revision)


def _gist(gist: Mapping[str, object]) -> Gist:
    candidates = gist["candidates"]
    first = candidates[0] if isinstance(candidates, list) and candidates else None
    if first is None:
        return Gist()
    entity = EntityId(first["kind"], first["name"], first["namespace"])
    signals = gist.get("signals")
    level = gist.get("level", "nothing")
    return Gist(entity, first["probability"], level, first["family"], tuple(signals) if isinstance(signals, list) else ())  # type: ignore[arg-type]


def _about(episode: Episode, stored: Incident | None) -> Incident:
    """The incident as the store has it, under the id of this episode; a bare one while it has none."""
    if stored is not None:
        return stored.model_copy(update={"id": episode.incident_id, "title": episode.title})
    end_ns = max(episode.closed_ns or episode.heard_ns, episode.opened_ns + SECOND_NS)
    window = IntervalModel(start_ns=episode.opened_ns, end_ns=end_ns)
    return Incident(id=episode.incident_id, system="", window=window, title=episode.title, detected_ns=episode.opened_ns)


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
        incident = _about(episode, stored)
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


# --- what telemetry shows -----------------------------------------------------------------------------------------------


class Scenes:
    """What the telemetry of incidents shows, the last few kept.

    It is read in a process of its own, for that keeps a core busy; one at a time, and its memory is given back.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._turn = threading.Lock()
        self._kept: OrderedDict[tuple[str, int, int], Scene] = OrderedDict()

    def of(self, episode: Episode, written: int, notice: Notice | None) -> Scene | None:
        """The scene of an incident whose telemetry was written at that change; None where it cannot be read."""
        key = (episode.incident_id, written, episode.revision)
        if (kept := self._kept.get(key)) is not None:
            return kept
        with self._turn:
            if key in self._kept:
                return self._kept[key]
            try:
                scene = self._read(episode.bundle or "", notice.report if notice else None)
            except (RcaError, EOFError, OSError) as error:
                _LOG.warning("%s: its telemetry cannot be shown: %s", episode.incident_id, error)
                return None
            self._kept[key] = scene
            while len(self._kept) > _SCENES:
                self._kept.popitem(last=False)
            return scene

    def _read(self, bundle: str, report: TriageReport | None) -> Scene:
        """Raises RcaError; EOFError if the process ended."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe(duplex=False)
        arguments = (theirs, os.getpid(), self._home, bundle, report)
        process = context.Process(target=_read_scene, args=arguments, name="rca page", daemon=True)
        process.start()
        theirs.close()
        try:
            if not ours.poll(_SCENE_S):
                raise Unavailable(f"not read within {_SCENE_S:g} s")
            found = ours.recv()
        finally:
            process.kill()
            process.join()
            ours.close()
        if isinstance(found, str):
            raise Unavailable(found)
        scene: Scene = found
        return scene


def _read_scene(line: Connection, parent: int, home: Path, bundle: str, report: TriageReport | None) -> None:
    """In the other process: says the scene, or why there is none."""
    begin(parent)
    try:
        with IncidentStore(home) as store:
            incident, telemetry = store.get(bundle)
        case = case_of(incident, telemetry, report.ranking.window if report is not None else None)
        line.send(scene_of(incident, case, report))
    except RcaError as error:
        line.send(str(error))
