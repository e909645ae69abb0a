"""Which failures are worth another try, and when. One policy for every sink."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import count
from typing import Final, TypeVar

from rca.errors import Overloaded, RcaError, Rejected, Unavailable

T = TypeVar("T")

FIRST_WAIT_S: Final = 0.5
LONGEST_WAIT_S: Final = 30.0
_LONGEST_RETRY_AFTER_S: Final = 3600.0
_NOT_NOW: Final = (408, 425, 429)
"""Statuses below 500 that are about the moment and not about the request."""
_NEVER: Final = (501, 505)


def backoff_s(failures: int, *, longest_s: float = LONGEST_WAIT_S, chance: Callable[[], float] = random.random) -> float:
    """How long to wait after so many failures in a row (from 1): doubling, up to half of it taken off at random.

    Chance spreads the tries of many that failed at the same moment.
    """
    doubled = FIRST_WAIT_S * 2.0 ** min(failures - 1, 30)
    return min(doubled, longest_s) * (1 - chance() / 2)


def retrying(
    attempt: Callable[[float], T],
    deadline_s: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    chance: Callable[[], float] = random.random,
) -> T:
    """What `attempt(until)` returns, tried again while it raises Unavailable and the next try would still be in time.

    Raises what the last try raised: an Overloaded whose time lies beyond the deadline is raised at once.
    """
    until = clock() + deadline_s
    for failures in count(1):
        try:
            return attempt(until)
        except Unavailable as error:
            wait = backoff_s(failures, chance=chance)
            if isinstance(error, Overloaded):
                wait = max(wait, error.retry_after_s)
            if clock() + wait >= until:
                raise
            sleep(wait)
    raise AssertionError("never counted to the end")


def failure(words: str, status: int, headers: Mapping[str, str]) -> RcaError | None:
    """The error that an HTTP status stands for, None for success. `headers` are looked up as they come: case-insensitive."""
    if 200 <= status < 300:
        return None
    if status in _NOT_NOW or (status >= 500 and status not in _NEVER):
        wait = retry_after_s(headers.get("Retry-After"))
        return Unavailable(words) if wait is None else Overloaded(words, wait)
    return Rejected(words)


def retry_after_s(value: str | None, *, now: datetime | None = None) -> float | None:
    """Seconds of a Retry-After header, which holds seconds or a date; None where it holds neither. At most an hour."""
    if value is None:
        return None
    try:
        wait = float(value)
    except ValueError:
        try:
            moment = parsedate_to_datetime(value)
        except ValueError:
            return None
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        wait = (moment - (now or datetime.now(UTC))).total_seconds()
    return None if math.isnan(wait) else min(max(wait, 0.0), _LONGEST_RETRY_AFTER_S)
