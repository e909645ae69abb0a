"""Settings of `rca serve`: the table `[serve]` of the configuration file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, model_validator

from rca.collectors.otlp.config import Address, ServerTls
from rca.settings import DurationNs, Section, SizeBytes
from rca.telemetry import MINUTE_NS, SECOND_NS

_HOUR_NS: Final = 60 * MINUTE_NS
_DAY_NS: Final = 24 * _HOUR_NS
_ADDRESS: Final = r"^$|^https?://[^\s@]+$"
_LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")


class ServeLimits(Section):
    """How much `rca serve` takes at once. Beyond it senders are told to come back later (503), and nothing is lost."""

    body: Annotated[SizeBytes, Field(description="largest request; a larger one is refused (413)")] = 32 * 2**20
    pending: Annotated[SizeBytes, Field(description="requests held in memory at once")] = 128 * 2**20
    requests: Annotated[int, Field(ge=1, description="requests under way at once")] = 512
    waiting: Annotated[int, Field(ge=1, description="groups that wait for their first answer")] = 20_000
    read_timeout: Annotated[DurationNs, Field(description="how long the body of a request may take to arrive")] = 20 * SECOND_NS
    retry_after: Annotated[DurationNs, Field(description="how long senders are told to wait")] = 5 * SECOND_NS
    text: Annotated[int, Field(ge=64, description="characters kept of a label or an annotation; the rest is cut, visibly")] = 2048
    labels: Annotated[int, Field(ge=8, description="labels and annotations kept of one alert, each")] = 100


class ServeLinks(Section):
    """Where messages and pages link to, beside what alerts bring along (`runbook_url`, `dashboard_url`, Grafana's own)."""

    trace: Annotated[str, Field(pattern=_ADDRESS, description="a trace, with `{trace_id}` in its place; empty for none")] = ""
    dashboard: Annotated[
        str, Field(pattern=_ADDRESS, description="a dashboard of a service, with `{name}` in its place; empty for none")
    ] = ""
    runbook: Annotated[
        str, Field(pattern=_ADDRESS, description="what to do about an alert, with `{alert}` in its place; empty for none")
    ] = ""


class ServeConfig(Section):
    """How `rca serve` listens, whom it lets in, and how soon it answers."""

    address: Annotated[Address, Field(min_length=1, description="`host:port` to listen on")] = "127.0.0.1:9095"
    external_url: Annotated[
        str,
        Field(
            pattern=_ADDRESS,
            description="address under which people reach it, for links; a path in it is what a proxy in front takes off again; "
            "empty for the address it listens on",
        ),
    ] = ""
    tls: Annotated[ServerTls | None, Field(description="certificate and key; without it, it speaks plain text")] = None
    access_file: Annotated[
        Path | None,
        Field(
            description="who is let in: a line `ROLE NAME SECRET` each, where ROLE is `send` (may post alerts), `read` (may see "
            "all) or `label` (may also say what the cause was), or several, with commas. NAME and SECRET are for basic "
            "authentication, SECRET alone "
            "is a Bearer token. Read again when it changes. Without it everybody is let in, and `address` must be on loopback"
        ),
    ] = None
    audit_file: Annotated[
        Path | None, Field(description="file that every change and every refusal is added to, as a line of JSON")
    ] = None
    deadline: Annotated[DurationNs, Field(description="how long a ranking may take, from the question to the answer")] = (
        20 * SECOND_NS
    )
    revise_after: Annotated[DurationNs, Field(description="how long after an answer to look once more")] = 90 * SECOND_NS
    together: Annotated[
        DurationNs, Field(description="groups that wait at once are ranked together if their alerts began within this time")
    ] = 5 * MINUTE_NS
    silent: Annotated[
        DurationNs, Field(description="a group that nobody told of for so long is over; above Alertmanager's repeat_interval")
    ] = 12 * _HOUR_NS
    keep: Annotated[DurationNs, Field(description="how long alerts and answers are kept; incidents and labels stay")] = (
        90 * _DAY_NS
    )
    maintenance_file: Annotated[
        Path | None,
        Field(description="while this file exists, `rca_serve_maintenance` is 1 and the rules that watch over it are quiet"),
    ] = None
    links: Annotated[ServeLinks, Field(description="where messages and pages link to")] = ServeLinks()
    limits: Annotated[ServeLimits, Field(description="how much is taken at once")] = ServeLimits()

    @model_validator(mode="after")
    def _guarded(self) -> ServeConfig:
        host = self.address.rpartition(":")[0]
        if self.access_file is None and host not in _LOOPBACK:
            raise ValueError(f"expected access_file, or an address on loopback such as 127.0.0.1:9095, found {self.address}")
        if self.limits.body > self.limits.pending:
            raise ValueError("expected limits.pending to hold at least one body, found less")
        return self

    def url(self) -> str:
        """Address under which people reach it, without a slash at its end."""
        return (self.external_url or f"http{'s' if self.tls else ''}://{self.address}").rstrip("/")
