"""The shop's customers: `python -m rca.shop.load URL [--rate 12] [--control FILE] [--statistics FILE]`

Open loop: customers come when they come, whether or not those before them were answered. Arrivals are Poisson at a rate that
drifts slowly around what is asked for. The control file, {"rate": 30}, is read every second; statistics are JSON lines.
"""

from __future__ import annotations

import argparse
import http.client
import json
import math
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Final
from urllib.parse import quote, urlsplit

from rca.errors import BadInput
from rca.shop.goods import CATEGORIES, NOUNS, PRODUCTS

TIMEOUT_S: Final = 5.0
_AT_ONCE: Final = 256
_CUSTOMERS: Final = 400
_DRIFT: Final = 0.15
_PERIODS_S: Final = (620.0, 173.0)
_COLOURS: Final = ("blue", "wooden", "small", "classic", "warm", "")
_MIX: Final = {"home": 0.14, "browse": 0.17, "product": 0.31, "search": 0.13, "view_cart": 0.06, "add": 0.11, "check_out": 0.08}

Request = tuple[str, str, object]


class Customers:
    """Who does what next: they look around, fill carts, and buy what they put there."""

    def __init__(self, seed: int) -> None:
        self._chosen = random.Random(seed)
        self._filled: dict[str, None] = {}  # in the order in which they filled their carts

    def next(self) -> tuple[str, Request]:
        """What somebody does now, and the request for it."""
        chosen = self._chosen
        what = chosen.choices(list(_MIX), list(_MIX.values()))[0]
        customer = f"c{chosen.randrange(_CUSTOMERS)}"
        product = min(int(chosen.expovariate(1 / 90)) + 1, PRODUCTS)  # a few are looked at by many
        if what == "check_out" and self._filled:
            code = chosen.choice(["SPRING", "FRIENDS", None, None])
            return what, ("POST", f"/checkout/{self._next_buyer()}", {"code": code, "card": "visa"})
        if what in ("add", "check_out"):
            body = {"product": product, "quantity": chosen.randint(1, 3)}
            return "add", ("POST", f"/cart/{customer}/items", body)
        if what == "search":
            words = f"{chosen.choice(_COLOURS)} {chosen.choice(NOUNS)}".strip()
            return what, ("GET", f"/search?q={quote(words)}", None)
        paths = {
            "home": f"/?customer={customer}",
            "browse": f"/products?category={chosen.choice(CATEGORIES)}",
            "product": f"/products/{product}",
            "view_cart": f"/cart/{customer}",
        }
        return what, ("GET", paths[what], None)

    def done(self, request: Request) -> None:
        """A request succeeded."""
        method, path, _ = request
        if method == "POST" and path.endswith("/items"):
            self._filled[path.split("/")[2]] = None

    def _next_buyer(self) -> str:
        customer = next(iter(self._filled))
        del self._filled[customer]
        return customer


class Statistics:
    """What became of the requests since the last line."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sent = self._failed = 0
        self._answers: Counter[str] = Counter()
        self._seconds: list[float] = []

    def sent(self) -> None:
        with self._lock:
            self._sent += 1

    def answered(self, status: str, seconds: float) -> None:
        """`status` of the answer, or the name of what went wrong."""
        with self._lock:
            self._answers[status] += 1
            self._failed += not status.startswith(("2", "4"))
            self._seconds.append(seconds)

    def line(self, rate: float) -> str:
        """The figures as JSON; counting begins anew."""
        with self._lock:
            seconds = sorted(self._seconds)
            sent, failed, answers = self._sent, self._failed, dict(sorted(self._answers.items()))
            self._sent = self._failed = 0
            self._answers, self._seconds = Counter(), []
        figures = {
            "time": round(time.time(), 3),
            "rate": rate,
            "sent": sent,
            "ok": len(seconds) - failed,
            "failed": failed,
            "answers": answers,
            "p50": _quantile(seconds, 0.5),
            "p95": _quantile(seconds, 0.95),
        }
        return json.dumps(figures)


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    return round(ordered[min(int(share * len(ordered)), len(ordered) - 1)], 5) if ordered else None


class Browser:
    """Sends requests over connections that are kept."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname or not parts.port:
            raise BadInput("URL", expected="http://host:port", found=url)
        self._host, self._port = parts.hostname, parts.port
        self._idle: list[http.client.HTTPConnection] = []

    def send(self, request: Request) -> str:
        """Status of the answer, or what went wrong."""
        try:
            connection, fresh = self._idle.pop(), False
        except IndexError:
            connection, fresh = self._connection(), True
        try:
            return self._on(connection, request)
        except (http.client.RemoteDisconnected, ConnectionResetError) as error:
            if fresh:
                return type(error).__name__
        except (OSError, http.client.HTTPException) as error:
            return type(error).__name__
        try:  # the connection had been closed while nobody used it
            return self._on(self._connection(), request)
        except (OSError, http.client.HTTPException) as error:
            return type(error).__name__

    def _on(self, connection: http.client.HTTPConnection, request: Request) -> str:
        method, path, body = request
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"Content-Type": "application/json"} if text else {})
            answer = connection.getresponse()
            answer.read()
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)
        return str(answer.status)

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT_S)


