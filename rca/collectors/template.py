"""The configuration file as `rca init` writes it: every setting with its meaning and default, what is not used commented out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, get_args

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from rca.collectors.config import Config
from rca.settings import HttpSource

_WIDTH: Final = 100
_EXAMPLES: Final = {"url": "http://localhost", "listen": "127.0.0.1"}

Given = Mapping[str, Mapping[str, Any]]
"""Settings by table and key, in the file's own terms."""


@dataclass(frozen=True)
class Setting:
    """One setting: its table (`prometheus.tls`), key, meaning, and default as TOML; None where it must be given or has none.

    `shared` settings are those of every source over HTTP.
    """

    table: str
    key: str
    meaning: str
    default: str | None
    required: bool
    shared: bool


@dataclass(frozen=True)
class Table:
    """One table of the file, with what it is about."""

    name: str
    meaning: str
    settings: tuple[Setting, ...]
    shared: bool = False


def tables() -> Iterator[Table]:
    """Every table of the file in order, tables within tables after their own."""
    for name, field in Config.model_fields.items():
        model = _section_in(field.annotation)
        if model is None:
            yield Table(name, field.description or "", ())
        else:
            yield from _tables(name, model)


def _tables(name: str, model: type[BaseModel], *, shared: bool = False) -> Iterator[Table]:
    nested = {key: inner for key, field in model.model_fields.items() if (inner := _section_in(field.annotation)) is not None}
    inherited = set(HttpSource.model_fields) - {"url"} if issubclass(model, HttpSource) else set()
    settings = tuple(
        _setting(name, key, field, shared=key in inherited) for key, field in model.model_fields.items() if key not in nested
    )
    yield Table(name, " ".join((model.__doc__ or "").split()), settings, shared)
    for key, inner in nested.items():
        yield from _tables(f"{name}.{key}", inner, shared=key in inherited)


def _setting(table: str, key: str, field: FieldInfo, *, shared: bool) -> Setting:
    default = None if field.is_required() else field.get_default(call_default_factory=True, validated_data={})
    if default is not None:
        kind: Any = field.annotation
        for extra in field.metadata:
            kind = Annotated[kind, extra]
        default = TypeAdapter(kind).dump_python(default, mode="json")
    text = None if default is None else toml_value(default)
    return Setting(table, key, field.description or "", text, field.is_required(), shared)


def _section_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _section_in(part)) is not None), None)


def toml_value(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(str(k))} = {toml_value(v)}" for k, v in value.items()) + " }" if value else "{}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    return json.dumps(value)  # text, numbers and booleans look the same in JSON


def rendered_config(given: Given) -> str:
    """The text of the file. Tables of `given` are on, with the values given; the others, and every default, are comments.

    So a table that somebody copies from the documentation can be added at the end. What all sources over HTTP share is explained
    at the first of them.
    """
    lines = [
        "# Where rca finds telemetry, and who is told. What is commented out is not used, or shows its default:",
        "# uncomment a setting together with the [table] above it. `rca doctor` tests every source and sink.",
    ]
    every = tuple(tables())
    first = next((table.name for table in every if any(setting.shared for setting in table.settings)), "")
    for table in every:
        values = given.get(table.name, {})
        on = table.name in given
        told_before = first not in (table.name, table.name.partition(".")[0])
        if table.shared and told_before and not on:
            continue
        lines += ["", *_comment(table.meaning), f"{'' if on else '#'}[{table.name}]"]
        for setting in table.settings:
            if setting.key in values or not (setting.shared and told_before):
                lines += _lines(setting, values, on=on)
        if told_before and any(setting.shared for setting in table.settings):
            lines.append(f"# Identity, TLS, time-outs and limits as in [{first}].")
    return "\n".join(lines) + "\n"


def _lines(setting: Setting, values: Mapping[str, Any], *, on: bool) -> Iterator[str]:
    yield from _comment(setting.meaning)
    if setting.key in values:
        yield f"{setting.key} = {toml_value(values[setting.key])}"
    elif setting.required:
        yield f"{'' if on else '#'}{setting.key} = {json.dumps(_EXAMPLES.get(setting.key, ''))}"
    else:
        yield f"#{setting.key} = {setting.default or ''}".rstrip()


def _comment(text: str) -> Iterator[str]:
    line = "#"
    for word in text.split():
        if len(line) + len(word) + 1 > _WIDTH and line != "#":
            yield line
            line = "#"
        line += f" {word}"
    if line != "#":
        yield line
