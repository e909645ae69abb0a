"""`rca serve` as a whole: what runs in it, how it starts, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from rca.collectors.config import Config
from rca.collectors.warm.store import Store, store_folder
from rca.errors import BadInput
from rca.observe import observing
from rca.serve.api import api
from rca.serve.app import Desk, build_app
from rca.serve.auth import Access, Audit, Sites
from rca.serve.drifting import drift_gauges
from rca.serve.inbox import Inbox
from rca.serve.metrics import Gauge, Metrics
from rca.serve.process import AskingProcess
from rca.serve.sending import Sender
from rca.serve.site import site
from rca.serve.worker import Asking, Worker
from rca.sinks.notice import Sink
from rca.telemetry import SECOND_NS

_BACKLOG: Final = 1024
_GRACE_S: Final = 10
_HEADERS: Final = 32 * 2**10  # bytes of a request's head


class Server:
    """Listens from construction on, and answers while `run` runs.

    Raises BadInput if the address, the certificate, the list of those to let in, the configuration or the home cannot be used.
    """

    def __init__(self, config: Config, home: Path, sinks: Sequence[Sink], *, asking: Asking | None = None) -> None:
        self._names = _distinct([sink.name for sink in sinks])
        with contextlib.ExitStack() as undo:
            self._socket = _listening(config.serve.address)
            undo.callback(self._socket.close)
            host = config.serve.address.rpartition(":")[0]
            settings = config.serve.model_copy(update={"address": f"{host}:{self.port}"})  # a port of 0 has become another
            self.settings = settings
            metrics, access, audit = Metrics(), Access(settings.access_file), Audit(settings.audit_file)
            self._inbox = Inbox(home, config.triage.system)
            undo.callback(self._inbox.close)
            self._observer = observing(config.observe)
            undo.callback(self._observer.close)
            self._asking = asking or AskingProcess(config, home)
            self._worker = Worker(self._inbox, self._asking, settings, self._names, metrics, observer=self._observer)
            self._senders = [Sender(self._inbox, sink, metrics, observer=self._observer) for sink in sinks]
            sites = Sites(self.url, any_host=not access.open)
            desk = Desk(settings, self._inbox, access, sites, audit, metrics, lambda: self._asking.ranks, self._parts)
            metrics.gauges += self._gauges(config, desk)
            metrics.report_to(self._observer)
            self._server = _Uvicorn(self._uvicorn(desk))
            undo.pop_all()

    @property
    def port(self) -> int:
        port: int = self._socket.getsockname()[1]
        return port

    @property
    def url(self) -> str:
        """Address under which people reach it."""
        return self.settings.url()

    def run(self, started: Callable[[], None] = lambda: None) -> None:
        """Answer until `stop`; what was taken stays on the disk.

        Raises BadInput if the configuration names no source, or one that cannot be used.
        """
        self._worker.start()
        threading.Thread(target=self._watch, name="watch", daemon=True).start()
        for sender in self._senders:
            sender.start()
        started()
        try:
            self._server.run([self._socket])
        finally:
            self._end()
        if self._worker.failure is not None:
            raise self._worker.failure

    def _watch(self) -> None:
        """Without a worker, alerts would only pile up."""
        self._worker.join()
        if self._worker.failure is not None:
            self.stop()

    def stop(self) -> None:
        """Have `run` end."""
        self._server.should_exit = True

    def _end(self) -> None:
        self._worker.stop()
        for sender in self._senders:
            sender.stop()
        self._observer.close()
        self._inbox.close()
        self._socket.close()

    def _parts(self) -> dict[str, str]:
        """How the parts do that alerts need."""
        return {
            "inbox": self._inbox.trouble or "ok",
            "worker": "ok" if self._worker.alive() else "ended",
            "ranking": "ok" if self._asking.ranks is not None else "the ranking process is being started",
        }

    def _gauges(self, config: Config, desk: Desk) -> list[Gauge]:
        """Values of the moment. What counts the queue asks the disk, so that it is right after a start, too."""
        store = Store(store_folder(config.store, None)) if config.store is not None else None
        maintenance = config.serve.maintenance_file

        def groups() -> float:
            with self._inbox.reading() as file:
                return file.waiting()

        def messages() -> float:
            with self._inbox.reading() as file:
                return file.waiting_for(self._names)

        def age_s() -> float | None:
            fresh_ns = store.fresh_until_ns() if store else None
            return None if fresh_ns is None else (time.time_ns() - fresh_ns) / SECOND_NS

        def instead() -> float | None:
            ranks = self._asking.ranks
            return None if ranks is None else float(bool(ranks.trouble))

        return [
            Gauge("waiting_groups", "groups that wait for their first answer", groups),
            Gauge("waiting_deliveries", "messages that wait to be sent", messages),
            Gauge("pending_bytes", "bytes of notifications held in memory", lambda: desk.pending),
            Gauge("telemetry_age_seconds", "age of the newest bin that `rca collect` keeps", age_s),
            Gauge("model_replaced", "1 while another one ranks in place of a model that cannot be used", instead),
            *drift_gauges(lambda: self._asking.ranks),
            Gauge("maintenance", "1 while maintenance is declared", lambda: maintenance is not None and maintenance.exists()),
        ]

    def _uvicorn(self, desk: Desk) -> uvicorn.Config:
        tls = self.settings.tls
        config = uvicorn.Config(
            build_app(desk, [api(desk), site(desk)]),
            http=Punctual,  # h11 is the one parser that limits what a request's head may hold
            h11_max_incomplete_event_size=_HEADERS,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level=logging.WARNING,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=_GRACE_S,
            ssl_certfile=tls.cert_file if tls else None,
            ssl_keyfile=tls.key_file if tls else None,
            ssl_ca_certs=str(tls.client_ca_file) if tls and tls.client_ca_file else None,
            ssl_cert_reqs=ssl.CERT_REQUIRED if tls and tls.client_ca_file else ssl.CERT_NONE,
        )
        for path in (tls.cert_file, tls.key_file, tls.client_ca_file) if tls else ():
            if path is not None and not os.access(path, os.R_OK):
                raise BadInput("serve.tls", expected="a certificate and its key", found=f"{path}, which cannot be read")
        try:
            config.load()
        except OSError as error:  # ssl.SSLError is one
            raise BadInput("serve.tls", expected="a certificate and its key", found=str(error)) from None
        return config


class Punctual(H11Protocol):
    """Hangs up on whoever does not say in time what they want: uvicorn waits for the head of a request for ever."""

    head_s = 20.0
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._forget()

    def _watch(self) -> None:
        """Count from the first byte of a head, or from the connection, until the head is there."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._forget()
        elif self._late is None and self.timeout_keep_alive_task is None:
            self._late = self.loop.call_later(self.head_s, self.timeout_keep_alive_handler)

    def _forget(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


class _Uvicorn(uvicorn.Server):
    """Leaves signals to whoever runs it: uvicorn's own handlers end the process before what was begun is put away."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _distinct(names: Sequence[str]) -> list[str]:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BadInput("sinks", expected="a name of its own for each", found=f"{', '.join(twice)} twice")
    return list(names)


def _listening(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, OverflowError) as error:
        raise BadInput("serve.address", expected="an address to listen on", found=f"{address}: {error}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise BadInput("serve.address", expected="an address to listen on", found=f"{address}: {error.strerror}") from None
    return listener
