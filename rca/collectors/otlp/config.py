"""Settings of the OTLP receiver: the table `[otlp]` of the configuration file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, model_validator

from rca.settings import DurationNs, Section, SizeBytes
from rca.telemetry import MINUTE_NS, SECOND_NS


def _has_a_port(address: str) -> str:
    if address and int(address.rpartition(":")[2]) > _LAST_PORT:
        raise ValueError(f"expected `host:port` with a port up to {_LAST_PORT}, found {address!r}")
    return address


_LAST_PORT: Final = 65_535
Address = Annotated[str, Field(pattern=r"^$|^(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):\d{1,5}$"), AfterValidator(_has_a_port)]
"""`host:port`, or empty for a listener that is not wanted."""


class ServerTls(Section):
    """The certificate that the listeners show, and whose clients they let in."""

    cert_file: Path = Field(description="Certificate chain that both listeners show, PEM.")
    key_file: Path = Field(description="Private key of that certificate, PEM.")
    client_ca_file: Path | None = Field(
        None, description="Certificates of authorities, PEM. Clients must then show a certificate that one of them signed."
    )


class OtlpConfig(Section):
    """Where telemetry is received, who may send it, and how much of it."""

    grpc_address: Address = Field("127.0.0.1:4317", description="`host:port` for OTLP over gRPC; empty turns it off.")
    http_address: Address = Field("127.0.0.1:4318", description="`host:port` for OTLP over HTTP; empty turns it off.")
    tls: ServerTls | None = Field(None, description="Certificate and key; without it the listeners speak plain text.")
    tokens_file: Path | None = Field(
        None,
        description="File with the Bearer tokens that let a sender in, one a line. It is read again when it changes, so that "
        "tokens can be rotated. Without it everybody who reaches the listeners may send.",
    )
    max_body_bytes: SizeBytes = Field(64 * 2**20, description="Largest request, counted after decompression.")
    max_pending_bytes: SizeBytes = Field(
        256 * 2**20, description="Requests held in memory, read or waiting; beyond it senders are told to come back later."
    )
    max_batch_bytes: SizeBytes = Field(8 * 2**20, description="Waiting requests are decoded together up to this size.")
    max_attributes: Annotated[int, Field(ge=1, le=10_000)] = Field(
        128, description="Attributes read of one span; the others are counted and left out."
    )
    max_text_length: Annotated[int, Field(ge=16, le=100_000)] = Field(
        1024, description="Characters kept of a name or an attribute's value; longer ones are counted and cut."
    )
    read_attributes: Literal["calls", "all"] = Field(
        "calls",
        description="Whose attributes are read: `calls` are client, producer and consumer spans, whose attributes name what is "
        "called; `all` also finds HTTP 5xx of server spans whose status their instrumentation left unset, and is slower.",
    )
    max_skew: DurationNs = Field(
        10 * MINUTE_NS, description="Telemetry whose time is further ahead than this is rejected: a clock is wrong."
    )
    max_age: DurationNs = Field(60 * MINUTE_NS, description="Telemetry that is older than this is rejected.")
    max_series_bytes: SizeBytes = Field(
        256 * 2**20, description="Memory for the last values of cumulative metrics, about; the stalest series go first."
    )
    max_templates: Annotated[int, Field(ge=10)] = Field(
        200, description="Log templates kept for one service; when there are more, they are made coarser."
    )
    retry_after: DurationNs = Field(SECOND_NS, description="How long senders are told to wait when there is no room.")
    shutdown_grace: DurationNs = Field(5 * SECOND_NS, description="Time for requests under way to finish at the end.")

    @model_validator(mode="after")
    def _listens(self) -> OtlpConfig:
        if not self.grpc_address and not self.http_address:
            raise ValueError("expected grpc_address or http_address, found both empty")
        if self.max_batch_bytes > self.max_pending_bytes or self.max_body_bytes > self.max_pending_bytes:
            raise ValueError("expected max_pending_bytes to hold at least one batch and one body, found less")
        return self
