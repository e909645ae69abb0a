"""Full-text search in PostgreSQL; what is found comes from the catalogue."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

from rca.shop.services.kit import Call, Kit, Operation, Refused

log = logging.getLogger("shop.search")

_QUERY: Final = """
SELECT id FROM products, websearch_to_tsquery('english', %s) AS words
WHERE document @@ words ORDER BY ts_rank(document, words) DESC, id LIMIT 8
"""
_SUGGEST: Final = "SELECT DISTINCT category FROM products WHERE category LIKE %s ORDER BY category LIMIT 5"


class Search:
    """Words to products."""

    def __init__(self, kit: Kit) -> None:
        self._database, self._http = kit.database, kit.http

    def start(self) -> None:
        """Nothing runs in the background."""

    def operations(self) -> Sequence[Operation]:
        """What it can do."""
        return (Operation("GET", "/search", self._search, {"products": []}),)

    def _search(self, call: Call) -> Any:
        words = call.query.get("q", "").strip()
        if not words:
            raise Refused(400, "no words to search for")
        numbers = [row[0] for row in self._database.rows(_QUERY, words)]
        if not numbers:
            categories = [row[0] for row in self._database.rows(_SUGGEST, f"{words[:3]}%")]
            log.info("nothing found for %s words, suggesting %s categories", len(words.split()), len(categories))
            return {"products": [], "categories": categories}
        found = self._http.get("catalogue", "/products", ids=",".join(map(str, numbers)))["products"]
        log.info("%s products found for %s words", len(found), len(words.split()))
        return {"products": found}
