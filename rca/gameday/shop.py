"""The shop as a system that a game day runs against."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rca.collectors.alerts import Alert
from rca.collectors.prometheus.client import Client, number
from rca.collectors.prometheus.collector import PrometheusCollector
from rca.collectors.prometheus.config import PrometheusConfig
from rca.errors import BadInput, Rejected, Unavailable
from rca.gameday.aborting import Aborted
from rca.gameday.guard import Guard
from rca.gameday.plan import Plan, PlannedInjection
from rca.gameday.system import Meanwhile
from rca.incidents.incident import Incident
from rca.shop import faults
from rca.shop.client import Shop
from rca.shop.host import HostWatch
from rca.shop.observing import Observer, check_baseline, check_machine
from rca.shop.plan import NODES, WORKLOADS
from rca.telemetry import SECOND_NS, EntityId, Telemetry

_EVERY_S: Final = 1.0
_FAILED: Final = """
sum(rate(http_server_request_duration_seconds_count{app="gateway",http_response_status_code=~"5.."}[30s]))
/ sum(rate(http_server_request_duration_seconds_count{app="gateway"}[30s]))
"""


class ShopSystem:
    """A running shop. Raises Unavailable where none runs, BadInput where its settings name no Prometheus."""

    def __init__(self, shop: Shop, plan: Plan) -> None:
        self._shop = shop
        baseline_s = (plan.baseline + plan.quiet) // SECOND_NS
        self._observer = Observer(shop, baseline_s=baseline_s, settle_s=plan.settle // SECOND_NS)
        prometheus = self._observer.config.prometheus
        if prometheus is None:
            raise BadInput(str(shop.folder.config_file), expected="[prometheus], which tells of alerts", found="none")
        self._prometheus: PrometheusConfig = prometheus
        self._guard: Guard | None = None
        self._host: HostWatch | None = None
        self._is_clean = False

    @contextmanager
    def alone(self, day_folder: Path) -> Iterator[None]:
        """As rca.gameday.system says."""
        with (
            self._shop.folder.undisturbed() as lock,
            Guard(self._shop.folder.path, day_folder, lock) as self._guard,
            self._observer.host() as self._host,
        ):
            try:
                yield
            finally:
                if self._is_clean:
                    self._guard.stand_down()

    def entities(self) -> tuple[EntityId, ...]:
        """Workloads and nodes."""
        return (*(workload.entity for workload in WORKLOADS.values()), *(EntityId("node", node) for node in NODES))

    def culprit(self, fault: str, target: str) -> EntityId | None:
        """As rca.shop.faults says."""
        return faults.culprit_of(fault, target)

    def now(self) -> float:
        """The time."""
        return time.time()

    def wait_until(self, end: float, meanwhile: Meanwhile) -> None:
        """Pass the time. Raises Aborted if the guard is gone: a fault might outlive this process."""
        self._observer.wait_until(end, self._guarded(meanwhile), _EVERY_S)

    def wait_for_baseline(self, meanwhile: Meanwhile) -> float:
        """As rca.gameday.system says; it is healthy when every pod is ready."""
        return self._observer.wait_for_baseline(self._guarded(meanwhile), _EVERY_S)

    def inject(self, planned: PlannedInjection) -> None:
        """Begin a fault."""
        self._is_clean = False
        with _that_may_pass():
            faults.inject(self._shop, planned.fault, planned.target, planned.strength)

    def keep_up(self, planned: PlannedInjection) -> None:
        """Repeat what it needs."""
        with _that_may_pass():
            faults.keep_up(self._shop, planned.fault, planned.target, planned.strength)

    def clear(self) -> None:
        """End every fault."""
        self._observer.clear()
        self._is_clean = True

    def observe(self, start: float, end: float, after_s: int) -> tuple[Incident, Telemetry]:
        """As rca.gameday.system says. A baseline in which much failed spoils it."""
        incident, telemetry = self._observer.collect(start, end, after_s)
        check_baseline(incident, telemetry)
        return incident, telemetry

    def check_machine(self, start: float, end: float) -> None:
        """As rca.gameday.system says: too few CPUs, or a slow disk."""
        if self._host is not None:
            check_machine(self._host, start - self._observer.baseline_s, start, end)

    def alerts(self, start_ns: int, end_ns: int) -> Sequence[Alert]:
        """Alerts that Prometheus saw begin."""
        return PrometheusCollector(self._prometheus).alerts_between(start_ns, end_ns)

    def is_healthy(self) -> bool:
        """Whether every pod is ready."""
        return self._shop.status().ready

    def failed_share(self) -> float | None:
        """Share of the gateway's requests of the last half minute that failed."""
        return next((value for value in self.measure(_FAILED) if not math.isnan(value)), None)

    def measure(self, query: str) -> list[float]:
        """What the shop's Prometheus answers."""
        with Client(self._prometheus) as client:
            answer = client.instant(query, round(time.time()))
        if answer.refusal:
            raise Rejected(answer.refusal)
        return [number((series.get("value") or (None, None))[1]) for series in answer.series]

    def _guarded(self, meanwhile: Meanwhile) -> Meanwhile:
        def look() -> None:
            if self._guard is not None and not self._guard.is_there:
                raise Aborted("the guard is gone: nothing would end the fault if this process were killed")
            meanwhile()

        return look


@contextmanager
def _that_may_pass() -> Iterator[None]:
    """The plan was checked, so a name that the shop does not know now is that of a pod that went before it could be hit."""
    try:
        yield
    except BadInput as error:
        raise Unavailable(str(error)) from error
