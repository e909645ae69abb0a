"""Traces that the loopback stores of traces keep: a gateway that calls a shop, which calls a database, and a rare own job."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from rca.telemetry import SECOND_NS

MS = 1_000_000


@dataclass(frozen=True)
class StoredSpan:
    """One span, times in ns."""

    span_id: str
    parent: str
    service: str
    name: str
    kind: int
    start_ns: int
    end_ns: int
    attributes: tuple[tuple[str, str | int | bool], ...] = ()
    failed: bool = False
    exception: str = ""


@dataclass(frozen=True)
class Stored:
    """One trace; its first span is the root."""

    trace_id: str
    spans: tuple[StoredSpan, ...]

    @property
    def start_ns(self) -> int:
        return min(span.start_ns for span in self.spans)

    @property
    def end_ns(self) -> int:
        return max(span.end_ns for span in self.spans)


def hex_id(text: str, size: int = 16) -> str:
    return blake2b(text.encode(), digest_size=size).hexdigest()


def bought(number: int, at_ns: int, *, root: str = "gateway", operation: str = "GET /shop", took_ms: int = 40) -> Stored:
    """A request of `root` that calls `shop`, which asks its database."""

    def span(
        label: str, parent: str, service: str, name: str, kind: int, start_ms: int, end_ms: int, *more: object
    ) -> StoredSpan:
        ids = hex_id(f"{root}{number}{label}", 8), hex_id(f"{root}{number}{parent}", 8) if parent else ""
        return StoredSpan(*ids, service, name, kind, at_ns + start_ms * MS, at_ns + end_ms * MS, *more)  # type: ignore[arg-type]

    database = (("db.system", "postgresql"), ("db.name", "orders"))
    spans = (
        span("a", "", root, operation, 2, 0, took_ms + 10),
        span("b", "a", root, "call", 3, 2, took_ms + 8, (("http.status_code", 200),)),
        span("c", "b", "shop", "buy", 2, 4, took_ms + 4),
        span("d", "c", "shop", "select", 3, 5, took_ms, database),
    )
    return Stored(hex_id(f"{root}{number}{at_ns}"), spans)


def steady(start_ns: int, end_ns: int, per_second: float, **more: str) -> list[Stored]:
    """Requests at equal distances."""
    step = int(SECOND_NS / per_second)
    return [bought(number, at, **more) for number, at in enumerate(range(start_ns, end_ns, step))]  # type: ignore[arg-type]


def within(traces: Iterable[Stored], start_ns: int, end_ns: int) -> Sequence[Stored]:
    """Traces with a span that begins in the interval."""
    return [trace for trace in traces if any(start_ns <= span.start_ns < end_ns for span in trace.spans)]
