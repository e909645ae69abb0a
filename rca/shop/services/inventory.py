"""Stock and reservations, in transactions on PostgreSQL."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

from rca.shop.services.kit import Call, Kit, Operation, Refused

log = logging.getLogger("shop.inventory")

_TAKE: Final = "UPDATE stock SET available = available - %s WHERE product = %s AND available >= %s RETURNING available"
_LOW: Final = 200
_ORDERED: Final = 1000


class Inventory:
    """What is there and what is promised."""

    def __init__(self, kit: Kit) -> None:
        self._database = kit.database

    def start(self) -> None:
        """Nothing runs in the background."""

    def operations(self) -> Sequence[Operation]:
        """What it can do."""
        return (
            Operation("GET", "/stock", self._stock, {"stock": {}}),
            Operation("POST", "/reservations", self._reserve, {"reserved": 0}),
        )

    def _stock(self, call: Call) -> Any:
        numbers = [int(number) for number in call.query["ids"].split(",") if number]
        rows = self._database.rows("SELECT product, available FROM stock WHERE product = ANY(%s)", numbers)
        log.info("stock of %s products read", len(rows))
        return {"stock": {str(number): available for number, available in rows}}

    def _reserve(self, call: Call) -> Any:
        order, items = str(call.body["order"]), sorted(call.body["items"], key=lambda item: int(item["product"]))
        low = []
        with self._database.connection() as connection, connection.transaction():
            for item in items:
                number, quantity = int(item["product"]), int(item["quantity"])
                left = connection.execute(_TAKE, (quantity, number, quantity)).fetchone()
                if left is None:
                    log.warning("product %s is sold out, order %s cannot be filled", number, order)
                    raise Refused(409, f"product {number} is sold out")
                connection.execute("INSERT INTO reservations VALUES (%s, %s, %s)", (order, number, quantity))
                if left[0] < _LOW:
                    low.append(number)
        log.info("%s products reserved for order %s", len(items), order)
        for number in low:
            self._restock(number)
        return {"reserved": len(items)}

    def _restock(self, number: int) -> None:
        with self._database.connection() as connection:
            connection.execute("UPDATE stock SET available = available + %s WHERE product = %s", (_ORDERED, number))
        log.info("product %s is running low, %s pieces ordered", number, _ORDERED)
