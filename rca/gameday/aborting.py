"""The conditions of a plan under which a game day ends at once, and everything that was injected with it."""

from __future__ import annotations

import math

from rca.errors import BadInput, RcaError, Rejected, Unavailable
from rca.gameday.plan import Abort, Plan
from rca.gameday.system import System
from rca.telemetry import SECOND_NS


class Aborted(RcaError):
    """The game day must not go on; the message says why."""


class Conditions:
    """Looks at every condition of a plan. Raises BadInput for a query that the system refuses."""

    def __init__(self, plan: Plan, system: System) -> None:
        self._aborts, self._system = plan.abort, system
        self._since: dict[int, float] = {}
        for abort in self._aborts:
            if abort.query is not None:
                try:
                    system.measure(abort.query)
                except Rejected as error:
                    raise BadInput(f"abort: query {abort.query}", expected="PromQL", found=str(error)) from None

    def check(self) -> None:
        """Raises Aborted once a condition has held for as long as it must. What cannot be measured now changes nothing."""
        now = self._system.now()
        for place, abort in enumerate(self._aborts):
            try:
                holds = self._holds(abort)
            except (Unavailable, Rejected):
                continue
            if not holds:
                self._since.pop(place, None)
            elif now - self._since.setdefault(place, now) >= abort.lasting / SECOND_NS:
                raise Aborted(f"abort condition: {abort.words()}")

    def _holds(self, abort: Abort) -> bool:
        if abort.query is not None:
            values = [value for value in self._system.measure(abort.query) if not math.isnan(value)]
            if abort.above is not None:
                return any(value > abort.above for value in values)
            return any(value < abort.below for value in values if abort.below is not None)
        if abort.failed_requests is not None:
            share = self._system.failed_share()
            return share is not None and share > abort.failed_requests
        return not self._system.is_healthy()
