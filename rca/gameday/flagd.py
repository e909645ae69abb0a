"""What the OpenTelemetry Demo injects: its feature flags, as flagd's file or an address tells them while somebody watches.

A flag whose default variant becomes one other than `off` begins an injection; when it returns to `off`, that ends. What flags do
is on https://opentelemetry.io/docs/demo/feature-flags/.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, NamedTuple

import requests

from rca.errors import BadInput, RcaError, Rejected, Unavailable
from rca.gameday.seen import Seen
from rca.http import parts_of
from rca.wording import clock, excerpt

_TIMEOUT_S: Final = 5.0
_MOST_BYTES: Final = 2**20
_SHAPE: Final = 'flags of flagd, {"flags": {"paymentFailure": {"defaultVariant": "off", …}}}'
OFF: Final = "off"


@dataclass(frozen=True)
class Flag:
    """What a flag does: the fault kind, whom it hits, and what earlier releases of the demo called those."""

    fault_kind: str
    services: tuple[str, ...] = ()


FLAGS: Final[Mapping[str, Flag]] = {
    "adFailure": Flag("exception", ("ad", "adservice")),
    "adHighCpu": Flag("cpu_contention", ("ad", "adservice")),
    "adManualGc": Flag("latency", ("ad", "adservice")),
    "cartFailure": Flag("exception", ("cart", "cartservice")),
    "emailMemoryLeak": Flag("memory_leak", ("email", "emailservice")),
    "failedReadinessProbe": Flag("pod_failure", ("cart", "cartservice")),
    "imageSlowLoad": Flag("latency", ("image-provider", "imageprovider", "frontend")),
    "intlShippingSlowdown": Flag("latency", ("shipping", "shippingservice")),
    "kafkaQueueProblems": Flag("queue_backlog", ("orders", "kafka")),
    "llmInaccurateResponse": Flag("return", ("llm",)),
    "llmRateLimitError": Flag("availability", ("llm",)),
    "loadGeneratorFloodHomepage": Flag("traffic_surge"),
    "paymentFailure": Flag("exception", ("payment", "paymentservice")),
    "paymentUnreachable": Flag("configuration_mistake", ("checkout", "checkoutservice")),
    "productCatalogFailure": Flag("exception", ("product-catalog", "productcatalogservice")),
    "recommendationCacheFailure": Flag("memory_leak", ("recommendation", "recommendationservice")),
}
"""Every flag that injects a fault. Releases before 2.0 write `Service` in their names: `adServiceFailure`."""


def flag_of(name: str) -> Flag | None:
    """What a flag does, by its present name or one of earlier releases; None for one that injects nothing."""
    wanted = name.replace("Service", "").lower()
    return next((flag for known, flag in FLAGS.items() if known.lower() == wanted), None)


def variants_of(source: str) -> dict[str, str]:
    """The default variant of every flag, `off` for one that is disabled. `source` is a file or an address.

    Raises Unavailable, Rejected, BadInput for what is no definition of flags.
    """
    text = _fetched(source) if source.startswith(("http://", "https://")) else _read(Path(source))
    try:
        body = json.loads(text)
        return {str(name): _variant(flag) for name, flag in body["flags"].items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        found = f"{type(error).__name__}: {excerpt(str(error), 200)}"
        raise BadInput(source, expected=_SHAPE, found=found) from None


def _variant(flag: Any) -> str:
    variant = str(flag["defaultVariant"])
    value = (flag.get("variants") or {}).get(variant, True)
    return variant if flag.get("state", "ENABLED") == "ENABLED" and variant != OFF and value else OFF


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "bytes that are not UTF-8"
        raise BadInput(str(path), expected="the flags of flagd, a file or an address", found=str(reason)) from None


def _fetched(url: str) -> str:
    try:
        with requests.Session() as session:
            session.trust_env = False
            with session.get(url, timeout=_TIMEOUT_S, stream=True, headers={"Accept": "application/json"}) as response:
                body, status = _body_of(response), response.status_code
    except (requests.RequestException, OSError) as error:
        raise Unavailable(f"{url}: {excerpt(str(error), 200)}") from error
    if status != 200 or len(body) > _MOST_BYTES:
        raise Rejected(f"{url}: expected the flags of flagd, found {f'HTTP {status}' if status != 200 else 'more than 1 MiB'}")
    return body.decode(errors="replace")


def _body_of(response: requests.Response) -> bytes:
    """The body, of one that is too large the beginning. Raises requests.RequestException for one that breaks off or drips."""
    body, until = bytearray(), time.monotonic() + _TIMEOUT_S
    for part in parts_of(response):
        body += part
        if len(body) > _MOST_BYTES:
            break
        if time.monotonic() > until:
            raise requests.exceptions.ReadTimeout("the answer had not ended when time was up")
    return bytes(body)


class Change(NamedTuple):
    """Injections that began and that ended, as seen at a time (ns), and remarks."""

    at_ns: int
    begun: list[Seen]
    ended: list[Seen]
    remarks: list[str]


class Flags:
    """Follows the flags."""

    def __init__(self, source: str) -> None:
        """Looks once; what is on already began at a time that nobody knows. Raises as `variants_of`."""
        self.source = source
        self._before = variants_of(source)
        self._on: dict[str, Seen] = {}
        self._is_silent = False

    def already_on(self) -> list[str]:
        """Flags that were on before anybody watched."""
        return sorted(name for name, variant in self._before.items() if variant != OFF and flag_of(name))

    def look(self, now_ns: int) -> Change:
        """What changed since the last look. A source that fails is told of once."""
        try:
            variants = variants_of(self.source)
        except RcaError as error:
            remarks = [] if self._is_silent else [f"flags cannot be read: {error}; watching goes on"]
            self._is_silent = True
            return Change(now_ns, [], [], remarks)
        self._is_silent = False
        begun, ended, remarks = list[Seen](), list[Seen](), list[str]()
        for name in sorted({*variants, *self._before}):
            was, now = self._before.get(name, OFF), variants.get(name, OFF)
            if was == now:
                continue
            if name in self._on:  # also where another variant begins: that is another strength
                ended.append(replace(self._on.pop(name), end_ns=now_ns))
            flag = flag_of(name)
            if now == OFF:
                continue
            if flag is None:
                remarks.append(f"{clock(now_ns)}  flag {name} became {now}, which stands for no fault kind")
                continue
            target = flag.services[0] if flag.services else ""
            self._on[name] = Seen(flag.fault_kind, target, now_ns, None, "flagd", note=f"flag {name}, {now}", names=flag.services)
            begun.append(self._on[name])
        self._before = variants
        return Change(now_ns, begun, ended, remarks)

    def stop(self, now_ns: int) -> list[Seen]:
        """Nobody watches any longer: what is on ends here, as far as is known."""
        ended = [replace(seen, end_ns=now_ns, note=f"{seen.note}, still on when watching ended") for seen in self._on.values()]
        self._on.clear()
        return ended


@contextmanager
def watching(flags: Flags, now_ns: Callable[[], int], every_s: float) -> Iterator[SimpleQueue[Change]]:
    """Looks at the flags in the background until the context is left; the queue has what changed."""
    changes: SimpleQueue[Change] = SimpleQueue()
    ended = threading.Event()

    def watch() -> None:
        while True:
            change = flags.look(now_ns())
            if change.begun or change.ended or change.remarks:
                changes.put(change)
            if ended.wait(every_s):
                return

    thread = threading.Thread(target=watch, name="flags", daemon=True)
    thread.start()
    try:
        yield changes
    finally:
        ended.set()
        thread.join()
