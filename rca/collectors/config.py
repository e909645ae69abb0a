"""The configuration file, `rca.toml`: one table for every source. Unknown keys are refused with the nearest known one."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, get_args

from pydantic import BaseModel, Field, ValidationError
from pydantic_core import ErrorDetails

from rca.collectors.alertmanager.config import AlertmanagerConfig
from rca.collectors.jaeger.config import JaegerConfig
from rca.collectors.kubernetes.config import KubernetesConfig
from rca.collectors.otlp.config import OtlpConfig
from rca.collectors.prometheus.config import PrometheusConfig
from rca.collectors.streaming.config import StreamConfig
from rca.collectors.tempo.config import TempoConfig
from rca.collectors.warm.config import StoreConfig
from rca.errors import BadInput
from rca.observe import ObserveConfig
from rca.serve.config import ServeConfig
from rca.settings import DurationNs, Section
from rca.telemetry import MINUTE_NS, SECOND_NS

FILE_NAME: Final = "rca.toml"
_WORDS: Final = {
    "missing": "is required",
    "model_type": "expected a table of settings",
    "dict_type": "expected a table of settings",
    "string_type": "expected text in quotes",
    "path_type": "expected a path in quotes",
    "bool_type": "expected true or false",
    "bool_parsing": "expected true or false",
    "int_type": "expected a whole number",
    "int_parsing": "expected a whole number",
    "list_type": "expected a list",
}


class LiveSettings(Section):
    """How a live incident is cut out of time."""

    system: Annotated[str, Field(description="name of the system; incidents of one system share what is usual in it")] = "live"
    baseline: Annotated[DurationNs, Field(description="quiet time before the stretch searched, to compare with")] = 60 * MINUTE_NS
    deadline: Annotated[DurationNs, Field(description="how long to wait for all sources together")] = 20 * SECOND_NS
    lag: Annotated[DurationNs, Field(description="age from which telemetry counts as complete; younger is not looked at")] = (
        30 * SECOND_NS
    )
    lookback: Annotated[DurationNs, Field(description="how long before an alert to search for the onset")] = 10 * MINUTE_NS
    longest: Annotated[DurationNs, Field(description="how long after an alert to look at most")] = 30 * MINUTE_NS


class Config(Section):
    """Every table of the file. A table that is absent means that the source is not used."""

    triage: LiveSettings = LiveSettings()
    names: Annotated[
        dict[str, str], Field(description='what traces call a service, by what another source calls it: `basket-svc = "cart"`')
    ] = {}
    tempo: Annotated[TempoConfig | None, Field(description="traces that Grafana Tempo keeps")] = None
    jaeger: Annotated[JaegerConfig | None, Field(description="traces that Jaeger keeps")] = None
    sources: Annotated[
        dict[str, dict[str, Any]], Field(description="settings of sources that other packages add, `[sources.NAME]` each")
    ] = {}
    store: StoreConfig | None = None
    stream: StreamConfig = StreamConfig()
    prometheus: PrometheusConfig | None = None
    otlp: OtlpConfig | None = None
    kubernetes: KubernetesConfig | None = None
    alertmanager: AlertmanagerConfig | None = None
    serve: ServeConfig = ServeConfig()
    observe: ObserveConfig = ObserveConfig()
    sinks: Annotated[
        dict[str, dict[str, Any]],
        Field(description="who is told by `rca serve`, a table `[sinks.NAME]` each (docs/notifications.md)"),
    ] = {}


def config_path(given: Path | None = None) -> Path:
    """The file that is read: the given one, `$RCA_CONFIG`, `./rca.toml`, or `~/.config/rca/rca.toml`. Raises BadInput."""
    if given is not None:
        return given
    if os.environ.get("RCA_CONFIG"):
        return Path(os.environ["RCA_CONFIG"])
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    for path in (Path(FILE_NAME), home / "rca" / FILE_NAME):
        if path.exists():
            return path
    raise BadInput(
        "configuration",
        expected=f"./{FILE_NAME}, {home / 'rca' / FILE_NAME}, $RCA_CONFIG or --config",
        found="none; `rca init` writes one",
    )


def load_config(path: Path) -> Config:
    """Read and check the file. Raises BadInput that names every mistake."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "bytes that are not UTF-8"
        raise BadInput(str(path), expected="a configuration file", found=str(reason)) from None
    return parsed(text, str(path))


def parsed(text: str, where: str) -> Config:
    """The configuration that a file's text holds. Raises BadInput that names every mistake."""
    try:
        return Config(**tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise BadInput(where, expected="TOML", found=str(error)) from None
    except ValidationError as error:
        raise BadInput(where, expected="settings of docs/configuration.md", found="; ".join(_mistakes(error))) from None


def _mistakes(error: ValidationError) -> Iterator[str]:
    """One clause for every mistake; the values of secrets are not repeated."""
    for mistake in error.errors(include_input=False, include_url=False):
        *tables, key = mistake["loc"] or ("file",)
        where = ".".join(map(str, mistake["loc"])) or "the file"
        if mistake["type"] == "extra_forbidden":
            known = _keys_at(tables)
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
            hint = f", did you mean {near[0]!r}?" if near else f", known: {', '.join(known)}" if known else ""
            yield f"{where}: unknown setting{hint}"
        else:
            yield f"{where}: {_in_words(mistake)}"


def _in_words(mistake: ErrorDetails) -> str:
    """What is wrong with a value, in the file's own terms."""
    kind = mistake["type"]
    if kind == "string_pattern_mismatch":
        return f"expected {_meaning(mistake['loc'])}"
    return _WORDS.get(kind) or mistake["msg"].removeprefix("Value error, ")


def _meaning(path: tuple[int | str, ...]) -> str:
    """What the documentation says of a setting."""
    *tables, key = path
    field = _section_at(tables).model_fields.get(str(key))
    return (field.description if field else None) or "another text"


def _keys_at(tables: list[int | str]) -> list[str]:
    """Settings of the table at a path of keys."""
    return sorted(_section_at(tables).model_fields)


def _section_at(tables: list[int | str]) -> type[BaseModel]:
    """The table at a path of keys; one without settings where there is none."""
    model: Any = Config
    for table in tables:
        field = model.model_fields.get(str(table)) if model is not None else None
        model = None if field is None else _model_in(field.annotation)
    return model or BaseModel


def _model_in(annotation: Any) -> Any:
    """The section that an annotation such as `Section | None` or `tuple[Section, ...]` is about."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part)) is not None), None)
