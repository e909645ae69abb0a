"""What comes in and what becomes of it: one export request, and its receipt."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final, Literal

from rca.collectors.otlp.intake import Signal

Encoding = Literal["protobuf", "json"]

NOUNS: Final[dict[Signal, str]] = {"spans": "spans", "metrics": "data points", "logs": "log records"}
"""What a request of each signal holds."""


@dataclass(frozen=True)
class Request:
    """The body of one export request, decompressed."""

    signal: Signal
    body: bytes
    encoding: Encoding = "protobuf"


@dataclass
class Receipt:
    """What became of one request's spans, data points or log records."""

    received: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    altered: int = 0

    @property
    def accepted(self) -> int:
        return self.received - self.rejected.total()

    @property
    def message(self) -> str:
        """Why some were rejected, for the sender; empty if none were."""
        return "; ".join(f"{n} {reason}" for reason, n in sorted(self.rejected.items()))
