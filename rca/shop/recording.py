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

import rca
from rca.errors import BadInput, Rejected, Unavailable, UnknownName
from rca.faults import NO_FAULT
from rca.incidents.bundle import ARCHIVE_SUFFIX, write_bundle
from rca.incidents.incident import EntityModel, Incident, Label
from rca.shop import manifest
from rca.shop.client import Shop
from rca.shop.faults import clear, culprit_of, inject, keep_up
from rca.shop.host import HostWatch
from rca.shop.installed import binary
from rca.shop.observing import Observer, Spoilt, Stopped, check_baseline, check_machine, title_of
from rca.shop.programme import Recording
from rca.telemetry import SECOND_NS, Telemetry

_ATTEMPTS: Final = 3
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
        self.shop, self.folder, self.pace, self.seed, self.told = shop, folder, pace or Pace(), seed, told
        self._observer = Observer(shop, baseline_s=self.pace.baseline_s, settle_s=self.pace.settle_s)

    def run(self, work: Work) -> None:
        """Make recordings until nothing is left or it is stopped. The shop is cleared however it ends."""
        self._observer.stopped = work.stopped
        try:
            with self._observer.host() as host:
                while task := work.take():
                    recording, attempt = task
                    try:
                        self._record(recording, host)
                        work.done()
                    except (Spoilt, Unavailable, Rejected, UnknownName) as error:  # a pod may go just before it is to be hit
                        later = "again later" if work.put_back(recording, attempt) else "given up"
                        self.told(f"{recording.id}: thrown away ({error}), {later}")
                        self._recover()
        except Stopped:
            self.told("stopped")
        finally:
            clear(self.shop)

    def _recover(self) -> None:
        try:
            self._observer.clear()
        except (Unavailable, Rejected) as error:
            self.told(f"the shop does not answer: {error}")
            self._observer.wait_until(time.time() + self.pace.settle_s)

    def _record(self, recording: Recording, host: HostWatch) -> None:
        observer = self._observer
        start = observer.wait_for_baseline()
        self.told(f"{recording.id}: begins")
        culprit = culprit_of(recording.fault_kind, recording.target)
        quiet = recording.fault_kind == NO_FAULT
        try:
            inject(self.shop, recording.fault_kind, recording.target, recording.strength)
            observer.wait_until(start + self.pace.incident_s, lambda: self._keep_up(recording))
        finally:
            if not quiet:
                observer.clear()
        end = start + self.pace.incident_s
        load = check_machine(host, start - self.pace.baseline_s, start, end)
        incident, telemetry = observer.collect(start, end)
        check_baseline(incident, telemetry)
        label = Label(
            entity=EntityModel(kind=culprit.kind, name=culprit.name, namespace=culprit.namespace) if culprit else None,
            fault_kind=recording.fault_kind,
            provenance="injected",
            author="rca shop",
        )
        incident = incident.model_copy(
            update={"id": recording.id, "labels": (label,), "source": "shop", "title": title_of(incident, telemetry)}
        )
        facts = {"cores": round(load.cores, 2), "waiting": round(load.ratio, 2), "disk_ms": round(1000 * load.disk_s, 1)}
        self._keep(recording, incident, telemetry, facts)

    def _keep_up(self, recording: Recording) -> None:
        keep_up(self.shop, recording.fault_kind, recording.target, recording.strength)

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
