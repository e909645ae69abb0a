"""Keeps orders in PostgreSQL and announces them on the queue."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

from rca.shop.services.kit import Call, Kit, Operation, Refused
from rca.shop.services.queue import Producer

log = logging.getLogger("shop.orders")

_KEEP: Final = "INSERT INTO orders (id, customer, email, cents) VALUES (%s, %s, %s, %s)"
_KEEP_LINE: Final = "INSERT INTO order_lines (order_id, product, quantity) VALUES (%s, %s, %s)"
_READ: Final = """
SELECT o.customer, o.email, o.cents, l.product, l.quantity
FROM orders o JOIN order_lines l ON l.order_id = o.id WHERE o.id = %s
"""


class Orders:
    """Orders."""

    def __init__(self, kit: Kit) -> None:
        self._database, self._queue = kit.database, Producer(kit)

    def start(self) -> None:
        """Nothing runs in the background."""

    def operations(self) -> Sequence[Operation]:
        """What it can do."""
        return (
            Operation("POST", "/orders", self._place, {"order": None}),
            Operation("GET", "/orders/{id}", self._read, {"customer": "", "email": "", "cents": 0, "lines": []}),
        )

    def _place(self, call: Call) -> Any:
        body = call.body
        order = str(body["order"])
        with self._database.connection() as connection, connection.transaction():
            connection.execute(_KEEP, (order, body["customer"], body["email"], body["cents"]))
            for item in body["items"]:
                connection.execute(_KEEP_LINE, (order, item["product"], item["quantity"]))
        self._queue.send({"order": order})
        log.info("order %s over %s cents kept and announced", order, body["cents"])
        return {"order": order}

    def _read(self, call: Call) -> Any:
        rows = self._database.rows(_READ, call.path["id"])
        if not rows:
            raise Refused(404, f"no order {call.path['id']}")
        customer, email, cents = rows[0][:3]
        log.info("order %s read", call.path["id"])
        return {"customer": customer, "email": email, "cents": cents, "lines": [row[3:] for row in rows]}
