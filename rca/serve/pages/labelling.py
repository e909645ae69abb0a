"""The forms of an incident's page, and what comes back from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import quote, unquote

from rca.errors import BadInput, UnknownName
from rca.faults import FAULT_KINDS, NO_FAULT, is_no_fault
from rca.incidents.incident import EntityModel, Label
from rca.telemetry import CANDIDATE_KINDS, ENTITY_KINDS, EntityId

CSRF_FIELD: Final = "csrf"
VERDICTS: Final = ("confirm", "correct", "no_fault", "withdraw")
MOST_NOTE: Final = 1000
_MOST_NAME: Final = 500

Verdict = Literal["confirm", "correct", "no_fault", "withdraw"]


@dataclass(frozen=True)
class Judgement:
    """What somebody said on the page. For `withdraw`, `label` names whose label is taken back."""

    verdict: Verdict
    label: Label


def judgement_of(form: Mapping[str, str]) -> Judgement:
    """A form as it came in (the token is for who serves the page to check). Raises BadInput, UnknownName."""
    verdict = form.get("verdict", "")
    if verdict not in VERDICTS:
        raise UnknownName("verdict", verdict[:40], VERDICTS)
    kind = form.get("fault_kind") or (NO_FAULT if verdict == "no_fault" else "unknown")
    if kind not in FAULT_KINDS:
        raise UnknownName("fault_kind", kind[:40], FAULT_KINDS)
    note = " ".join(form.get("note", "").split())
    if len(note) > MOST_NOTE:
        raise BadInput("note", expected=f"at most {MOST_NOTE} characters", found=f"{len(note)}")
    text = form.get("entity", "")
    nobody = verdict == "no_fault" or (verdict == "withdraw" and not text)
    if verdict == "withdraw":
        kind = NO_FAULT if nobody else "unknown"
    if nobody != is_no_fault(kind):
        names = "a fault that names nobody" if nobody else "a fault that names somebody"
        raise BadInput("fault_kind", expected=names, found=kind)
    entity = None if nobody else entity_of(text)
    named = EntityModel(kind=entity.kind, name=entity.name, namespace=entity.namespace) if entity else None
    return Judgement(verdict, Label(entity=named, fault_kind=kind, provenance="confirmed", note=note))  # type: ignore[arg-type]


def value_of(entity: EntityId) -> str | None:
    """An entity as a form carries it, kind|namespace|name, percent-encoded; None for a name too long to be anybody's."""
    if len(entity.namespace) + len(entity.name) > _MOST_NAME:
        return None
    return "|".join(quote(part, safe=" /:@", errors="surrogatepass") for part in (entity.kind, entity.namespace, entity.name))


def entity_of(text: str) -> EntityId:
    """What `value_of` wrote. Raises BadInput."""
    parts = [unquote(part, errors="surrogatepass") for part in text.split("|")]
    kind = next((kind for kind in ENTITY_KINDS if kind == parts[0] and kind in CANDIDATE_KINDS), None)
    if len(parts) != 3 or kind is None or not parts[2]:
        raise BadInput("entity", expected="a candidate, as kind|namespace|name", found=repr(text[:80]))
    return EntityId(kind, parts[2], parts[1])
