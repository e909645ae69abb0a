"""What `rca serve` answered at the time, for those who judge it later."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from rca.evaluation.history import Kept
from rca.incidents.inbox import INBOX_FILE, InboxFile
from rca.sinks.notice import loaded


def kept_answers(home: Path) -> dict[str, Kept]:
    """The last answer that was given to every incident of the store at `home`, where it named candidates.

    Groups of alerts that were ranked together share an incident of the store: the answer to the group of its own id counts, or
    else that to the oldest. Raises as the inbox does.
    """
    found: dict[str, Kept] = {}
    if not (home / INBOX_FILE).exists():  # looking something up should not make an inbox
        return found
    with closing(InboxFile(home)) as file:
        for bundle, stored in file.last_answers():
            notice = loaded(stored.body)
            if notice.report is not None and (bundle not in found or stored.incident_id == bundle):
                found[bundle] = Kept(notice.report.ranking, notice.model or notice.report.ranking.ranker, stored.at_ns)
    return found
