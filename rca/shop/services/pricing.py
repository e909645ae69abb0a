"""Totals: prices from the catalogue, discounts and taxes from PostgreSQL."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from rca.shop.services.kit import Call, Kit, Operation, Refused

log = logging.getLogger("shop.pricing")


class Pricing:
    """What a cart costs."""

    def __init__(self, kit: Kit) -> None:
        self._database, self._http = kit.database, kit.http

    def start(self) -> None:
        """Nothing runs in the background."""

    def operations(self) -> Sequence[Operation]:
        """What it can do."""
        return (Operation("POST", "/totals", self._total, {"total_cents": 0, "tax_cents": 0}),)

    def _total(self, call: Call) -> Any:
        quantities = {item["product"]: item["quantity"] for item in call.body["items"]}
        products = self._http.get("catalogue", "/products", ids=",".join(map(str, quantities)))["products"]
        taxes: dict[str, int] = dict(self._database.rows("SELECT category, percent FROM taxes"))
        net = tax = 0
        for product in products:
            price = product["price_cents"] * quantities[product["id"]]
            net += price
            tax += price * taxes.get(product["category"], taxes["standard"]) // 100
        code = call.body.get("code")
        discount = net * self._percent(code) // 100 if code else 0
        log.info("total of %s items computed with %s cents discount", len(quantities), discount)
        return {"total_cents": net + tax - discount, "tax_cents": tax}

    def _percent(self, code: str) -> int:
        found = self._database.rows("SELECT percent FROM discounts WHERE code = %s", code)
        if not found:
            raise Refused(400, f"no discount code {code}")
        return int(found[0][0])
