"""What the telemetry of an incident shows, read in a process of its own."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
from collections import OrderedDict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

from rca.errors import RcaError, Unavailable
from rca.incidents.inbox import Episode
from rca.incidents.store import IncidentStore
from rca.pipeline import case_of
from rca.report import TriageReport
from rca.serve.child import begin
from rca.serve.pages.view import Scene, scene_of
from rca.sinks.notice import Notice

_LOG: Final = logging.getLogger(__name__)
_SCENES: Final = 32
_SCENE_S: Final = 20.0


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
