"""Charges cards through a provider and keeps what it charged in PostgreSQL."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

from rca.shop import plan
from rca.shop.services.kit import Call, Kit, Operation, Refused

log = logging.getLogger("shop.payment")

_KEEP: Final = "INSERT INTO payments (order_id, cents, reference) VALUES (%s, %s, %s)"


class Payment:
    """Money."""

    def __init__(self, kit: Kit) -> None:
        self._database, self._http = kit.database, kit.http
        self._key = kit.pod.settings.payment_key

    def start(self) -> None:
        """Nothing runs in the background."""

    def operations(self) -> Sequence[Operation]:
        """What it can do."""
        return (
            Operation("POST", "/charges", self._charge, {"reference": None}),
            Operation("GET", "/charges/{order}", self._read, {"reference": None}),
        )

    def _charge(self, call: Call) -> Any:
        order, cents = str(call.body["order"]), int(call.body["cents"])
        if cents <= 0:
            raise Refused(400, f"cannot charge {cents} cents")
        request = {"amount": cents, "currency": "eur", "card": call.body["card"], "idempotency_key": order}
        headers = {"Authorization": f"Bearer {self._key}"}
        reference = self._http.post(plan.PAYMENTS, "/v1/charges", request, headers=headers)["id"]
        with self._database.connection() as connection:
            connection.execute(_KEEP, (order, cents, reference))
        log.info("%s cents charged for order %s as %s", cents, order, reference)
        return {"reference": reference}

    def _read(self, call: Call) -> Any:
        found = self._database.rows("SELECT reference FROM payments WHERE order_id = %s", call.path["order"])
        if not found:
            raise Refused(404, f"order {call.path['order']} was not paid")
        return {"reference": found[0][0]}