class Load:
    """Customers at a rate, per second."""

    def __init__(self, url: str, rate: float, seed: int = 0) -> None:
        self.rate = rate
        self.statistics = Statistics()
        self._browser, self._customers = Browser(url), Customers(seed)
        self._chosen = random.Random(seed + 1)
        self._phases = [self._chosen.uniform(0, 2 * math.pi) for _ in _PERIODS_S]
        self._workers = ThreadPoolExecutor(max_workers=_AT_ONCE, thread_name_prefix="customer")

    def run(self, end: threading.Event) -> None:
        """Until the end is set."""
        due = time.monotonic()
        while not end.wait(max(due - time.monotonic(), 0)):
            self.statistics.sent()
            self._workers.submit(self._visit, self._customers.next()[1], time.monotonic())
            due += self._chosen.expovariate(max(self.rate * self._drift(due), 1e-3))
            due = max(due, time.monotonic() - 1)  # after a pause of the machine, do not make up for all of it
        self._workers.shutdown(wait=False, cancel_futures=True)

    def _visit(self, request: Request, due: float) -> None:
        status = self._browser.send(request)
        self.statistics.answered(status, time.monotonic() - due)
        if status == "200":
            self._customers.done(request)

    def _drift(self, at: float) -> float:
        waves = [math.sin(2 * math.pi * at / period + phase) for period, phase in zip(_PERIODS_S, self._phases, strict=True)]
        return 1 + _DRIFT * sum(waves) / len(waves)


def _rate_of(control: Path | None, rate: float) -> float:
    """The rate that the control file asks for, or what it was."""
    if control is None or not control.exists():
        return rate
    try:
        return float(json.loads(control.read_text(encoding="utf-8"))["rate"])
    except (ValueError, KeyError, TypeError):
        return rate  # it is being written


def main(arguments: Sequence[str] | None = None) -> None:
    """Send requests until the process is ended."""
    parser = argparse.ArgumentParser(prog="python -m rca.shop.load", description="Customers of the shop.")
    parser.add_argument("url", help="of the gateway, http://host:port")
    parser.add_argument("--rate", type=float, default=12.0, help="requests a second")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--control", type=Path, help='file {"rate": R}, read every second')
    parser.add_argument("--statistics", type=Path, help="file to append a line to every --every seconds (else standard output)")
    parser.add_argument("--every", type=float, default=5.0, help="seconds between lines")
    given = parser.parse_args(arguments)
    load = Load(given.url, given.rate, given.seed)
    end = threading.Event()
    threading.Thread(target=load.run, args=(end,), daemon=True).start()
    out: IO[str] = given.statistics.open("a", encoding="utf-8") if given.statistics else sys.stdout
    told = time.monotonic()
    try:
        while True:
            time.sleep(1)
            load.rate = _rate_of(given.control, load.rate)
            if time.monotonic() - told >= given.every:
                told = time.monotonic()
                print(load.statistics.line(load.rate), file=out, flush=True)
    except KeyboardInterrupt:
        end.set()


if __name__ == "__main__":
    main()
