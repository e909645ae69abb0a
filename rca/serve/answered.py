"""What `rca serve` answered at the time, and what a version in shadow said of the same, for those who judge it later."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final, Literal

from rca.evaluation.history import Kept
from rca.evaluation.shadows import Pair, Said
from rca.incidents.inbox import INBOX_FILE, InboxFile
from rca.ranking import Ranking
from rca.serve.asking import Shadowed
from rca.sinks.notice import loaded
from rca.telemetry import EntityId

_MOST_KEPT: Final = 20


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


def beside(ranking: Ranking, shadow: Shadowed) -> dict[str, Any]:
    """What was told and what a version in shadow said of the same question, as JSON values."""
    said = _kept(shadow.ranking) if shadow.ranking is not None else None
    return {"told": _kept(ranking), "shadow": said, "trouble": shadow.trouble}


def outcome_of(ranking: Ranking, shadow: Shadowed) -> Literal["agrees", "differs", "failed"]:
    """Whether a version in shadow blames the same as what was told, nobody included, as `rca models compare` counts."""
    if shadow.ranking is None:
        return "failed"
    told, said = (_said(_kept(each)).first for each in (ranking, shadow.ranking))
    return "agrees" if told == said else "differs"


def shadow_pairs(home: Path, version: str | None = None) -> tuple[Pair, ...]:
    """What was told and said in shadow, the last of every incident of the store and version. Raises as the inbox does."""
    if not (home / INBOX_FILE).exists():
        return ()
    found: dict[tuple[str, str], Pair] = {}
    with closing(InboxFile(home)) as file:
        for incident_id, of, at_ns, body in file.shadows(version):
            shadow = _said(body["shadow"]) if body["shadow"] is not None else None
            found[of, incident_id] = Pair(incident_id, of, at_ns, _said(body["told"]), shadow, body["trouble"])
    return tuple(found.values())


def _kept(ranking: Ranking) -> dict[str, Any]:
    candidates = [
        [c.entity.kind, c.entity.name, c.entity.namespace, round(c.probability, 6)] for c in ranking.candidates[:_MOST_KEPT]
    ]
    return {"model": ranking.ranker, "no_fault": round(ranking.no_fault, 6), "candidates": candidates}


def _said(body: Mapping[str, Any]) -> Said:
    found = [(EntityId(kind, name, namespace), share) for kind, name, namespace, share in body["candidates"]]
    return Said(body["model"], tuple(entity for entity, _ in found), tuple(share for _, share in found), body["no_fault"])
