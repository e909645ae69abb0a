"""Many incidents, in several processes: each is the same whichever process makes it, and what is finished stays."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Final, TypeVar

from rca.errors import BadBundle, BadInput, Unavailable
from rca.incidents.bundle import is_bundle, read_manifest, storage, write_bundle
from rca.incidents.store import IncidentStore
from rca.simulator.config import CONFIG, Config
from rca.simulator.simulating import Emission, simulate

T = TypeVar("T")

PLAN_FILE: Final = "simulation.json"
_FOR_PROCESSES: Final = {
    # Processes share the cores already.
    "POLARS_MAX_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # Memory of one incident serves the next: giving it back and asking again costs some 8 % of the time.
    "MALLOC_TRIM_THRESHOLD_": "1000000000",
    "MALLOC_MMAP_THRESHOLD_": "1000000000",
    "_RJEM_MALLOC_CONF": "dirty_decay_ms:-1,muzzy_decay_ms:-1",
}


@dataclass(frozen=True)
class Plan:
    """What is simulated: everything that an incident depends on but its index."""

    seed: int
    config: Config = CONFIG
    services: tuple[int, int] | None = None
    emission: Emission = "bins"

    def incident_id(self, index: int) -> str:
        """Id of incident `index`, which names its folder."""
        return f"simulated-{self.seed}-{index}"

    def described(self) -> dict[str, Any]:
        """The plan as JSON."""
        body: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return body


def write_one(plan: Plan, out: Path, index: int) -> str:
    """Simulate an incident and write its bundle into the folder `out`. Returns its fault kind."""
    incident, telemetry = simulate(plan.seed, index, plan.config, services=plan.services, emission=plan.emission)
    write_bundle(out / incident.id, incident, telemetry, replace=True)
    return incident.fault_kind()


def store_one(plan: Plan, home: Path, index: int) -> str:
    """Simulate an incident and add it to the store at `home`. Returns its fault kind."""
    incident, telemetry = simulate(plan.seed, index, plan.config, services=plan.services, emission=plan.emission)
    with IncidentStore(home) as store:
        store.add(incident, telemetry)
    return incident.fault_kind()


def simulate_into(plan: Plan, out: Path, count: int, processes: int) -> Iterator[tuple[int, str]]:
    """Write incidents 0 to count - 1 into a folder; yields (index, fault kind) of those that were not there yet, as they come.

    Raises BadInput if the folder holds another simulation or cannot be written.
    """
    _claim(plan, out)
    missing = [index for index in range(count) if not _is_complete(out / plan.incident_id(index), plan.incident_id(index))]
    return in_processes(partial(write_one, plan, out), missing, processes)


def simulate_into_store(plan: Plan, home: Path, count: int, processes: int) -> Iterator[tuple[int, str]]:
    """The same into an incident store."""
    with IncidentStore(home) as store:
        known = {incident.id for incident in store.list()}
    missing = [index for index in range(count) if plan.incident_id(index) not in known]
    return in_processes(partial(store_one, plan, home), missing, processes)


def _claim(plan: Plan, out: Path) -> None:
    """Note in the folder what is simulated there, so that a later run goes on with the same."""
    path, body = out / PLAN_FILE, plan.described()
    with storage(out):
        out.mkdir(parents=True, exist_ok=True)
        if path.exists():
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise BadInput(str(path), expected="the JSON of a simulation", found=str(error)) from error
            if found != body:
                raise BadInput(
                    str(out), expected="a folder of the same simulation, or an empty one", found=_difference(found, body)
                )
            return
        path.write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")


def _difference(found: Any, wanted: dict[str, Any]) -> str:
    differing = [key for key in wanted if not isinstance(found, dict) or found.get(key) != wanted[key]]
    return f"one that differs in {', '.join(differing)}"


def _is_complete(path: Path, incident_id: str) -> bool:
    """True for a whole bundle; writing is atomic, so that it is whole if its manifest can be read."""
    if not is_bundle(path):
        return False
    try:
        return read_manifest(path).id == incident_id
    except BadBundle:
        return False


def in_processes(job: Callable[[int], T], indices: Iterable[int], processes: int) -> Iterator[tuple[int, T]]:
    """Run a job for every index, in that many processes; yields (index, result) as they come.

    `job` must be picklable; where one process is enough it is the caller's own. When the caller stops early or is interrupted,
    what is under way is finished and the rest left out. Raises what a job raises, and Unavailable if a process dies.
    """
    places = list(indices)
    if processes <= 1 or len(places) <= 1:
        for index in places:
            yield index, job(index)
        return
    with _environment(_FOR_PROCESSES):
        executor = ProcessPoolExecutor(min(processes, len(places)), mp_context=get_context("spawn"), initializer=_settle)
        try:
            futures: dict[Future[T], int] = {executor.submit(job, index): index for index in places}
            for future in as_completed(futures):
                yield futures.pop(future), future.result()
        except BrokenProcessPool as error:
            raise Unavailable("a process of the simulation died; what is finished is kept, and the next run goes on") from error
        finally:
            executor.shutdown(wait=True, cancel_futures=True)


def _settle() -> None:
    """Leave Ctrl-C to the parent, which lets its processes finish what they have begun; end when it does, however that ended.

    A pool's processes would wait for work for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set variables that new processes inherit."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
