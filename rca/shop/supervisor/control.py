"""The control API: orders for the supervisor over HTTP on loopback, with a token; and the exporters' pages, without one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import secrets
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from rca.errors import BadInput, RcaError, Unavailable
from rca.wording import excerpt

if TYPE_CHECKING:
    from rca.shop.supervisor.supervisor import Supervisor

log = logging.getLogger(__name__)

_TURN_S = 8.0  # a client waits a little longer
Handle = Callable[["Orders", Mapping[str, str], Mapping[str, Any]], Awaitable[Any]]


class Orders:
    """One order for each path. Bodies are JSON objects; what is wrong with them is BadInput."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor, self._turn = supervisor, asyncio.Lock()

    async def obey(self, handle: Handle, path: Mapping[str, str], body: Mapping[str, Any]) -> Any:
        """One order at a time, in the order in which they came: what ends every fault must not overtake one that still begins.

        Raises Unavailable where the one before does not end; what had begun is ended all the same if that is what was ordered.
        """
        try:
            async with asyncio.timeout(_TURN_S):
                await self._turn.acquire()
        except TimeoutError:
            if handle is Orders.clear:
                await self._supervisor.clear()
            raise Unavailable("an order before it is still being carried out") from None
        try:
            return await handle(self, path, body)
        finally:
            self._turn.release()

    async def status(self, _path: Mapping[str, str], _body: Mapping[str, Any]) -> Any:
        return self._supervisor.status()

    async def signal(self, path: Mapping[str, str], body: Mapping[str, Any]) -> Any:
        self._supervisor.signal(path["pod"], _one_of(body, "signal", ("KILL", "STOP", "CONT", "TERM")))

    async def chaos(self, path: Mapping[str, str], body: Mapping[str, Any]) -> Any:
        await self._supervisor.chaos(path["pod"], "POST", body)

    async def end_chaos(self, path: Mapping[str, str], _body: Mapping[str, Any]) -> Any:
        await self._supervisor.chaos(path["pod"], "DELETE", {})

    async def rollout(self, path: Mapping[str, str], body: Mapping[str, Any]) -> Any:
        release = body.get("release")
        if not isinstance(release, Mapping):
            raise BadInput("release", expected="an object", found=repr(release))
        self._supervisor.roll_out(path["workload"], release)

    async def rollback(self, path: Mapping[str, str], _body: Mapping[str, Any]) -> Any:
        self._supervisor.deployment(path["workload"]).roll_back()

    async def configure(self, path: Mapping[str, str], body: Mapping[str, Any]) -> Any:
        configuration = body.get("configuration")
        if not isinstance(configuration, Mapping):
            raise BadInput("configuration", expected="an object of settings", found=repr(configuration))
        self._supervisor.configure(path["workload"], configuration)

    async def scale(self, path: Mapping[str, str], body: Mapping[str, Any]) -> Any:
        self._supervisor.deployment(path["workload"]).scale(int(_number(body, "pods", least=1, most=8)))

    async def limits(self, path: Mapping[str, str], body: Mapping[str, Any]) -> Any:
        limit = None if body.get("memory_bytes") is None else int(_number(body, "memory_bytes", least=2**20))
        self._supervisor.limit_memory(path["workload"], limit)

    async def network(self, _path: Mapping[str, str], body: Mapping[str, Any]) -> Any:
        rate = body.get("rate_bytes_per_second")
        self._supervisor.disturb(
            _text(body, "from"),
            _text(body, "to"),
            delay_ms=_number(body, "delay_ms", 0.0),
            jitter_ms=_number(body, "jitter_ms", 0.0),
            loss=_number(body, "loss", 0.0, most=1.0),
            cut=_one_of(body, "cut", ("none", "reset", "blackhole"), "none"),
            rate_bytes_per_second=None if rate is None else _number(body, "rate_bytes_per_second", least=1.0),
        )

    async def clear_network(self, _path: Mapping[str, str], body: Mapping[str, Any]) -> Any:
        self._supervisor.network.clear(*(None if body.get(end) is None else _text(body, end) for end in ("from", "to")))

    async def dns(self, _path: Mapping[str, str], body: Mapping[str, Any]) -> Any:
        names = body.get("names", "*")
        if names != "*" and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise BadInput("names", expected='a list of names, or "*"', found=repr(names))
        self._supervisor.break_names(_text(body, "workload"), names)

    async def clear_dns(self, _path: Mapping[str, str], _body: Mapping[str, Any]) -> Any:
        self._supervisor.mend_names()

    async def neighbour(self, path: Mapping[str, str], body: Mapping[str, Any]) -> Any:
        threads = int(_number(body, "threads", 1, least=1, most=16))
        self._supervisor.add_neighbours(path["node"], threads, _number(body, "duty", 0.9, most=1.0))

    async def clear_neighbour(self, path: Mapping[str, str], _body: Mapping[str, Any]) -> Any:
        self._supervisor.remove_neighbours(path["node"])

    async def fill_volume(self, path: Mapping[str, str], _body: Mapping[str, Any]) -> Any:
        self._supervisor.fill_volume(path["pod"])

    async def slow_volume(self, path: Mapping[str, str], body: Mapping[str, Any]) -> Any:
        given = {name: _number(body, name) for name in ("bytes_per_second", "ms_per_write") if body.get(name) is not None}
        if not given:
            raise BadInput("volume", expected="bytes_per_second or ms_per_write", found="neither")
        self._supervisor.slow_volume(path["pod"], given)

    async def clear_volume(self, path: Mapping[str, str], _body: Mapping[str, Any]) -> Any:
        self._supervisor.clear_volume(path["pod"])

    async def backing(self, path: Mapping[str, str], _body: Mapping[str, Any]) -> Any:
        await self._supervisor.backing(path["name"], _one_of(path, "action", ("stop", "start", "restart", "flush")))

    async def trouble(self, path: Mapping[str, str], body: Mapping[str, Any]) -> Any:
        parameters = {key: value for key, value in body.items() if key != "what"}
        await self._supervisor.trouble(path["name"], _text(body, "what"), parameters)

    async def load(self, _path: Mapping[str, str], body: Mapping[str, Any]) -> Any:
        self._supervisor.set_rate(_number(body, "rate", most=1000.0))

    async def clear(self, _path: Mapping[str, str], _body: Mapping[str, Any]) -> Any:
        await self._supervisor.clear()

    async def reset(self, _path: Mapping[str, str], _body: Mapping[str, Any]) -> Any:
        self._supervisor.reset()


