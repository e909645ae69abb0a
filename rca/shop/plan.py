"""What the shop consists of: workloads, who calls whom, limits. Names here are names in telemetry.

A database is called as its server is, so that spans, metrics and Kubernetes objects speak of one entity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from rca.telemetry import EntityId

NAMESPACE: Final = "shop"
SYSTEM: Final = "shop"
NODES: Final = ("node-a", "node-b")
MIB: Final = 2**20

Kind = Literal["service", "database", "queue", "external"]


@dataclass(frozen=True)
class Workload:
    """One deployment (a service) or stateful set (a backing server).

    `calls` are names of other workloads. `pods` of it run on the nodes from `first_node` on, in turn. Limits are per pod.
    """

    name: str
    kind: Kind
    title: str
    calls: tuple[str, ...] = ()
    pods: int = 1
    first_node: int = 0
    threads: int = 16
    connections: int = 4  # of its PostgreSQL pool, where it calls shop-db
    memory_limit_bytes: int = 220 * MIB
    cpu_limit: float = 0.5
    volume_bytes: int = 0

    @property
    def entity(self) -> EntityId:
        """What a label on this workload names."""
        from rca.telemetry import EntityId  # here: every service's process reads the plan, and none needs data frames

        return EntityId(self.kind, self.name)

    @property
    def pod_names(self) -> tuple[str, ...]:
        """Pods of a backing server, which keep their names. Those of a service change with every rollout."""
        return tuple(f"{self.name}-{number}" for number in range(self.pods))

    def node_of(self, number: int) -> str:
        """Node of the pod of that number."""
        return NODES[(self.first_node + number) % len(NODES)]


DATABASE: Final = "shop-db"
CACHE: Final = "cache"
QUEUE: Final = "order-events"
PAYMENTS: Final = "api.payments.example"
MAIL: Final = "smtp.mail.example"

_WORKLOADS = (
    Workload(
        "gateway",
        "service",
        "what customers talk to",
        ("catalogue", "cart", "checkout", "recommendation", "search"),
        pods=2,
        threads=32,
    ),
    Workload("catalogue", "service", "products, behind a cache", (DATABASE, CACHE), pods=2),
    Workload("search", "service", "full-text search", ("catalogue", DATABASE), first_node=1),
    Workload("recommendation", "service", "what others bought", ("catalogue", CACHE), first_node=1),
    Workload("cart", "service", "carts, kept in the cache server", ("catalogue", CACHE)),
    Workload(
        "checkout", "service", "turns a cart into an order", ("cart", "pricing", "payment", "shipping", "orders"), first_node=1
    ),
    Workload("pricing", "service", "totals, discounts and taxes", ("catalogue", DATABASE)),
    Workload("payment", "service", "charges cards through a provider", (PAYMENTS, DATABASE), first_node=1),
    Workload("shipping", "service", "quotes and labels", ("inventory",), volume_bytes=32 * MIB),
    Workload("inventory", "service", "stock and reservations", (DATABASE,), pods=2, first_node=1),
    Workload("orders", "service", "keeps orders and announces them", (DATABASE, QUEUE)),
    Workload("email-worker", "service", "sends confirmations", (QUEUE, MAIL, "orders"), first_node=1, volume_bytes=32 * MIB),
    Workload(DATABASE, "database", "PostgreSQL", memory_limit_bytes=512 * MIB, cpu_limit=1.0, volume_bytes=256 * MIB),
    Workload(CACHE, "database", "Redis as cache and for carts", first_node=1, memory_limit_bytes=128 * MIB),
    Workload(QUEUE, "queue", "Redis stream from orders to the e-mail worker", first_node=1, memory_limit_bytes=128 * MIB),
    Workload(PAYMENTS, "external", "a payment provider that somebody else runs"),
    Workload(MAIL, "external", "a mail provider that somebody else runs"),
)

WORKLOADS: Final = {workload.name: workload for workload in _WORKLOADS}
"""Every workload by name."""

SERVICES: Final = tuple(workload.name for workload in _WORKLOADS if workload.kind == "service")
BACKING: Final = tuple(workload.name for workload in _WORKLOADS if workload.kind in ("database", "queue"))
EXTERNALS: Final = tuple(workload.name for workload in _WORKLOADS if workload.kind == "external")
