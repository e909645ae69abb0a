"""The shop's Kubernetes API server as tests need it: it records what is asked, refuses, and fails in the ways of a real one."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rca.shop.supervisor import kubernetes_api as served
from rca.shop.supervisor.kubernetes_api import Asked, refusal, stamp

TOKEN = "loopback-token"

__all__ = ["TOKEN", "Asked", "Faults", "KubernetesApi", "refusal", "stamp"]


@dataclass
class Faults:
    """What goes wrong, until it is set back. Keys are resource names; a count is how many requests still fail.

    A delay may be for a verb alone: `watch jobs`.
    """

    status: dict[str, int] = field(default_factory=dict)
    times: dict[str, int] = field(default_factory=dict)
    garbage: set[str] = field(default_factory=set)
    endless: set[str] = field(default_factory=set)
    delay_seconds: dict[str, float] = field(default_factory=dict)
    forbidden: set[tuple[str, str]] = field(default_factory=set)
    unwatchable: set[str] = field(default_factory=set)
    gone_in_stream: bool = False
    expire_continue: int = 0


class KubernetesApi(served.KubernetesApi):
    """The server with its faults, and what it was asked."""

    poll_s = 0.05

    def __init__(self, tls: tuple[Path, Path] | None = None) -> None:
        self.faults = Faults()
        self.asked: list[Asked] = []
        super().__init__({TOKEN}, tls=tls)

    def handler(self) -> type[served.Handler]:
        return _Handler

    def __enter__(self) -> KubernetesApi:
        self.start()
        return self

    def kubeconfig(self, folder: Path, token: str = TOKEN, ca_file: Path | None = None) -> Path:
        """A kubeconfig file with the contexts `loopback` and, at an address where nobody listens, `nowhere`."""
        path = folder / "kubeconfig"
        self.write_kubeconfig(path, token, ca_file)
        return path

    def page(self, asked: Asked) -> tuple[int, dict[str, Any]]:
        if asked.params.get("continue") is not None and self.faults.expire_continue > 0:
            self.faults.expire_continue -= 1
            return 410, refusal(410, "Expired", "The provided continue parameter is too old")
        return super().page(asked)

    def faulty_status(self, name: str) -> int | None:
        status = self.faults.status.get(name) or self.faults.status.get("*")
        if status is None:
            return None
        key = name if name in self.faults.times else "*"
        if key in self.faults.times:
            if self.faults.times[key] <= 0:
                return None
            self.faults.times[key] -= 1
        return status


class _Handler(served.Handler):
    @property
    def api(self) -> KubernetesApi:
        api = self.server.api
        assert isinstance(api, KubernetesApi)
        return api

    def asked(self, asked: Asked) -> None:
        api, verb, name = self.api, asked.verb, asked.name
        api.asked.append(asked)
        self.broken.wait(api.faults.delay_seconds.get(f"{verb} {name}", api.faults.delay_seconds.get(name, 0.0)))
        status = api.faulty_status(name)
        if not self.is_known():
            super().asked(asked)
        elif {(asked.group, name), ("*", name)} & api.faults.forbidden or (verb == "watch" and name in api.faults.unwatchable):
            words = f'{name} is forbidden: User "reader" cannot {verb} resource "{name}" in API group "{asked.group}"'
            self.answer(403, refusal(403, "Forbidden", words))
        elif status is not None:
            self.answer(status, refusal(status, "InternalError", "etcdserver: request timed out"))
        else:
            super().asked(asked)

    def list(self, asked: Asked) -> None:
        if asked.name in self.api.faults.garbage:
            self.answer(200, b'<html>proxy says no {"items": [')
        elif asked.name in self.api.faults.endless:
            self.begin()
            while not self.broken.is_set():
                self.chunk(b" " * 2**16)
        else:
            super().list(asked)

    def watch(self, asked: Asked) -> None:
        if not (self.api.is_gone(asked) and self.api.faults.gone_in_stream):
            super().watch(asked)
            return
        self.begin()
        event = {"type": "ERROR", "object": refusal(410, "Expired", "too old resource version: 1 (2)")}
        self.chunk(json.dumps(event).encode() + b"\n")
        self.chunk(b"")
