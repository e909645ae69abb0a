"""What customers talk to: it passes requests on, and does without recommendations when it must."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from rca.shop.services.clients import CalleeFailed
from rca.shop.services.kit import Call, Kit, Operation

log = logging.getLogger("shop.gateway")


class Gateway:
    """Pages of the shop."""

    def __init__(self, kit: Kit) -> None:
        self._kit, self._http = kit, kit.http

    def start(self) -> None:
        """Nothing runs in the background."""

    def operations(self) -> Sequence[Operation]:
        """What customers can do."""
        return (
            Operation("GET", "/", self._home, {"products": [], "recommended": []}),
            Operation("GET", "/products", self._products, {"products": []}),
            Operation("GET", "/products/{id}", self._product, {"product": {}, "recommended": []}),
            Operation("GET", "/search", self._search, {"products": []}),
            Operation("GET", "/cart/{customer}", self._cart, {"items": []}),
            Operation("POST", "/cart/{customer}/items", self._add, {"items": []}),
            Operation("POST", "/checkout/{customer}", self._check_out, {"order": None}),
        )

    def _home(self, call: Call) -> Any:
        customer = call.query.get("customer", "")
        recommended, featured = self._kit.both(
            lambda: self._recommended(customer=customer), lambda: self._http.get("catalogue", "/products", category="new")
        )
        log.info("home page for customer %s", customer)
        return {"products": featured["products"], "recommended": recommended}

    def _products(self, call: Call) -> Any:
        category = call.query.get("category", "new")
        found = self._http.get("catalogue", "/products", category=category)["products"]
        log.info("category %s shown with %s products", category, len(found))
        return {"products": found}

    def _product(self, call: Call) -> Any:
        number = call.path["id"]
        recommended, product = self._kit.both(
            lambda: self._recommended(product=number), lambda: self._http.get("catalogue", f"/products/{number}")
        )
        log.info("product %s shown", number)
        return {"product": product, "recommended": recommended}

    def _search(self, call: Call) -> Any:
        words = call.query.get("q", "")
        found = self._http.get("search", "/search", q=words)["products"]
        log.info("search shown with %s products", len(found))
        return {"products": found}

    def _cart(self, call: Call) -> Any:
        return self._http.get("cart", f"/carts/{call.path['customer']}")

    def _add(self, call: Call) -> Any:
        return self._http.post("cart", f"/carts/{call.path['customer']}/items", call.body)

    def _check_out(self, call: Call) -> Any:
        customer = call.path["customer"]
        order = self._http.post("checkout", "/checkouts", {"customer": customer, **call.body})
        log.info("customer %s checked out order %s", customer, order.get("order"))
        return order

    def _recommended(self, **query: Any) -> list[Any]:
        try:
            found: list[Any] = self._http.get("recommendation", "/recommendations", **query)["products"]
        except CalleeFailed as error:
            log.warning("page without recommendations: %s", error)
            return []
        return found
