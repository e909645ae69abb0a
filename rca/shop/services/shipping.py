"""Quotes for delivery, and labels: stock is reserved, and the label is kept on the pod's own volume."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from rca.shop.services.kit import Call, Kit, Operation

log = logging.getLogger("shop.shipping")


class Shipping:
    """Parcels."""

    def __init__(self, kit: Kit) -> None:
        self._http, self._labels = kit.http, kit.volume

    def start(self) -> None:
        """Nothing runs in the background."""

    def operations(self) -> Sequence[Operation]:
        """What it can do."""
        return (
            Operation("POST", "/quotes", self._quote, {"cents": 0, "days": None}),
            Operation("POST", "/shipments", self._ship, {"parcel": None}),
        )

    def _quote(self, call: Call) -> Any:
        items = call.body["items"]
        stock = self._http.get("inventory", "/stock", ids=",".join(str(item["product"]) for item in items))["stock"]
        days = 2 if all(stock.get(str(item["product"]), 0) >= item["quantity"] for item in items) else 9
        pieces = sum(item["quantity"] for item in items)
        log.info("delivery of %s pieces quoted in %s days", pieces, days)
        return {"cents": 390 + 60 * pieces, "days": days}

    def _ship(self, call: Call) -> Any:
        order, items = str(call.body["order"]), call.body["items"]
        self._http.post("inventory", "/reservations", {"order": order, "items": items})
        lines = [f"{item['quantity']} x {item['product']}" for item in items]
        self._labels.write(order, "\n".join([f"TO {call.body['customer']}", *lines, "^XA^FO50,50^BY3^BCN,100,Y,N,N" * 40]))
        log.info("label printed for order %s", order)
        return {"parcel": f"P{order[:10]}"}
