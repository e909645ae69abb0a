"""Writes confirmations: it reads the order, renders, spools on its own volume and hands over to the mail provider."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from rca.shop import plan
from rca.shop.services.kit import Call, Kit, Operation, Refused
from rca.shop.services.queue import Consumer

log = logging.getLogger("shop.email")


class EmailWorker:
    """Handles messages of the queue; over HTTP it only tells about itself."""

    def __init__(self, kit: Kit) -> None:
        self._http, self._spool = kit.http, kit.volume
        self._consumer = Consumer(kit, self._confirm)
        self._sent = 0

    def start(self) -> None:
        """Begin to handle messages."""
        self._consumer.start()

    def operations(self) -> Sequence[Operation]:
        """What it can do."""
        return (Operation("GET", "/sent", self._count, {"sent": 0}),)

    def _count(self, _: Call) -> Any:
        return {"sent": self._sent}

    def _confirm(self, message: dict[str, str]) -> None:
        number = message["order"]
        order = self._http.get("orders", f"/orders/{number}")
        text = self._render(number, order)
        self._spool.write(number, text)
        answer = self._http.post(plan.MAIL, "/v1/messages", {"to": order["email"], "subject": f"Order {number}", "text": text})
        if answer.get("status") != "queued":
            raise Refused(502, f"the mail provider did not take the confirmation of order {number}")
        self._sent += 1
        log.info("confirmation of order %s sent to %s", number, order["email"])

    def _render(self, number: str, order: dict[str, Any]) -> str:
        lines = [f"{quantity} x product {product}" for product, quantity in order["lines"]]
        return "\n".join(
            [f"Dear {order['customer']},", "", f"thank you for order {number}:", *lines, f"{order['cents'] / 100:.2f} EUR"]
        )
