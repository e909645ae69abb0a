"""What is recorded from the shop: which fault on whom, how strong, and whether it trains or tests.

Training and test share no (target, fault kind). The order is drawn, so that what was recorded when somebody stops is balanced.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from rca.faults import NO_FAULT
from rca.shop.plan import CACHE, DATABASE, MAIL, NODES, PAYMENTS, QUEUE

Part = Literal["train", "test"]
_REPEATED: Final = 2
"""Recordings of a fault that only one workload can have."""


@dataclass(frozen=True)
class Recording:
    """One recording to be made. `target` is a workload, a node, or empty where nobody is to blame; `strength` lies in 0 to 1."""

    number: int
    fault_kind: str
    target: str
    strength: float
    part: Part

    @property
    def id(self) -> str:
        """Incident id; it tells what is in it, since ids are never features."""
        where = f"-{self.target.replace('.', '-')}" if self.target else ""
        return f"shop-{self.number:03d}-{self.fault_kind.replace('_', '-')}{where}"


_TRAIN: Final[dict[str, tuple[str, ...]]] = {
    "cpu_contention": ("catalogue", "checkout"),
    "cpu_consumed": ("shipping",),
    "noisy_neighbour": (NODES[0],),
    "memory_leak": ("inventory", "recommendation"),
    "disk_full": ("email-worker",),
    "slow_io": ("shipping",),
    "network_delay": ("inventory", CACHE, "orders"),
    "network_loss": ("cart", "payment"),
    "network_partition": ("recommendation", "orders"),
    "dns_failure": ("catalogue", "email-worker"),
    "exception": ("payment", "orders"),
    "return": ("pricing", "shipping"),
    "bad_rollout": ("checkout", "cart"),
    "configuration_mistake": ("search", "inventory"),
    "thread_starvation": ("gateway", "catalogue"),
    "connection_pool_exhaustion": ("pricing", "orders"),
    "database_lock": (DATABASE,),
    "retry_storm": ("gateway", "search"),
    "pod_kill": ("cart", "catalogue"),
    "pod_failure": ("payment",),
    "crash_loop": ("shipping", "search"),
    "cold_cache": (CACHE,),
    "dead_consumer": ("email-worker",),
    "external_down": (MAIL,),
}
_TEST: Final[dict[str, tuple[str, ...]]] = {
    "cpu_contention": ("pricing", "search"),
    "cpu_consumed": ("recommendation",),
    "noisy_neighbour": (NODES[1],),
    "memory_leak": ("cart", "orders"),
    "disk_full": ("shipping",),
    "slow_io": ("email-worker",),
    "network_delay": ("payment", DATABASE, "search"),
    "network_loss": ("pricing", "inventory"),
    "network_partition": ("shipping", "inventory"),
    "dns_failure": ("checkout", "orders"),
    "exception": ("cart", "search"),
    "return": ("inventory", "recommendation"),
    "bad_rollout": ("catalogue", "orders"),
    "configuration_mistake": ("payment", "pricing"),
    "thread_starvation": ("orders", "payment"),
    "connection_pool_exhaustion": ("inventory", "catalogue"),
    "slow_database": (DATABASE,),
    "retry_storm": ("checkout",),
    "pod_kill": ("orders", "pricing"),
    "pod_failure": ("inventory",),
    "crash_loop": ("recommendation", "cart"),
    "cache_down": (CACHE,),
    "queue_backlog": (QUEUE,),
    "external_down": (PAYMENTS,),
}
_NOBODY: Final[dict[Part, dict[str, int]]] = {
    "train": {"traffic_surge": 2, "clock_skew": 2, "telemetry_pipeline": 1, NO_FAULT: 12},
    "test": {"traffic_surge": 2, "clock_skew": 1, "telemetry_pipeline": 1, NO_FAULT: 10},
}


def programme(seed: int = 0) -> tuple[Recording, ...]:
    """Every recording, in the order in which they are made."""
    rng = np.random.default_rng(seed)
    wanted: list[tuple[str, str, Part]] = []
    parts: tuple[tuple[Part, dict[str, tuple[str, ...]]], ...] = (("train", _TRAIN), ("test", _TEST))
    for part, faults in parts:
        for kind, targets in faults.items():
            other = (_TEST if part == "train" else _TRAIN).get(kind, ())
            times = 1 if len(targets) > 1 or other else _REPEATED
            wanted += [(kind, target, part) for target in targets for _ in range(times)]
        wanted += [(kind, "", part) for kind, count in _NOBODY[part].items() for _ in range(count)]
    order = rng.permutation(len(wanted))
    strengths = rng.uniform(0.25, 1.0, len(wanted))
    return tuple(
        Recording(number, kind, target, round(float(strengths[number]), 2), part)
        for number, (kind, target, part) in enumerate(wanted[place] for place in order)
    )
