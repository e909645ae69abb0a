"""`rca serve`: how soon it acknowledges while it ranks, how soon a message arrives, and what kill -9 loses.

    python -m benchmarks.serve [acknowledge|message|shop|replay] [--spans 300000] [--seconds 60] [--alerts 100000]

A server in a process of its own, a warm store of 50 services and 75 minutes as its source, and a receiver of webhooks. Prints one
JSON list of results. Latencies count from when a request was due, so that one that waits for another is not left out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import requests

from benchmarks.live import fill
from benchmarks.result import Result
from benchmarks.workload import SERVICES
from rca.collectors.warm.store import Store
from rca.errors import Unavailable
from rca.incidents.inbox import InboxFile
from rca.shop.folder import RunFolder, run_folder
from rca.shop.running import check_requirements, start, stop, wait_ready
from tests.servers.prometheus import free_port
from tests.servers.receiver import Receiver, receiving
from tests.servers.serve import SECRET, ServeProcess, serve_process, serving_of
from tests.serving import notification

_RATE: Final = 50  # alerts a second
_SENDERS: Final = 8
_EACH: Final = 10  # alerts of one notification, in the replay
_IN_GROUP: Final = 50  # alerts of one group, in the replay
_AUTHORIZED: Final = {"Authorization": f"Bearer {SECRET}"}
_STORE: Final = '[store]\nfolder = "{folder}"\n'


@contextmanager
def serving(spans: int, serve: str) -> Iterator[tuple[ServeProcess, Receiver]]:
    """A server on a warm store that was written until now; without spans, its one source is down."""
    with tempfile.TemporaryDirectory() as folder, receiving() as receiver:
        nowhere = f"http://127.0.0.1:{free_port()}"
        if spans:
            fill(Store(Path(folder) / "telemetry"), spans, int(time.time()) // 60 * 60)
        with serve_process(
            Path(folder), free_port(), prometheus=nowhere, receiver=receiver.url, serve=serve,
            more=_STORE.format(folder=Path(folder) / "telemetry") if spans else "",
        ) as server:  # fmt: skip
            yield server, receiver
            server.end()  # killed, it would leave a process that still writes into the folder for a moment


def acknowledge(spans: int, seconds: int) -> list[Result]:
    """A new group with every fifth alert, so that there is always something to rank."""
    with serving(spans, 'together = "1ms"\n') as (server, _):
        post(server, one("warm", 0, "service-00"))
        wait_for(lambda: rankings(server) >= 1)
        bodies = [one(f"g{i // 5}", i, f"service-{i % SERVICES:02}") for i in range(_RATE * seconds)]
        before, began = rankings(server), time.monotonic() + 0.5
        due = [(began + i / _RATE, body) for i, body in enumerate(bodies)]
        with ThreadPoolExecutor(_SENDERS) as pool:
            taken = sorted(pool.map(lambda each: timed(server, *each), due))
        ranked = rankings(server) - before
    told = f"{_RATE} alerts/s for {seconds} s, {ranked} rankings of {SERVICES} services meanwhile"
    spread = (taken[-1], taken[0])
    return [
        Result("acknowledgement, p50", told, "ms", percentile(taken, 50), *spread, None),
        Result("acknowledgement, p99", told, "ms", percentile(taken, 99), *spread, 100),
    ]


def message(spans: int, incidents: int) -> list[Result]:
    """From posting an alert to its message, one incident after the other."""
    with serving(spans, "") as (server, receiver):
        taken = messages(server, receiver, incidents, [f"service-{number:02}" for number in range(SERVICES)])
    return [_message_result(taken, f"{SERVICES} services, warm store")]


def shop(incidents: int, history: int) -> list[Result]:
    """The same with a shop beside it, whose Prometheus, Kubernetes API and store are asked. Nothing where none can run."""
    try:
        check_requirements()
    except Unavailable as error:
        print(error, file=sys.stderr)
        return []
    with tempfile.TemporaryDirectory() as below, running_shop(Path(below) / "shop") as folder, receiving() as receiver:
        time.sleep(history)
        sources = folder.config_file.read_text(encoding="utf-8")
        with serving_of(Path(below) / "serve", free_port(), sources, receiver=receiver.url) as server:
            taken = messages(server, receiver, incidents, ["checkout", "catalogue", "payment", "orders"])
            server.end()
    return [_message_result(taken, f"the shop running beside it for {history} s, live sources")]


@contextmanager
def running_shop(path: Path) -> Iterator[RunFolder]:
    """A shop of its own, ready."""
    folder = run_folder(path)
    supervisor = start(folder, None)
    try:
        wait_ready(folder, supervisor, lambda _: None)
        yield folder
    finally:
        stop(folder)


def messages(server: ServeProcess, receiver: Receiver, incidents: int, services: Sequence[str]) -> list[float]:
    """Milliseconds from each post to its message, in order of size; one more warms up."""
    taken = []
    for i in range(incidents + 1):
        before = time.perf_counter()
        post(server, one(f"g{i}", i, services[i % len(services)]))
        wait_for(partial(arrived, receiver, i + 1))
        if i:
            taken.append((time.perf_counter() - before) * 1e3)
        time.sleep(0.5)
    unranked = [body["trouble"] for body in receiver.messages.values() if body["report"] is None]
    if unranked:
        raise AssertionError(unranked[0])
    return sorted(taken)


def _message_result(taken: Sequence[float], beside: str) -> Result:
    told = f"{len(taken)} incidents, {beside}, from the post to the webhook's receiver"
    return Result("alert to enriched message, p95", told, "ms", percentile(taken, 95), taken[-1], taken[0], 5000)


def arrived(receiver: Receiver, messages: int) -> bool:
    return len(receiver.messages) >= messages


def replay(alerts: int) -> list[Result]:
    """Many alerts as fast as they are taken, and kill -9 in the middle; what was not acknowledged is sent again."""
    groups = max(alerts // _IN_GROUP, 1)
    with serving(0, "") as (server, receiver):
        start = time.monotonic()
        notifications = [(group, part) for part in range(_IN_GROUP // _EACH) for group in range(groups)]
        done = Done()
        killer = threading.Thread(target=kill_in_the_middle, args=(server, done, len(notifications) // 2))
        killer.start()
        with ThreadPoolExecutor(_SENDERS) as pool:
            list(pool.map(lambda each: insist(server, many(*each), done), notifications))
        killer.join()
        taken = time.monotonic() - start
        wait_for(lambda: len({key for key in list(receiver.messages) if key.endswith(":1")}) >= groups, 600)
        delivered = time.monotonic() - start
        lost, odd = account(server, receiver, groups)
        repeats = sum(receiver.times.values()) - len(receiver.times)
    told = f"{groups * _IN_GROUP:,} alerts in {groups:,} groups, {_EACH} a request, {_SENDERS} senders, kill -9 at half"
    if odd:
        raise AssertionError(odd)
    rate = groups * _IN_GROUP / taken
    return [
        Result("alerts lost across kill -9", told, "alerts", lost, lost, lost, 0),
        Result("alerts taken", f"{told}, the restart included", "1/s", rate, rate, rate, None),
        Result("replay, last message", f"{told}; {repeats} deliveries were repeated", "s", delivered, delivered, delivered, None),
    ]


class Done:
    """How many notifications were acknowledged."""

    def __init__(self) -> None:
        self._lock, self.count = threading.Lock(), 0

    def add(self) -> None:
        with self._lock:
            self.count += 1


def kill_in_the_middle(server: ServeProcess, done: Done, middle: int) -> None:
    wait_for(lambda: done.count >= middle, 600)
    server.kill()
    server.start()


def insist(server: ServeProcess, body: dict[str, Any], done: Done) -> None:
    """Send until it is acknowledged."""
    while True:
        try:
            status = post(server, body)
        except requests.RequestException:
            time.sleep(0.05)
            continue
        if status == 200:
            done.add()
            return
        time.sleep(0.2)


def account(server: ServeProcess, receiver: Receiver, groups: int) -> tuple[int, str]:
    """Alerts that are not there, and what else is wrong: a group without its one incident, a message without its revision."""
    file = InboxFile(server.home)
    try:
        episodes = file.episodes(most=10**9)
        held = sum(len(file.alerts(episode.number, 10**6)) for episode in episodes)
        revisions = {f"{e.incident_id}:{notice.revision}" for e in episodes for notice in file.notices(e.number)}
    finally:
        file.close()
    odd = "" if len(episodes) == groups else f"{len(episodes)} incidents of {groups} groups"
    odd = odd or ("" if set(receiver.messages) <= revisions else "a message of no revision")
    return groups * _IN_GROUP - held, odd


# --- what they share ------------------------------------------------------------------------------------------------------

_LOCAL: Final = threading.local()


def post(server: ServeProcess, body: dict[str, Any]) -> int:
    """Status of the answer to a notification, over a connection that a thread keeps."""
    session = getattr(_LOCAL, "session", None)
    if session is None:
        session = _LOCAL.session = requests.Session()
        session.headers.update(_AUTHORIZED)
    status: int = session.post(f"{server.url}/v1/alertmanager", json=body, timeout=60).status_code
    return status


def timed(server: ServeProcess, due: float, body: dict[str, Any]) -> float:
    """Milliseconds from when it was due until it was acknowledged."""
    time.sleep(max(due - time.monotonic(), 0))
    status = post(server, body)
    taken = (time.monotonic() - due) * 1e3
    if status != 200:
        raise AssertionError(f"expected 200, found {status}")
    return taken


def one(group: str, number: int, service: str) -> dict[str, Any]:
    """A notification of one alert on a service that began two minutes ago."""
    began = datetime.fromtimestamp(time.time() - 120, UTC).isoformat()
    whole = notification(group, began=began, service=service)
    whole["alerts"][0]["fingerprint"] = f"{group}-{number}"
    return whole


def many(group: int, part: int) -> dict[str, Any]:
    """A part of a group's alerts."""
    whole = notification(f"g{group}", _EACH)
    for i, alert in enumerate(whole["alerts"]):
        alert["fingerprint"] = f"{group}-{part * _EACH + i}"
    return whole


