"""Products, from PostgreSQL behind a cache."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

import redis

from rca.shop import plan
from rca.shop.services.kit import Call, Kit, Operation, Refused

log = logging.getLogger("shop.catalogue")

_COLUMNS: Final = "id, sku, name, description, category, price_cents"
_PAGE: Final = 12


class Catalogue:
    """Looks things up in the cache first; without a cache it asks the database."""

    def __init__(self, kit: Kit) -> None:
        self._database, self._cache = kit.database, kit.redis(plan.CACHE)
        self._cache_seconds = kit.pod.settings.cache_seconds

    def start(self) -> None:
        """Nothing runs in the background."""

    def operations(self) -> Sequence[Operation]:
        """What it can do."""
        return (
            Operation("GET", "/products", self._products, {"products": []}),
            Operation("GET", "/products/{id}", self._product, {}),
        )

    def _product(self, call: Call) -> Any:
        number = int(call.path["id"])
        product = self._cached(f"product:{number}", lambda: self._load(f"SELECT {_COLUMNS} FROM products WHERE id = %s", number))
        if not product:
            raise Refused(404, f"no product {number}")
        log.info("product %s read", number)
        return product[0]

    def _products(self, call: Call) -> Any:
        if "ids" in call.query:
            numbers = sorted({int(number) for number in call.query["ids"].split(",") if number})
            found = self._load(f"SELECT {_COLUMNS} FROM products WHERE id = ANY(%s)", numbers)
            log.info("%s products read by id", len(found))
        else:
            category = call.query.get("category", "new")
            query = f"SELECT {_COLUMNS} FROM products WHERE category = %s ORDER BY price_cents, id LIMIT {_PAGE}"
            found = self._cached(f"category:{category}", lambda: self._load(query, category))
            log.info("category %s read with %s products", category, len(found))
        return {"products": found}

    def _load(self, query: str, *parameters: Any) -> list[dict[str, Any]]:
        names = _COLUMNS.split(", ")
        return [dict(zip(names, row, strict=True)) for row in self._database.rows(query, *parameters)]

    def _cached(self, key: str, load: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
        try:
            kept = self._cache.get(key)
        except (redis.ConnectionError, redis.TimeoutError) as error:
            log.warning("reading without the cache: %s", error)
            return load()
        if isinstance(kept, str):
            found: list[dict[str, Any]] = json.loads(kept)
            return found
        found = load()
        if self._cache_seconds:
            self._cache.set(key, json.dumps(found), ex=self._cache_seconds)
        return found
