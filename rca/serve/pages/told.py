"""What a page needs of a notice (rca.sinks.notice.Notice fits), by shape, so that pages need no sink."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rca.drawing.timeline import Alert
from rca.report import TriageReport


class Links(Protocol):
    """(words, address) of what belongs to an incident."""

    @property
    def traces(self) -> Sequence[tuple[str, str]]: ...
    @property
    def dashboards(self) -> Sequence[tuple[str, str]]: ...
    @property
    def runbooks(self) -> Sequence[tuple[str, str]]: ...


class Notice(Protocol):
    """The state of an incident at one revision. Without a report, `trouble` says why there is none."""

    @property
    def revision(self) -> int: ...
    @property
    def state(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def report(self) -> TriageReport | None: ...
    @property
    def trouble(self) -> str: ...
    @property
    def alerts(self) -> Sequence[Alert]: ...
    @property
    def more_alerts(self) -> int: ...
    @property
    def links(self) -> Links: ...
    @property
    def model(self) -> str: ...
    @property
    def news(self) -> Sequence[str]: ...
