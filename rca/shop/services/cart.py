"""Carts as Redis hashes of product and quantity."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final, cast

from rca.shop import plan
from rca.shop.services.kit import Call, Kit, Operation, Refused

log = logging.getLogger("shop.cart")

_KEPT_S: Final = 3600


class Cart:
    """What customers are about to buy."""

    def __init__(self, kit: Kit) -> None:
        self._http, self._carts = kit.http, kit.redis(plan.CACHE)

    def start(self) -> None:
        """Nothing runs in the background."""

    def operations(self) -> Sequence[Operation]:
        """What it can do."""
        return (
            Operation("GET", "/carts/{customer}", self._read, {"items": []}),
            Operation("POST", "/carts/{customer}/items", self._add, {"items": []}),
            Operation("DELETE", "/carts/{customer}", self._clear, {"items": []}),
        )

    def _read(self, call: Call) -> Any:
        items = self._items(call.path["customer"])
        log.info("cart of %s read with %s items", call.path["customer"], len(items))
        return {"items": items}

    def _add(self, call: Call) -> Any:
        customer, number, quantity = call.path["customer"], int(call.body["product"]), int(call.body.get("quantity", 1))
        if not 0 < quantity < 100:
            raise Refused(400, f"cannot add {quantity} pieces")
        self._http.get("catalogue", f"/products/{number}")  # refused where there is no such product
        self._carts.hincrby(f"cart:{customer}", str(number), quantity)
        self._carts.expire(f"cart:{customer}", _KEPT_S)
        log.info("%s pieces of product %s added to cart of %s", quantity, number, customer)
        return {"items": self._items(customer)}

    def _clear(self, call: Call) -> Any:
        self._carts.delete(f"cart:{call.path['customer']}")
        log.info("cart of %s cleared", call.path["customer"])
        return {"items": []}

    def _items(self, customer: str) -> list[dict[str, int]]:
        kept = cast("dict[str, str]", self._carts.hgetall(f"cart:{customer}"))
        return [{"product": int(number), "quantity": int(quantity)} for number, quantity in kept.items()]