_ORDERS: Mapping[tuple[str, str], Handle] = {
    ("GET", "/status"): Orders.status,
    ("POST", "/pods/{pod}/signal"): Orders.signal,
    ("POST", "/pods/{pod}/chaos"): Orders.chaos,
    ("DELETE", "/pods/{pod}/chaos"): Orders.end_chaos,
    ("POST", "/workloads/{workload}/rollout"): Orders.rollout,
    ("POST", "/workloads/{workload}/rollback"): Orders.rollback,
    ("POST", "/workloads/{workload}/configure"): Orders.configure,
    ("POST", "/workloads/{workload}/scale"): Orders.scale,
    ("POST", "/limits/{workload}"): Orders.limits,
    ("POST", "/network"): Orders.network,
    ("DELETE", "/network"): Orders.clear_network,
    ("POST", "/dns"): Orders.dns,
    ("DELETE", "/dns"): Orders.clear_dns,
    ("POST", "/nodes/{node}/neighbour"): Orders.neighbour,
    ("DELETE", "/nodes/{node}/neighbour"): Orders.clear_neighbour,
    ("POST", "/volumes/{pod}/fill"): Orders.fill_volume,
    ("POST", "/volumes/{pod}/slow"): Orders.slow_volume,
    ("DELETE", "/volumes/{pod}"): Orders.clear_volume,
    ("POST", "/backing/{name}/trouble"): Orders.trouble,
    ("POST", "/backing/{name}/{action}"): Orders.backing,
    ("POST", "/load"): Orders.load,
    ("POST", "/clear"): Orders.clear,
    ("POST", "/reset"): Orders.reset,
}


class ControlServer(uvicorn.Server):
    """Serves orders and exporters on the supervisor's own loop, whose signals are the supervisor's."""

    def __init__(self, supervisor: Supervisor, token: str) -> None:
        self._supervisor, self._token = supervisor, token
        orders = Orders(supervisor)
        routes = [Route(path, self._endpoint(orders, handle), methods=[method]) for (method, path), handle in _ORDERS.items()]
        pages = [Route("/metrics/{page:path}", self._page)]
        app = Starlette(routes=[*routes, *pages])
        super().__init__(uvicorn.Config(app, log_config=None, log_level=logging.WARNING, access_log=False, lifespan="off"))
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.socket.getsockname()[1]

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def _endpoint(self, orders: Orders, handle: Handle) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            scheme, _, shown = request.headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not secrets.compare_digest(shown, self._token):
                return JSONResponse({"error": "expected the token of shop.json"}, 401)
            try:
                path, body = request.path_params, _object(await request.body())
                answer = await (handle(orders, path, body) if request.method == "GET" else orders.obey(handle, path, body))
                return JSONResponse(answer or {})
            except BadInput as error:
                return JSONResponse({"where": error.where, "expected": error.expected, "found": error.found}, 400)
            except RcaError as error:
                return JSONResponse({"error": str(error)}, 503 if isinstance(error, Unavailable) else 409)
            except Exception as error:
                log.exception("%s %s", request.method, request.url.path)
                told = f"a mistake of the shop itself, {type(error).__name__}: {error}; supervisor.log says where"
                return JSONResponse({"error": told}, 500)

        return endpoint

    async def _page(self, request: Request) -> Response:
        text = await self._supervisor.page(request.path_params["page"])
        return PlainTextResponse(text, 200 if text else 404, media_type="text/plain; version=0.0.4")


def _object(text: bytes) -> Mapping[str, Any]:
    """The body of an order; without one nothing is said. Raises BadInput."""
    expected = "a JSON object"
    try:
        body = json.loads(text) if text.strip() else {}
    except ValueError as error:
        raise BadInput("body", expected=expected, found=str(error)) from None
    if not isinstance(body, dict):
        raise BadInput("body", expected=expected, found=excerpt(repr(body), 80))
    return body


def _text(body: Mapping[str, Any], key: str) -> str:
    value = body.get(key)
    if not isinstance(value, str) or not value:
        raise BadInput(key, expected="a name", found=repr(value))
    return value


def _one_of(body: Mapping[str, Any], key: str, known: tuple[str, ...], usual: str | None = None) -> Any:
    value = body.get(key, usual)
    if value not in known:
        raise BadInput(key, expected=" or ".join(known), found=repr(value))
    return value


def _number(
    body: Mapping[str, Any], key: str, usual: float | None = None, *, least: float = 0.0, most: float = float("inf")
) -> float:
    value = body.get(key, usual)
    fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and least <= value <= most
    if not fits:
        limits = f"a number from {least:g}" + (f" to {most:g}" if most < float("inf") else " on")
        raise BadInput(key, expected=limits, found=repr(value))
    return float(cast("float", value))
