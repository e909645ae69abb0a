"""Whether those who are to be told can be: sinks looked at (`rca doctor`), and tried with an example (`rca sinks test`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from rca.collectors.findings import Finding
from rca.errors import RcaError
from rca.sinks.notice import Notice, Sink, checked


def look_at_all(sinks: Sequence[Sink]) -> tuple[Finding, ...]:
    """What every sink says of itself. Nothing is sent that anybody would read."""
    return _each(sinks, lambda sink: ((checked(sink), ""),))


def send_to_all(sinks: Sequence[Sink], notices: Sequence[Notice]) -> tuple[Finding, ...]:
    """What became of the notices, one after the other, at every sink."""
    return _each(sinks, partial(_sent, notices=notices))


def _each(sinks: Sequence[Sink], ask: Callable[[Sink], Sequence[tuple[str, str]]]) -> tuple[Finding, ...]:
    """Ask all at once; `ask` returns words and advice. What a sink raises, of another package too, is a failure of that sink."""
    with ThreadPoolExecutor(max(len(sinks), 1)) as pool:
        return tuple(finding for found in pool.map(partial(_asked, ask=ask), sinks) for finding in found)


def _asked(sink: Sink, ask: Callable[[Sink], Sequence[tuple[str, str]]]) -> tuple[Finding, ...]:
    where = f"[sinks.{sink.name}]"
    try:
        return tuple(Finding(where, "ok", words, advice) for words, advice in ask(sink))
    except Exception as error:
        words = str(error) if isinstance(error, RcaError) else f"{type(error).__name__}: {error}"
        return (Finding(where, "failure", words, f"see {where} in rca.toml, and docs/notifications.md"),)


def _sent(sink: Sink, notices: Sequence[Notice]) -> list[tuple[str, str]]:
    """What was sent, and what was left out of it."""
    told, before = [], None
    for notice in notices:
        sent = sink.send(notice, before)
        before = sent.reference or before
        what = "the end of the incident" if notice.state == "resolved" else "the first answer"
        words = f"{what} was not sent: {sent.skipped}" if sent.skipped else f"{what} was taken"
        told.append((words, f"left out, for there was no room: {', '.join(sent.cut)}" if sent.cut else ""))
    return told
