"""What others bought, counted in the cache server."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Sequence
from typing import Any, Final

import redis

from rca.shop import plan
from rca.shop.goods import PRODUCTS
from rca.shop.services.kit import Call, Kit, Operation

log = logging.getLogger("shop.recommendation")

_SHOWN: Final = 4


class Recommendation:
    """A few products that go with a product or a customer, kept for a while."""

    def __init__(self, kit: Kit) -> None:
        self._http, self._cache = kit.http, kit.redis(plan.CACHE)
        self._cache_seconds = kit.pod.settings.cache_seconds

    def start(self) -> None:
        """Nothing runs in the background."""

    def operations(self) -> Sequence[Operation]:
        """What it can do."""
        return (Operation("GET", "/recommendations", self._recommend, {"products": []}),)

    def _recommend(self, call: Call) -> Any:
        about = call.query.get("product") or call.query.get("customer") or "anybody"
        key = f"recommended:{about}"
        kept = self._kept(key)
        if kept is not None:
            log.info("recommendations for %s taken from the cache", about)
            return {"products": kept}
        chosen = random.Random(about).sample(range(1, PRODUCTS + 1), _SHOWN)
        found = self._http.get("catalogue", "/products", ids=",".join(map(str, chosen)))["products"]
        products = [{"id": product["id"], "name": product["name"]} for product in found]
        self._keep(key, products)
        log.info("%s recommendations computed for %s", len(products), about)
        return {"products": products}

    def _kept(self, key: str) -> Any:
        try:
            kept = self._cache.get(key)
        except (redis.ConnectionError, redis.TimeoutError) as error:
            log.warning("recommending without the cache: %s", error)
            return None
        return json.loads(kept) if isinstance(kept, str) else None

    def _keep(self, key: str, products: list[Any]) -> None:
        try:
            self._cache.set(key, json.dumps(products), ex=2 * self._cache_seconds or 1)
        except (redis.ConnectionError, redis.TimeoutError) as error:
            log.warning("recommendations not kept: %s", error)
