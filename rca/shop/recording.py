"""Records labelled incidents from a running shop through the product's own collectors, as bundles with a manifest.

One recording: wait until the shop is healthy and settled, let a quiet baseline pass, inject, let the incident pass, clear and
collect.
What a saturated machine or an unhealthy baseline spoils is thrown away and tried again later.
"""

from __future__ import annotations

import hashlib
import platform
import re
import subprocess
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Final

import polars as pl

import rca
from rca.bins import BIN_NS
from rca.collectors.config import load_config
from rca.collectors.live import Question, collect_incident, fresh_until
from rca.collectors.sources import sources_of
from rca.errors import BadInput, RcaError, Rejected, Unavailable, UnknownName
from rca.faults import NO_FAULT
from rca.incidents.bundle import ARCHIVE_SUFFIX, write_bundle
from rca.incidents.incident import EntityModel, Incident, Label
from rca.shop import manifest
from rca.shop.client import Shop
from rca.shop.faults import KEEP_UP_S, clear, culprit_of, inject, keep_up
from rca.shop.host import HostLoad, HostWatch
from rca.shop.installed import binary
from rca.shop.plan import SYSTEM
from rca.shop.programme import Recording
from rca.telemetry import SECOND_NS, Interval, Telemetry

_PATIENCE_S: Final = 120.0
_ATTEMPTS: Final = 3
_MOST_BASELINE_ERRORS: Final = 0.05
_PACKAGES: Final = ("opentelemetry-sdk", "psycopg", "redis", "starlette", "requests")
_PROGRAMS: Final = ("postgres", "redis-server", "prometheus", "prometheus-alertmanager")

Told = Callable[[str], None]
"""Called with a line about what is going on."""


@dataclass(frozen=True)
class Pace:
    """Seconds of a recording: after the last fault, before the next one, and of the incident. Multiples of ten."""

    settle_s: int = 20
    baseline_s: int = 180
    incident_s: int = 60


class Spoilt(RcaError):
    """A recording that must not be kept; the message says why."""


class _Stopped(Exception):
    """Somebody does not want to wait any longer."""


# --- recording --------------------------------------------------------------------------------------------------------


class Work:
    """Recordings that are still to be made, shared by recorders; one that was spoilt comes again at the end, a few times."""

    def __init__(self, recordings: Iterable[Recording], most: int | None = None) -> None:
        self._queue = deque((recording, 1) for recording in recordings)
        self._left = len(self._queue) if most is None else most
        self._lock = threading.Lock()
        self.stopped = threading.Event()
        self.made = 0

    def take(self) -> tuple[Recording, int] | None:
        """The next one and the number of the attempt; None where nothing is left to do."""
        with self._lock:
            if self.stopped.is_set() or not self._queue or not self._left:
                return None
            self._left -= 1
            return self._queue.popleft()

    def done(self) -> None:
        """One was made."""
        with self._lock:
            self.made += 1

    def put_back(self, recording: Recording, attempt: int) -> bool:
        """Try again later; False if it was tried often enough."""
        with self._lock:
            self._left += 1
            if attempt < _ATTEMPTS:
                self._queue.append((recording, attempt + 1))
            return attempt < _ATTEMPTS


def record(recorders: Sequence[Recorder], recordings: Iterable[Recording], most: int | None = None) -> int:
    """Make what the recorders' folder lacks of the recordings; how many were made. Ctrl-C clears the shops before it ends.

    Raises BadInput where two recorders have one shop, or the folder is a file, and Rejected where another process records.
    """
    _check(recorders)
    known = {entry["id"] for recorder in recorders for entry in manifest.read(recorder.folder)["incidents"]}
    work = Work((recording for recording in recordings if recording.id not in known), most)
    with ExitStack() as alone, ThreadPoolExecutor(len(recorders)) as pool:
        for recorder in recorders:  # two that inject into one shop spoil each other's recordings
            alone.enter_context(recorder.shop.folder.undisturbed())
        running = [pool.submit(recorder.run, work) for recorder in recorders]
        try:
            wait(running, return_when=FIRST_EXCEPTION)
        finally:
            work.stopped.set()
        for each in running:
            each.result()
    return work.made


def _check(recorders: Sequence[Recorder]) -> None:
    """What would otherwise show only once minutes have passed."""
    where = Counter(recorder.shop.folder.path for recorder in recorders)
    for path, times in where.items():
        if times > 1:  # their faults would overlap
            raise BadInput(str(path), expected="one recorder for each shop", found=f"{times} of them")
    for recorder in recorders:
        if recorder.folder.exists() and not recorder.folder.is_dir():
            raise BadInput(str(recorder.folder), expected="a folder for recordings", found="a file")


