"""What a pod is told at start: its names and ports from the environment, version, behaviour and settings from its release."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rca.errors import BadInput, UnknownName
from rca.shop import plan


class Settings(BaseModel):
    """What operators may set, rightly or wrongly. None means what rca.shop.plan says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    names: dict[str, str] = {}
    """Names under which to call others instead of their own, such as {"cart": "cart-v2"}."""
    timeout_ms: float = Field(default=2000, gt=0)
    retries: int = Field(default=0, ge=0)
    threads: int | None = Field(default=None, ge=1)
    connections: int | None = Field(default=None, ge=1)
    connection_wait_ms: float = Field(default=1000, gt=0)
    database_name: str = plan.DATABASE
    database_user: str = "shop"
    database_password: str = "shop"
    statement_timeout_ms: int = Field(default=1800, ge=0)
    cache_seconds: int = Field(default=30, ge=0)
    cache_timeout_ms: float = Field(default=1000, gt=0)
    payment_key: str = "test-key"


class Release(BaseModel):
    """A version with its behaviour (faults from the start, by name) and settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str = "1.0.0"
    behaviour: dict[str, dict[str, Any]] = {}
    configuration: Settings = Settings()

    @classmethod
    def read(cls, path: Path) -> Release:
        """The release that a file describes; the first one where there is no file. Raises BadInput."""
        if not path.exists():
            return cls()
        try:
            return cls.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except (json.JSONDecodeError, ValidationError) as error:
            raise BadInput(str(path), expected='a release {"version", "behaviour", "configuration"}', found=str(error)) from error


@dataclass(frozen=True)
class Pod:
    """One process of a workload."""

    workload: plan.Workload
    name: str
    node: str
    folder: Path
    port: int
    admin_port: int
    otlp_endpoint: str | None
    release: Release

    @classmethod
    def from_environment(cls, workload: str, environment: Mapping[str, str] = os.environ) -> Pod:
        """The pod that the environment describes. Raises UnknownName and BadInput."""
        if workload not in plan.SERVICES:
            raise UnknownName("workload", workload, plan.SERVICES)
        found = {
            name: environment.get(name) for name in ("POD_NAME", "NODE_NAME", "SHOP_POD_DIR", "SHOP_PORT", "SHOP_ADMIN_PORT")
        }
        missing = [name for name, value in found.items() if not value]
        if missing:
            raise BadInput("environment", expected=", ".join(found), found=f"no {', '.join(missing)}")
        name, node, folder, port, admin_port = map(str, found.values())
        return cls(
            plan.WORKLOADS[workload],
            name,
            node,
            Path(folder),
            int(port),
            int(admin_port),
            environment.get("OTEL_EXPORTER_OTLP_ENDPOINT"),
            Release.read(Path(folder) / "release.json"),
        )

    @property
    def settings(self) -> Settings:
        return self.release.configuration

    @property
    def threads(self) -> int:
        """Requests that it handles at once."""
        return self.settings.threads or self.workload.threads

    @property
    def connections(self) -> int:
        """Most connections to PostgreSQL."""
        return self.settings.connections or self.workload.connections
