"""Names within limits: span names that hold ids, or hosts that never come again, must not multiply the bins."""

from __future__ import annotations

from typing import Final

import polars as pl

OTHER: Final = "_other"
"""What names above a limit are summed under."""
_FORGET_NS: Final = 3_600_000_000_000
_PEERS: Final = ("service.peer.name", "db.namespace", "messaging.destination.name", "server.address")
_NAMED: Final = ("service.namespace", "service.name", "k8s.pod.name", "k8s.node.name", "name", *_PEERS)
_SERVICE: Final = pl.concat_str("service.namespace", "service.name", separator="\x1f", ignore_nulls=True)


class Names:
    """Distinct values per owner: the first `most` keep their name, the rest are called OTHER.

    A name that was not seen for an hour gives its place back.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._seen: dict[tuple[str, str], int] = {}  # (owner, name) to when it was last seen
        self._count: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._seen)

    def limited(self, frame: pl.DataFrame, owner: pl.Expr, column: str, now_ns: int) -> tuple[pl.DataFrame, int]:
        """The frame with names above the limit replaced, and how many rows were. Nulls stay null."""
        pairs = frame.select(owner.alias("owner"), column).unique().drop_nulls()
        over = [pair for pair in sorted(pairs.iter_rows()) if not self._room(pair, now_ns)]
        if not over:
            return frame, 0
        excess = pl.DataFrame(over, schema=pairs.schema, orient="row").with_columns(pl.lit(True).alias("over"))
        marked = frame.select(owner.alias("owner"), column).join(excess, on=["owner", column], how="left", maintain_order="left")
        chosen = marked["over"].fill_null(False)
        renamed = pl.when(chosen).then(pl.lit(OTHER)).otherwise(column).alias(column)
        return frame.with_columns(renamed), int(chosen.sum())

    def forget(self, now_ns: int) -> None:
        """Free the places of names that were not seen for an hour."""
        for pair in [pair for pair, seen_ns in self._seen.items() if now_ns - seen_ns > _FORGET_NS]:
            del self._seen[pair]
            self._count[pair[0]] -= 1
            if not self._count[pair[0]]:
                del self._count[pair[0]]

    def _room(self, pair: tuple[str, str], now_ns: int) -> bool:
        if pair not in self._seen:
            if self._count.get(pair[0], 0) >= self._most:
                return False
            self._count[pair[0]] = self._count.get(pair[0], 0) + 1
        self._seen[pair] = now_ns
        return True


class SpanNames:
    """The limits of all names that reach the bins: services, their operations, and what they call."""

    def __init__(self, *, services: int, operations: int, peers: int) -> None:
        self._services = Names(services)
        self._operations = Names(operations)
        self._peers = {column: Names(peers) for column in _PEERS}

    def limited(self, spans: pl.DataFrame, now_ns: int) -> tuple[pl.DataFrame, int]:
        """Spans with names above a limit replaced, and how many names were."""
        distinct = spans.select(_NAMED).unique()  # few, as a rule: all else is done with these alone
        if not self._replaced(distinct, now_ns)[1]:
            return spans, 0
        return self._replaced(spans, now_ns)

    def _replaced(self, spans: pl.DataFrame, now_ns: int) -> tuple[pl.DataFrame, int]:
        spans, replaced = self._limited_services(spans, now_ns)
        spans, count = self._operations.limited(spans, _SERVICE, "name", now_ns)
        replaced += count
        for column, names in self._peers.items():
            if spans[column].null_count() < spans.height:
                spans, count = names.limited(spans, _SERVICE, column, now_ns)
                replaced += count
        return spans, replaced

    def forget(self, now_ns: int) -> None:
        """Free the places of names that were not seen for an hour."""
        for names in (self._services, self._operations, *self._peers.values()):
            names.forget(now_ns)

    def _limited_services(self, spans: pl.DataFrame, now_ns: int) -> tuple[pl.DataFrame, int]:
        keyed = spans.select(_SERVICE.alias("service"))
        keyed, count = self._services.limited(keyed, pl.lit(""), "service", now_ns)
        if not count:
            return spans, 0
        over = keyed["service"] == OTHER
        other, nothing = pl.lit(OTHER), pl.lit(None, dtype=pl.String)
        return spans.with_columns(
            pl.when(over).then(other).otherwise("service.name").alias("service.name"),
            *(
                pl.when(over).then(nothing).otherwise(column).alias(column)
                for column in ("service.namespace", "k8s.pod.name", "k8s.node.name")
            ),
        ), count
