"""Turns a cart into an order: total and delivery at once, then money, parcel and order one after the other."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from typing import Any

from rca.shop.services.clients import CalleeFailed
from rca.shop.services.kit import Call, Kit, Operation, Refused

log = logging.getLogger("shop.checkout")


class Checkout:
    """One operation with many steps."""

    def __init__(self, kit: Kit) -> None:
        self._kit, self._http = kit, kit.http

    def start(self) -> None:
        """Nothing runs in the background."""

    def operations(self) -> Sequence[Operation]:
        """What it can do."""
        return (Operation("POST", "/checkouts", self._check_out, {"order": None, "total_cents": 0}),)

    def _check_out(self, call: Call) -> Any:
        customer = str(call.body["customer"])
        items = self._http.get("cart", f"/carts/{customer}")["items"]
        if not items:
            raise Refused(409, f"the cart of {customer} is empty")
        order = uuid.uuid4().hex
        quote, total = self._kit.both(
            lambda: self._http.post("shipping", "/quotes", {"items": items}),
            lambda: self._http.post("pricing", "/totals", {"items": items, "code": call.body.get("code")}),
        )
        cents = total["total_cents"] + quote["cents"]
        log.info("order %s of customer %s comes to %s cents", order, customer, cents)
        self._http.post("payment", "/charges", {"order": order, "cents": cents, "card": call.body.get("card", "visa")})
        self._http.post("shipping", "/shipments", {"order": order, "customer": customer, "items": items})
        email = f"{customer}@customers.example"
        self._http.post(
            "orders", "/orders", {"order": order, "customer": customer, "email": email, "cents": cents, "items": items}
        )
        self._clear(customer)
        log.info("order %s placed by customer %s", order, customer)
        return {"order": order, "total_cents": cents}

    def _clear(self, customer: str) -> None:
        try:
            self._http.delete("cart", f"/carts/{customer}")
        except CalleeFailed as error:
            log.warning("the cart of %s stays full: %s", customer, error)
