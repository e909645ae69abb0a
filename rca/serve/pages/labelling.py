"""The forms of an incident's page, and what comes back from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, get_args
from urllib.parse import quote, unquote

from rca.errors import BadInput, UnknownName
from rca.incidents.incident import Label
from rca.serve.labelling import MOST_NOTE, Verdict, confirmed, fault_kind_of, names_nobody
from rca.telemetry import CANDIDATE_KINDS, ENTITY_KINDS, EntityId

CSRF_FIELD: Final = "csrf"
_MOST_NAME: Final = 500


@dataclass(frozen=True)
class Judgement:
    """What somebody said on the page. For `withdraw`, `label` names whose label is taken back."""

    verdict: Verdict
    label: Label


def judgement_of(form: Mapping[str, str]) -> Judgement:
    """A form as it came in (the token is for who serves the page to check). Raises BadInput, UnknownName."""
    text = form.get("verdict", "")
    verdict = next((known for known in get_args(Verdict) if known == text), None)
    if verdict is None:
        raise UnknownName("verdict", text[:40], get_args(Verdict))
    note = " ".join(form.get("note", "").split())
    if len(note) > MOST_NOTE:
        raise BadInput("note", expected=f"at most {MOST_NOTE} characters", found=f"{len(note)}")
    nobody = names_nobody(verdict, form.get("entity", ""))
    kind = fault_kind_of("" if verdict == "withdraw" else form.get("fault_kind", ""), nobody=nobody)
    return Judgement(verdict, confirmed(None if nobody else entity_of(form.get("entity", "")), kind, note))


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