class Recorder:
    """Records from one shop into one folder. Several may share a folder, each with a shop of its own."""

    def __init__(self, shop: Shop, folder: Path, *, pace: Pace | None = None, seed: int = 0, told: Told = print) -> None:
        shop.status()  # raises Unavailable where none runs
        self.shop, self.folder, self.pace, self.seed, self.told = shop, folder, pace or Pace(), seed, told
        self._quiet_since: float | None = None
        self._cleared = time.time()
        self._stopped = threading.Event()
        config = load_config(shop.folder.config_file)
        triage = config.triage.model_copy(update={"baseline": self.pace.baseline_s * SECOND_NS, "system": SYSTEM})
        self._config = config.model_copy(update={"triage": triage})

    def run(self, work: Work) -> None:
        """Make recordings until nothing is left or it is stopped. The shop is cleared however it ends."""
        self._stopped = work.stopped
        try:
            with HostWatch(self._pids, self.shop.folder.path) as host:
                while task := work.take():
                    recording, attempt = task
                    try:
                        self._record(recording, host)
                        work.done()
                    except (Spoilt, Unavailable, Rejected, UnknownName) as error:  # a pod may go just before it is to be hit
                        later = "again later" if work.put_back(recording, attempt) else "given up"
                        self.told(f"{recording.id}: thrown away ({error}), {later}")
                        self._recover()
        except _Stopped:
            self.told("stopped")
        finally:
            clear(self.shop)

    def _pids(self) -> list[int]:
        state = self.shop.folder.state()
        return [process.pid for process in state.processes] if state else []

    def _clear(self) -> None:
        self._quiet_since, self._cleared = None, time.time()
        clear(self.shop)

    def _recover(self) -> None:
        try:
            self._clear()
        except (Unavailable, Rejected) as error:
            self.told(f"the shop does not answer: {error}")
            self._wait_until(time.time() + self.pace.settle_s)

    def _record(self, recording: Recording, host: HostWatch) -> None:
        start = self._wait_for_baseline()
        self.told(f"{recording.id}: begins")
        culprit = culprit_of(recording.fault_kind, recording.target)
        quiet = recording.fault_kind == NO_FAULT
        try:
            inject(self.shop, recording.fault_kind, recording.target, recording.strength)
            self._wait_until(start + self.pace.incident_s, lambda: self._keep_up(recording))
        finally:
            if not quiet:
                self._clear()
        end = start + self.pace.incident_s
        load = _unsaturated(host.between(start - self.pace.baseline_s, start))
        _with_disk(host.between(start, end))  # of CPUs a fault may take what it wants
        incident, telemetry = self._collect(start, end)
        _check_baseline(incident, telemetry)
        label = Label(
            entity=EntityModel(kind=culprit.kind, name=culprit.name, namespace=culprit.namespace) if culprit else None,
            fault_kind=recording.fault_kind,
            provenance="injected",
            author="rca shop",
        )
        incident = incident.model_copy(
            update={"id": recording.id, "labels": (label,), "source": "shop", "title": _title(incident, telemetry)}
        )
        facts = {"cores": round(load.cores, 2), "waiting": round(load.ratio, 2), "disk_ms": round(1000 * load.disk_s, 1)}
        self._keep(recording, incident, telemetry, facts)

    def _keep_up(self, recording: Recording) -> None:
        keep_up(self.shop, recording.fault_kind, recording.target, recording.strength)

    def _wait_for_baseline(self) -> float:
        """Until the shop has been quiet for a baseline, on a full ten seconds; that time."""
        if self._quiet_since is None:
            self._quiet_since = self._healthy_since() + self.pace.settle_s
        start = -(-max(self._quiet_since + self.pace.baseline_s, time.time()) // 10) * 10
        self._wait_until(start)
        return start

    def _healthy_since(self) -> float:
        """When the shop became what it is now: cleared, every pod running and ready. Waits until it is."""
        status = self.shop.status()
        if status.ready:  # since when is not known; a pod takes seconds from its start
            return max(self._cleared, *(pod.started + self.pace.settle_s / 2 for pod in status.pods))
        self.shop.wait_ready(_PATIENCE_S, sleep=lambda seconds: self._wait_until(time.time() + seconds))
        return time.time()

    def _wait_until(self, end: float, meanwhile: Callable[[], None] = lambda: None) -> None:
        while (left := end - time.time()) > 0:
            if self._stopped.wait(min(left, KEEP_UP_S)):
                raise _Stopped
            if end - time.time() > 1:
                meanwhile()

    def _collect(self, start: float, end: float) -> tuple[Incident, Telemetry]:
        sources = sources_of(self._config)
        start_ns, end_ns = round(start) * SECOND_NS, round(end) * SECOND_NS
        latest = end_ns + 2 * self._config.triage.lag
        while (fresh_until(sources) or 0) < end_ns and time.time_ns() < latest:
            self._wait_until(time.time() + 1)
        self._wait_until(end + self.pace.settle_s / 2)  # alerts and scrapes of the last seconds
        question = Question(Interval(start_ns, end_ns), onset_ns=start_ns)
        incident, telemetry = collect_incident(self._config, sources, question)
        for name, frame in (("traces", telemetry.bin_counts), ("metrics", telemetry.metrics)):
            if frame.is_empty():
                raise Spoilt(f"no {name} were collected")
        return incident, telemetry

    def _keep(self, recording: Recording, incident: Incident, telemetry: Telemetry, facts: dict[str, float]) -> None:
        path = self.folder / f"{recording.id}{ARCHIVE_SUFFIX}"
        self.folder.mkdir(parents=True, exist_ok=True)
        write_bundle(path, incident, telemetry, replace=True)
        content = path.read_bytes()
        entry = {
            **asdict(recording),
            "id": recording.id,
            "file": path.name,
            "sha256": hashlib.sha256(content).hexdigest(),
            "bytes": len(content),
            "recorded": datetime.fromtimestamp(incident.window.start_ns / SECOND_NS, UTC).isoformat(),
            "host": facts,
            "made_with": {"seed": self.seed, **asdict(self.pace), **_versions()},
        }
        with manifest.locked(self.folder) as body:
            others = [other for other in body["incidents"] if other["id"] != recording.id]
            body["incidents"] = sorted([*others, entry], key=lambda each: int(each["number"]))
        self.told(f"{recording.id}: kept, {len(content) / 1024:.0f} KiB, {incident.title}")


@cache
def _versions() -> dict[str, str]:
    """Versions of everything that has a say in what telemetry looks like."""
    found = {"rca": rca.__version__, "python": platform.python_version()} | {name: version(name) for name in _PACKAGES}
    for program in _PROGRAMS:
        told = subprocess.run([binary(program), "--version"], capture_output=True, text=True, check=False)
        number = re.search(r"\d+(\.\d+)+", told.stdout + told.stderr)
        found[program] = number.group() if number else "unknown"
    return found


def _title(incident: Incident, telemetry: Telemetry) -> str:
    """The first alert of the window, as the engineer on call would see it."""
    window = incident.window
    alerts = telemetry.alerts.filter(pl.col("time_unix_nano").is_between(window.start_ns, window.end_ns, closed="left"))
    if alerts.is_empty():
        return "no alert fired"
    name, entity = alerts.sort("time_unix_nano", "name", "entity").select("name", "entity").row(0)
    return f"{name} on {entity}"


def _unsaturated(load: HostLoad | None) -> HostLoad:
    """Raises Spoilt for a machine that was saturated, and as `_with_disk`."""
    load = _with_disk(load)
    if load.is_saturated:
        raise Spoilt(f"the machine was saturated: {load.ratio:.1f} s of waiting for each second of computing")
    return load


def _with_disk(load: HostLoad | None) -> HostLoad:
    """Raises Spoilt where the disk was slow, and where nobody knows whether it was."""
    if load is None:
        raise Spoilt("how the machine fared is not known: /proc told of no process of the shop that ran")
    if load.has_slow_disk:
        raise Spoilt(f"the machine's disk was slow: {1000 * load.disk_s:.0f} ms for a small write")
    return load


def _check_baseline(incident: Incident, telemetry: Telemetry) -> None:
    """Raises Spoilt for a baseline that is too short or in which too much failed: the shop had not recovered."""
    if not incident.baselines:
        raise Spoilt("no baseline was collected")
    start, end = incident.baselines[0].start_ns, incident.baselines[0].end_ns
    before = telemetry.bin_counts.filter(pl.col("time_unix_nano").is_between(start, end, closed="left"))
    bins = before["time_unix_nano"].n_unique()
    if bins * BIN_NS < 0.8 * (end - start):
        raise Spoilt(f"the baseline has {bins} bins of {(end - start) // BIN_NS}")
    total = {what: int(before.filter(pl.col("what") == what)["count"].sum()) for what in ("request", "error")}
    if total["error"] > _MOST_BASELINE_ERRORS * total["request"]:
        raise Spoilt(f"{total['error']} of {total['request']} requests of the baseline failed")
