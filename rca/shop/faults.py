"""Faults of the vocabulary (rca.faults), really injected into a running shop.

Every fault is a row of RECIPES: whom it can hit, and what is done to whom. `strength` from 0 to 1 goes from hardly visible to
severe. `clear` undoes whatever was done, so a shop is as before once its pods are ready again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from rca.errors import BadInput, Unavailable, UnknownName
from rca.faults import FAULT_KINDS, NO_FAULT
from rca.shop.client import EVERYBODY, TELEMETRY, PodStatus, Shop
from rca.shop.plan import CACHE, DATABASE, EXTERNALS, MAIL, MIB, NODES, PAYMENTS, QUEUE, SERVICES, WORKLOADS
from rca.telemetry import EntityId

Apply = Callable[[Shop, str, float], None]

_CALLING_DATABASE: Final = tuple(name for name in SERVICES if DATABASE in WORKLOADS[name].calls)
_CALLING: Final = tuple(name for name in SERVICES if WORKLOADS[name].calls)
_WITH_VOLUME: Final = tuple(name for name in SERVICES if WORKLOADS[name].volume_bytes)
_ON_NETWORK: Final = (*SERVICES[1:], DATABASE, CACHE)
_USUAL_RSS_MIB: Final = 90  # of a service's pod
KEEP_UP_S: Final = 5.0
"""After how many seconds `keep_up` is to be called again."""
_LEAK_S: Final = 45.0  # until the limit, at middle strength


@dataclass(frozen=True)
class Recipe:
    """One fault: whom it can hit, how it is begun, and what is repeated every few seconds while it lasts."""

    targets: tuple[str, ...]
    apply: Apply
    keep_up: Apply | None = None


def inject(shop: Shop, fault_kind: str, target: str, strength: float = 0.5) -> None:
    """Begin a fault. Raises UnknownName for a fault or target that does not exist, BadInput, Rejected.

    Raises Unavailable where no shop runs, or the target has no pod that the fault could hit.
    """
    recipe = recipe_of(fault_kind, target)
    if not 0 < strength <= 1:
        raise BadInput("strength", expected="a number above 0, up to 1", found=str(strength))
    recipe.apply(shop, target, strength)


def keep_up(shop: Shop, fault_kind: str, target: str, strength: float = 0.5) -> None:
    """Repeat what a fault needs to last, every KEEP_UP_S or so. Raises as `inject` does."""
    recipe = recipe_of(fault_kind, target)
    if recipe.keep_up is not None:
        recipe.keep_up(shop, target, strength)


def clear(shop: Shop) -> None:
    """End every fault: disturbances, chaos inside pods, releases, settings, limits and load go back to what is usual."""
    shop.clear()
    shop.reset()


def recipe_of(fault_kind: str, target: str) -> Recipe:
    """The recipe, once fault and target are known to fit. Raises UnknownName, BadInput."""
    if fault_kind not in RECIPES:
        raise UnknownName("fault", fault_kind, RECIPES)
    recipe = RECIPES[fault_kind]
    if recipe.targets and not target:
        raise BadInput(f"target of {fault_kind}", expected=f"one of {' '.join(recipe.targets)}", found="none")
    if recipe.targets and target not in recipe.targets:
        raise UnknownName(f"target of {fault_kind}", target, recipe.targets)
    if not recipe.targets and target:
        raise BadInput(f"target of {fault_kind}", expected="none, for it hits the whole shop", found=target)
    return recipe


def culprit_of(fault_kind: str, target: str) -> EntityId | None:
    """Whom a label of this fault names; None where nobody is to blame."""
    recipe_of(fault_kind, target)
    if FAULT_KINDS[fault_kind].family == NO_FAULT:
        return None
    return EntityId("node", target) if target in NODES else WORKLOADS[target].entity


# --- what is done -----------------------------------------------------------------------------------------------------


def _chaos(shop: Shop, target: str, fault: str, **parameters: float | int | str) -> None:
    """The same fault in every pod of a workload. A pod that is not up yet is nobody to hit."""
    ready = [pod for pod in _pods(shop, target) if pod.ready]
    if not ready:
        raise Unavailable(f"{target}: expected a pod that is ready, found none")
    for pod in ready:
        shop.chaos(pod.name, fault, **parameters)


def _pods(shop: Shop, target: str) -> tuple[PodStatus, ...]:
    pods = shop.status().pods_of(target)
    if not pods:
        raise Unavailable(f"{target}: expected a pod to hit, found none; `rca shop status` shows whether the shop is up")
    return pods


def _between(low: float, high: float, strength: float) -> float:
    return low * float((high / low) ** strength)


def _cpu_contention(shop: Shop, target: str, strength: float) -> None:
    _chaos(shop, target, "busy", duty=round(_between(0.3, 0.8, strength), 2))


def _cpu_consumed(shop: Shop, target: str, strength: float) -> None:
    _chaos(shop, target, "cpu_work", ms=round(_between(8, 40, strength), 1))


def _noisy_neighbour(shop: Shop, target: str, strength: float) -> None:
    shop.neighbour(target, threads=1 + round(2 * strength), duty=0.9)


def _memory_leak(shop: Shop, target: str, strength: float) -> None:
    room = WORKLOADS[target].memory_limit_bytes / MIB - _USUAL_RSS_MIB
    _chaos(shop, target, "leak", mib_per_second=round(room / _between(2 * _LEAK_S, _LEAK_S / 2, strength), 2))


def _disk_full(shop: Shop, target: str, _strength: float) -> None:
    for pod in _pods(shop, target):
        shop.fill_volume(pod.name)


def _slow_io(shop: Shop, target: str, strength: float) -> None:
    for pod in _pods(shop, target):
        shop.slow_volume(pod.name, ms_per_write=round(_between(30, 400, strength)))


def _on_both_sides(shop: Shop, target: str, **what: float | str) -> None:
    shop.network(EVERYBODY, target, **what)  # type: ignore[arg-type]
    if WORKLOADS[target].calls:
        shop.network(target, EVERYBODY, **what)  # type: ignore[arg-type]


def _network_delay(shop: Shop, target: str, strength: float) -> None:
    delay = _between(15, 250, strength)
    _on_both_sides(shop, target, delay_ms=round(delay), jitter_ms=round(delay / 5))


def _network_loss(shop: Shop, target: str, strength: float) -> None:
    _on_both_sides(shop, target, loss=round(_between(0.05, 0.4, strength), 2))


def _network_partition(shop: Shop, target: str, strength: float) -> None:
    _on_both_sides(shop, target, cut="blackhole" if strength > 0.6 else "reset")


def _dns_failure(shop: Shop, target: str, _strength: float) -> None:
    shop.dns(target)


def _exception(shop: Shop, target: str, strength: float) -> None:
    _chaos(shop, target, "exception", share=round(_between(0.15, 1.0, strength), 2))


def _return(shop: Shop, target: str, strength: float) -> None:
    _chaos(shop, target, "early_return", share=round(_between(0.3, 1.0, strength), 2))


def _bad_rollout(shop: Shop, target: str, strength: float) -> None:
    slow = {"latency": {"ms": round(_between(80, 800, strength)), "jitter": 20}}
    failing = {"exception": {"share": round(_between(0.15, 0.9, strength), 2)}}
    shop.rollout(target, "1.1.0", behaviour=slow if len(target) % 2 else failing)


_MISTAKES: Final[dict[str, dict[str, object]]] = {
    "gateway": {"threads": 1},
    "catalogue": {"cache_timeout_ms": 1, "statement_timeout_ms": 2},
    "search": {"database_name": "shop"},
    "recommendation": {"names": {"catalogue": "catalog"}},
    "checkout": {"timeout_ms": 12},
    "pricing": {"names": {"catalogue": "catalogue-v2"}},
    "payment": {"payment_key": "expired"},
    "shipping": {"names": {"inventory": "stock"}},
    "inventory": {"database_password": "changed"},
    "orders": {"connections": 1, "connection_wait_ms": 3},
}
"""A wrong setting for each: addresses, passwords, limits and time-outs that somebody got wrong."""


def _configuration_mistake(shop: Shop, target: str, _strength: float) -> None:
    shop.configure(target, _MISTAKES[target])


def _latency(shop: Shop, target: str, strength: float) -> None:
    _chaos(shop, target, "latency", ms=round(_between(40, 800, strength)), jitter=10)


def _thread_starvation(shop: Shop, target: str, strength: float) -> None:
    """Every thread is held for a while and then given back, so that requests wait and some get their turn."""
    _chaos(shop, target, "hold_threads", n=WORKLOADS[target].threads, ms=round(_between(150, 1500, strength)))


def _pool_exhaustion(shop: Shop, target: str, strength: float) -> None:
    _chaos(shop, target, "hold_connections", n=WORKLOADS[target].connections, ms=round(_between(150, 1500, strength)))


def _retry_storm(shop: Shop, target: str, strength: float) -> None:
    """Calls that are tried again too soon and too often: a time-out shorter than the answer takes."""
    shop.configure(target, {"timeout_ms": round(_between(25, 8, strength)), "retries": 2 + round(4 * strength)})


def _pod_kill(shop: Shop, target: str, _strength: float) -> None:
    for pod in _pods(shop, target):
        if pod.pid is not None:
            shop.signal(pod.name, "KILL")


def _pod_failure(shop: Shop, target: str, _strength: float) -> None:
    shop.signal(_pods(shop, target)[0].name, "STOP")


def _crash_loop(shop: Shop, target: str, _strength: float) -> None:
    """A memory limit below what the process needs: OOM kills, again and again."""
    shop.limit_memory(target, 40 * MIB)


def _stopped(shop: Shop, target: str, _strength: float) -> None:
    shop.backing(target, "stop")


def _flushed(shop: Shop, target: str, _strength: float) -> None:
    shop.backing(target, "flush")


def _slow_database(shop: Shop, target: str, strength: float) -> None:
    shop.trouble(target, "heavy_queries", workers=2, duty=round(_between(0.35, 0.9, strength), 2))


def _database_lock(shop: Shop, target: str, strength: float) -> None:
    shop.trouble(target, "lock", table="stock", rows=strength < 0.6)


def _queue_backlog(shop: Shop, target: str, strength: float) -> None:
    shop.trouble(target, "flood", per_second=round(_between(20, 200, strength)))


def _dead_consumer(shop: Shop, target: str, _strength: float) -> None:
    _chaos(shop, target, "stop_consuming")


def _traffic_surge(shop: Shop, _target: str, strength: float) -> None:
    shop.load(round(shop.status().rate * _between(1.5, 2.5, strength), 1))


def _clock_skew(shop: Shop, _target: str, strength: float) -> None:
    for pod in shop.status().pods:
        if pod.node == NODES[1] and pod.workload in SERVICES and pod.ready:
            shop.chaos(pod.name, "skew_clock", s=round(_between(0.05, 5, strength), 3))


def _telemetry_pipeline(shop: Shop, _target: str, strength: float) -> None:
    for name in SERVICES if strength > 0.6 else SERVICES[::3]:
        shop.network(name, TELEMETRY, cut="blackhole")


def _nothing(_shop: Shop, _target: str, _strength: float) -> None:
    """A quiet window."""


RECIPES: Final[dict[str, Recipe]] = {
    "cpu_contention": Recipe(SERVICES, _cpu_contention),
    "cpu_consumed": Recipe(SERVICES, _cpu_consumed),
    "noisy_neighbour": Recipe(NODES, _noisy_neighbour),
    "memory_leak": Recipe(SERVICES, _memory_leak),
    "disk_full": Recipe(_WITH_VOLUME, _disk_full),
    "slow_io": Recipe(_WITH_VOLUME, _slow_io),
    "network_delay": Recipe((*_ON_NETWORK, *EXTERNALS), _network_delay),
    "network_loss": Recipe((*_ON_NETWORK, *EXTERNALS), _network_loss),
    "network_partition": Recipe(_ON_NETWORK, _network_partition),
    "dns_failure": Recipe(_CALLING, _dns_failure),
    "exception": Recipe(SERVICES, _exception),
    "return": Recipe(SERVICES, _return),
    "bad_rollout": Recipe(SERVICES, _bad_rollout),
    "configuration_mistake": Recipe(tuple(_MISTAKES), _configuration_mistake),
    "latency": Recipe(SERVICES, _latency),
    "thread_starvation": Recipe(SERVICES, _thread_starvation),
    "connection_pool_exhaustion": Recipe(_CALLING_DATABASE, _pool_exhaustion),
    "slow_database": Recipe((DATABASE,), _slow_database),
    "database_lock": Recipe((DATABASE,), _database_lock),
    "retry_storm": Recipe(_CALLING, _retry_storm),
    "pod_kill": Recipe(SERVICES, _pod_kill),
    "pod_failure": Recipe(SERVICES, _pod_failure),
    "crash_loop": Recipe(SERVICES, _crash_loop),
    "cache_down": Recipe((CACHE,), _stopped),
    "cold_cache": Recipe((CACHE,), _flushed, _flushed),
    "queue_backlog": Recipe((QUEUE,), _queue_backlog),
    "dead_consumer": Recipe(("email-worker",), _dead_consumer),
    "external_down": Recipe((PAYMENTS, MAIL), _stopped),
    "traffic_surge": Recipe((), _traffic_surge),
    "clock_skew": Recipe((), _clock_skew),
    "telemetry_pipeline": Recipe((), _telemetry_pipeline),
    NO_FAULT: Recipe((), _nothing),
}
"""Every fault that can be injected, by its kind in rca.faults."""
