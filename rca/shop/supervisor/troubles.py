"""What goes wrong inside a backing server while it runs: locks, heavy queries, connections that are kept, a flood of messages."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final

from rca.errors import BadInput, UnknownName
from rca.shop import plan
from rca.shop.backing import postgres, redis
from rca.shop.backing.trouble import Trouble

_OF_POSTGRES: Final[Mapping[str, Callable[..., Trouble]]] = {
    "lock": postgres.lock,
    "heavy_queries": postgres.heavy_queries,
    "slow_writes": postgres.slow_statements,
    "connections": postgres.hog_connections,
}
_OF_QUEUE: Final[Mapping[str, Callable[..., Trouble]]] = {"flood": redis.flood}
TROUBLES: Final[Mapping[str, Mapping[str, Callable[..., Trouble]]]] = {plan.DATABASE: _OF_POSTGRES, plan.QUEUE: _OF_QUEUE}
"""Every trouble by server and name."""


def begin(server: Any, name: str, what: str, parameters: Mapping[str, Any]) -> Trouble:
    """Begin a trouble; it blocks for a moment. Raises UnknownName, BadInput for parameters that do not fit."""
    known = TROUBLES.get(name, {})
    if what not in known:
        raise UnknownName(f"trouble of {name}", what, known)
    try:
        inspect.signature(known[what]).bind(server, **parameters)
    except TypeError as error:
        raise BadInput(f"trouble {what}", expected="the parameters that it has", found=str(error)) from error
    return known[what](server, **parameters)
