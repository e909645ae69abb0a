"""The process that asks and ranks: started anew when it ends, killed when it misses a deadline, gone when its parent is."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from rca.collectors.config import Config
from rca.errors import RcaError, Unavailable
from rca.observe import observing
from rca.serve.asking import Asked, Asker, Found, Kept, Ranks
from rca.serve.child import begin
from rca.telemetry import SECOND_NS

_LOG: Final = logging.getLogger(__name__)
_START_S: Final = 60.0
_KEEP_S: Final = 60.0
_LOOK_S: Final = 1.0
"""How often the process looks, while nothing is asked, whether another version was promoted and whether there is drift."""


class AskingProcess:
    """An Asker in a process of its own; one question at a time. Raises what the Asker raises."""

    def __init__(self, config: Config, home: Path) -> None:
        self._config, self._home = config, home
        self._context = multiprocessing.get_context("spawn")  # a fork would copy threads that hold locks
        self._process: Any = None
        self._line: Connection | None = None
        self.ranks: Ranks | None = None
        self.restarts = 0
        self._ended = False
        self._turn = threading.Lock()  # none is started once it was told to stop

    def start(self) -> Ranks:
        """Start it unless it runs; what ranks there. Raises BadInput if it cannot work, Unavailable if it does not come up."""
        with self._turn:
            if self._ended:
                raise Unavailable("the server is ending")
            if self._process is not None and self._process.is_alive() and self.ranks is not None:
                return self.ranks
            self._kill()
            ours, theirs = self._context.Pipe()
            news, teller = self._context.Pipe(duplex=False)
            process = self._context.Process(
                target=_serve, args=(theirs, teller, self._config, self._home, os.getpid()), name="rca ranking", daemon=True
            )
            process.start()
            theirs.close()
            teller.close()
            self._process, self._line = process, ours
        self.ranks = self._heard(_START_S, Ranks)
        threading.Thread(target=self._listen, args=(news, ours), name="ranking news", daemon=True).start()
        return self.ranks

    def _listen(self, news: Connection, line: Connection) -> None:
        """Hear what ranks whenever that changes, until the process ends."""
        with contextlib.suppress(EOFError, OSError):
            while True:
                ranks: Ranks = news.recv()
                if self._line is line:
                    self.ranks = ranks
        news.close()

    def find(self, asked: Asked) -> Found:
        """Raises Unavailable where the deadline passed or the process ended; the next question starts another one."""
        began = time.monotonic()
        self.start()
        left = asked.deadline_ns / SECOND_NS - (time.monotonic() - began)
        if self._line is None or left <= 0:
            raise Unavailable(_late(asked))
        with contextlib.suppress(OSError):  # it has just ended, which `_heard` finds out
            self._line.send(asked)
        found: Found = self._heard(left, Found, _late(asked))
        return found

    def kept(self) -> Kept:
        """What became of the incident that was found last. To be called once after `find`."""
        try:
            kept: Kept = self._heard(_KEEP_S, Kept)
        except Unavailable as error:
            return Kept(None, str(error))
        return kept

    def stop(self) -> None:
        """End it for good, whatever it does; another thread may be waiting for it."""
        with self._turn:
            self._ended = True
            self._kill()

    def _kill(self) -> None:
        line, self._line = self._line, None
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.join()
        if line is not None:
            line.close()

    def _heard(self, seconds: float, kind: type[Any], late: str = "the ranking process does not answer") -> Any:
        """What it says next. Raises what it raised, or Unavailable."""
        line = self._line
        if line is None:
            raise Unavailable("the ranking process ended")
        try:
            said = line.recv() if line.poll(seconds) else Unavailable(late)
        except (EOFError, OSError):
            said = Unavailable("the ranking process ended; another one is started")
        if isinstance(said, kind):
            return said
        if not isinstance(said, _Raised):
            _LOG.warning("%s", said)
            self.restarts += 1
            self._kill()
            raise said if isinstance(said, RcaError) else Unavailable(str(said))
        raise said.error


class _Raised:
    """An error of ours on its way to the other process."""

    def __init__(self, error: RcaError) -> None:
        self.words, self.kind = str(error), type(error)

    @property
    def error(self) -> RcaError:
        error = RcaError.__new__(self.kind)
        Exception.__init__(error, self.words)
        return error


def _late(asked: Asked) -> str:
    return f"no ranking within {asked.deadline_ns / SECOND_NS:g} s ([serve] deadline)"


def _serve(line: Connection, news: Connection, config: Config, home: Path, parent: int) -> None:
    """What the process does: say what ranks, then answer, and say so when something else does."""
    begin(parent)
    try:
        asker = Asker(config, home, observer=observing(config.observe))
    except RcaError as error:
        line.send(_Raised(error))
        return
    said = asker.ranks()
    line.send(said)
    with contextlib.suppress(EOFError, OSError):
        while True:
            if (ranks := asker.ranks()) != said:
                news.send(ranks)
                said = ranks
            if not line.poll(_LOOK_S):
                asker.refresh()
                asker.look_back()
                continue
            asked = line.recv()
            try:
                found, incident, telemetry = asker.find(asked)
            except RcaError as error:
                line.send(_Raised(error))
                continue
            line.send(found)
            line.send(asker.keep(incident, telemetry, asked.trace))