def rankings(server: ServeProcess) -> int:
    """Rankings that were made, failed ones not counted."""
    text = requests.get(f"{server.url}/metrics", headers=_AUTHORIZED, timeout=60).text
    return int(text.split('rca_serve_rankings_total{outcome="ranked"} ')[1].split("\n")[0])


def wait_for(done: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise AssertionError("it did not happen in time")
        time.sleep(0.002)


def percentile(ordered: Sequence[float], share: int) -> float:
    """Of values in order, the one below which so many percent lie."""
    return statistics.quantiles(ordered, n=100, method="inclusive")[share - 1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", nargs="?", choices=("acknowledge", "message", "shop", "replay"), help="default: all")
    parser.add_argument("--spans", type=int, default=300_000)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--incidents", type=int, default=20)
    parser.add_argument("--history", type=int, default=300, help="seconds that the shop runs before")
    parser.add_argument("--alerts", type=int, default=100_000)
    options = parser.parse_args()
    jobs: dict[str, Callable[[], list[Result]]] = {
        "acknowledge": lambda: acknowledge(options.spans, options.seconds),
        "message": lambda: message(options.spans, options.incidents),
        "shop": lambda: shop(options.incidents, options.history),
        "replay": lambda: replay(options.alerts),
    }
    chosen = [jobs[options.job]] if options.job else list(jobs.values())
    print(json.dumps([asdict(result) for job in chosen for result in job()]))


if __name__ == "__main__":
    main()
