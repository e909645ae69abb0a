"""The configuration file, `rca.toml`: one table for every source. Unknown keys are refused with the nearest known one."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field, ValidationError

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
from rca.settings import DurationNs, Section, mistakes
from rca.telemetry import MINUTE_NS, SECOND_NS

FILE_NAME: Final = "rca.toml"
_TABLE: Final = re.compile(r"\s*\[([^\[\]]+)\]\s*(#.*)?$")


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


class TrainingRules(Section):
    """When `rca models due` and `rca train --if-due` say that it is time to train again: as soon as one of these is met."""

    labels: Annotated[int, Field(ge=1, description="so many incidents with a label that the model in use did not learn from")] = (
        20
    )
    every: Annotated[DurationNs, Field(description="the model in use is that old, and there is a new label at least")] = (
        30 * 24 * 60 * MINUTE_NS
    )
    drift: Annotated[
        bool, Field(description="the last 30 days look unlike what the model in use was trained on, and there is a new label")
    ] = True


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
    training: TrainingRules = TrainingRules()
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
        raise BadInput(where, expected=_expected_toml(text), found=str(error)) from None
    except ValidationError as error:
        raise BadInput(where, expected="settings of docs/configuration.md", found="; ".join(mistakes(error, Config))) from None


def _expected_toml(text: str) -> str:
    """What the text should have been; a table that stands there twice is named, which the parser's own words hardly do."""
    heads: dict[str, list[int]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if found := _TABLE.match(line):
            heads.setdefault(found[1].strip(), []).append(number)
    twice = [f"one table [{name}], not one in line {' and '.join(map(str, at))}" for name, at in heads.items() if len(at) > 1]
    return f"TOML with {', '.join(twice)}" if twice else "TOML"
