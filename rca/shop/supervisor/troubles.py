"""What goes wrong inside a backing server while it runs: locks, heavy queries, connections that are kept, a flood of messages."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final, cast, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from rca.errors import BadInput, UnknownName
from rca.shop import plan
from rca.shop.backing import postgres, redis
from rca.shop.backing.trouble import Trouble
from rca.wording import listed

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
    """Begin a trouble; it blocks for a moment. Raises UnknownName, and BadInput for parameters that do not fit."""
    known = TROUBLES.get(name, {})
    if what not in known:
        raise UnknownName(f"trouble of {name}", what, known)
    return known[what](server, **_checked(what, known[what], parameters))


def _checked(what: str, trouble: Callable[..., Trouble], given: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters, of the types that the trouble's signature tells. Raises BadInput."""
    _, *wanted = inspect.signature(trouble).parameters.values()
    types = get_type_hints(trouble)
    fields = {one.name: (types[one.name], ... if one.default is one.empty else one.default) for one in wanted}
    model: type[BaseModel] = create_model(what, __config__=ConfigDict(extra="forbid"), **cast("Any", fields))
    try:
        return model.model_validate(dict(given)).model_dump(exclude_unset=True)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise BadInput(f"trouble {what}", expected=f"its parameters, {listed(list(fields), 4)}", found=problems) from error
