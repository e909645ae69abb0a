"""The sinks that a configuration names. A kind's module is imported when a table of that kind is there.

Other packages add kinds by the entry point group `rca.sinks`: the name, and a class or function that takes the settings of
`[sinks.NAME]`, with that NAME as `name`, as parameters and returns a notice.Sink. Redaction is added to whatever it returns.
"""

from __future__ import annotations

import difflib
import importlib
import secrets
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from rca.errors import BadInput, UnknownName
from rca.sinks.notice import Sink
from rca.sinks.redaction import RedactedSink, kept_key

ENTRY_POINT_GROUP: Final = "rca.sinks"

BUILT_IN: Final[dict[str, str]] = {
    "slack": "rca.sinks.slack.sink:SlackSink",
    "pagerduty": "rca.sinks.pagerduty.sink:PagerDutySink",
    "webhook": "rca.sinks.webhook.sink:WebhookSink",
    "alertmanager": "rca.sinks.alertmanager.sink:AlertmanagerSink",
    "apprise": "rca.sinks.apprise.sink:AppriseSink",
}
"""Kind -> `module:class`, which takes the name of the table and its settings."""
KEY_FILE: Final = "pseudonyms.key"
_KIND: Final = "kind"


def sinks_of(tables: Mapping[str, Mapping[str, Any]], key: bytes | None = None) -> tuple[Sink, ...]:
    """A sink for every table `[sinks.NAME]`. Its `kind` is NAME where that is one of BUILT_IN.

    `key` is what pseudonyms are made with (redaction.kept_key); without it they change with every start. Raises BadInput that
    names every mistake of a table, UnknownName for a kind of no known package.
    """
    key = key or secrets.token_bytes(32)
    return tuple(_sink(name, table, key) for name, table in tables.items())


def sinks_at(home: Path, tables: Mapping[str, Mapping[str, Any]]) -> tuple[Sink, ...]:
    """The same, with the key that is kept beside the store of that home. Raises as `sinks_of` and `kept_key` do."""
    return sinks_of(tables, kept_key(home / KEY_FILE) if tables else None)


def settings_of(kind: str) -> type[BaseModel]:
    """The settings of a kind that is built in."""
    settings: type[BaseModel] = _class(kind).settings
    return settings


def _sink(name: str, table: Mapping[str, Any], key: bytes) -> Sink:
    where = f"[sinks.{name}]"
    if not isinstance(table, Mapping):
        raise BadInput(where, expected="a table of settings", found=repr(table)[:40])
    kind = str(table.get(_KIND, name))
    settings = {setting: value for setting, value in table.items() if setting != _KIND}
    if kind not in BUILT_IN:
        redact = settings.pop("redact", False)
        if not isinstance(redact, bool):
            raise BadInput(where, expected="redact = true or false", found=repr(redact)[:40])
        sink = _third_party(where, kind, {"name": name, **settings})
        return RedactedSink(sink, key) if redact else sink
    of_kind = _class(kind)
    try:
        config = of_kind.settings(**settings)
    except ValidationError as error:
        mistakes = "; ".join(_mistakes(error, of_kind.settings))
        raise BadInput(where, expected=f"settings of docs/notifications.md for {kind}", found=mistakes) from None
    built: Sink = of_kind(name, config)
    return RedactedSink(built, key) if config.redact else built


def _class(kind: str) -> Any:
    module, _, attribute = BUILT_IN[kind].partition(":")
    return getattr(importlib.import_module(module), attribute)


def _third_party(where: str, kind: str, settings: dict[str, Any]) -> Sink:
    known = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    if kind not in known:
        raise UnknownName(f"{where} kind", kind, {*known, *BUILT_IN})
    try:
        sink = known[kind].load()(**settings)
    except (ImportError, AttributeError, TypeError) as error:
        found = f"{type(error).__name__}: {error}"
        raise BadInput(where, expected="settings that its package takes", found=found) from error
    if not isinstance(sink, Sink):
        raise BadInput(where, expected="a sink (rca.sinks.notice.Sink)", found=type(sink).__name__)
    return sink


def _mistakes(error: ValidationError, settings: type[BaseModel]) -> Iterator[str]:
    """One clause for every mistake; values are not repeated, since somebody may have put a secret there."""
    for mistake in error.errors(include_input=False, include_url=False):
        where = ".".join(map(str, mistake["loc"])) or "the table"
        if mistake["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(mistake["loc"][-1]), settings.model_fields, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(settings.model_fields))}"
            yield f"{where}: unknown setting, {hint}"
        elif mistake["type"] == "missing":
            yield f"{where}: is required"
        else:
            yield f"{where}: {mistake['msg'].removeprefix('Value error, ')}"
