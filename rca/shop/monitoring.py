"""The shop's monitoring: a real Prometheus, Alertmanager and `rca collect`, and the settings that they and `rca` read."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from rca.shop import plan
from rca.shop.folder import RunFolder
from rca.shop.installed import binary

RULES: Final = Path(__file__).parent / "rules.yml"
SCRAPE_S: Final = 5
_PODS_FILE: Final = "pods.json"
_SERVERS_FILE: Final = "servers.json"


@dataclass(frozen=True)
class Ports:
    """Ports of loopback."""

    prometheus: int
    alertmanager: int
    otlp: int
    exporters: int


def write_settings(folder: RunFolder, ports: Ports, kubeconfig: Path) -> None:
    """Everything that Prometheus, Alertmanager and rca read at their start."""
    prometheus, alertmanager = folder.path / "prometheus", folder.path / "alertmanager"
    for place in (prometheus, alertmanager):
        place.mkdir(parents=True, exist_ok=True)
    (prometheus / "prometheus.yml").write_text(yaml.safe_dump(_prometheus(folder, ports), sort_keys=False), encoding="utf-8")
    (alertmanager / "alertmanager.yml").write_text(yaml.safe_dump(_ALERTMANAGER, sort_keys=False), encoding="utf-8")
    for name in (_PODS_FILE, _SERVERS_FILE):
        write_targets(prometheus / name, [])
    folder.config_file.write_text(_rca(folder, ports, kubeconfig), encoding="utf-8")


def prometheus_command(folder: RunFolder, ports: Ports) -> Sequence[str]:
    """What to run."""
    place = folder.path / "prometheus"
    return [
        binary("prometheus"),
        f"--config.file={place / 'prometheus.yml'}",
        f"--storage.tsdb.path={place / 'data'}",
        "--storage.tsdb.retention.time=12h",
        "--log.level=warn",
        f"--web.listen-address=127.0.0.1:{ports.prometheus}",
    ]


def alertmanager_command(folder: RunFolder, ports: Ports) -> Sequence[str]:
    """What to run."""
    place = folder.path / "alertmanager"
    return [
        binary("prometheus-alertmanager"),
        f"--config.file={place / 'alertmanager.yml'}",
        f"--storage.path={place / 'data'}",
        "--cluster.listen-address=",
        "--log.level=warn",
        f"--web.listen-address=127.0.0.1:{ports.alertmanager}",
    ]


def collect_command(folder: RunFolder) -> Sequence[str]:
    """What to run."""
    return [sys.executable, "-m", "rca", "collect", "--config", str(folder.config_file)]


def pod_targets(folder: RunFolder, pods: Iterable[tuple[str, str, str, int]]) -> None:
    """Tell Prometheus of pods: (pod, workload, node, admin port) each, with the labels that its Kubernetes discovery gives."""
    groups = [
        {"targets": [f"127.0.0.1:{port}"], "labels": {"namespace": plan.NAMESPACE, "pod": pod, "node": node, "app": workload}}
        for pod, workload, node, port in pods
    ]
    write_targets(folder.path / "prometheus" / _PODS_FILE, groups)


def write_targets(path: Path, groups: Sequence[Mapping[str, Any]]) -> None:
    """A file of Prometheus' file discovery."""
    text = json.dumps(groups, indent=1)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        temporary = path.with_suffix(".new")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)


_ALERTMANAGER: Final = {
    "route": {"receiver": "nobody", "group_by": ["alertname"], "group_wait": "5s", "group_interval": "10s"},
    "receivers": [{"name": "nobody"}],
}


def _prometheus(folder: RunFolder, ports: Ports) -> dict[str, Any]:
    place = folder.path / "prometheus"
    exporters = f"127.0.0.1:{ports.exporters}"

    def exporter(job: str, path: str, *, honor_labels: bool = True, **labels: str) -> dict[str, Any]:
        static = {"targets": [exporters], "labels": labels}
        return {"job_name": job, "metrics_path": path, "honor_labels": honor_labels, "static_configs": [static]}

    nodes = [
        exporter(f"node-exporter/{node}", f"/metrics/node/{node}", node=node, instance=f"{node}:9100") for node in plan.NODES
    ]
    for job in nodes:
        job["relabel_configs"] = [{"target_label": "job", "replacement": "node-exporter"}]
    return {
        "global": {"scrape_interval": f"{SCRAPE_S}s", "evaluation_interval": f"{SCRAPE_S}s", "scrape_timeout": "4s"},
        "rule_files": [str(RULES)],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{ports.alertmanager}"]}]}]},
        "scrape_configs": [
            {
                "job_name": "kubernetes-pods",
                "file_sd_configs": [{"files": [str(place / _PODS_FILE)], "refresh_interval": "1m"}],
                "metric_relabel_configs": [
                    {
                        "source_labels": ["__name__"],
                        "regex": "(python_gc_|python_info|.*_created|process_(start|max|virtual)).*",
                        "action": "drop",
                    }
                ],
            },
            exporter("cadvisor", "/metrics/cadvisor"),
            exporter("kube-state-metrics", "/metrics/kube-state"),
            exporter("servers", "/metrics/servers"),
            *nodes,
        ],
    }


def _rca(folder: RunFolder, ports: Ports, kubeconfig: Path) -> str:
    """`rca.toml`. The home of `rca collect` is the run folder's own."""
    from rca.collectors.template import toml_value

    tables: dict[str, dict[str, Any]] = {
        "triage": {"system": plan.SYSTEM, "baseline": "10m", "lag": "15s"},
        "stream": {"join_wait": "5s", "join_limit": "30s"},
        "store": {"folder": str(folder.store), "flush_interval": "5s"},
        "otlp": {"grpc_address": "", "http_address": f"127.0.0.1:{ports.otlp}"},
        "prometheus": {
            "url": f"http://127.0.0.1:{ports.prometheus}",
            "scrape_interval": f"{SCRAPE_S}s",
            "step": "10s",
            "rate_window": "20s",
        },
        "alertmanager": {"url": f"http://127.0.0.1:{ports.alertmanager}"},
        "kubernetes": {"kubeconfig": str(kubeconfig), "namespaces": [plan.NAMESPACE]},
    }
    lines = []
    for table, settings in tables.items():
        lines += [f"[{table}]", *(f"{key} = {toml_value(value)}" for key, value in settings.items()), ""]
    return "\n".join(lines)
