"""What collectors/ ships: checked by the real tools where there are any, against our own code where it is about us.

No Collector and no container engine is at hand: their files are parsed and held against each other.
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import textwrap
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from rca import __version__
from rca.cli.main import app
from rca.collectors.alert_labels import entity_of
from rca.collectors.config import Config, load_config
from rca.collectors.kubernetes.collector import KubernetesCollector
from rca.collectors.kubernetes.config import KubernetesConfig
from rca.deviations.alerts import alert_signal
from rca.gameday.chaos_mesh import resources_of
from rca.serve.app import ALERTS_PATH
from rca.settings import size_bytes
from rca.sinks.destinations import sinks_of
from rca.telemetry import EntityId
from tests.servers.kubernetes_api import KubernetesApi
from tests.servers.prometheus import binary

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "collectors"
MANIFESTS = FOLDER / "kubernetes"
SERVING = FOLDER / "kubernetes-serve"

Body = dict[str, Any]


def documents(path: Path) -> list[Body]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def one(kind: str, path: Path) -> Body:
    return next(body for body in documents(path) if body["kind"] == kind)


def ran(*command: str, folder: Path) -> str:
    """Output of a tool; fails with it if the tool is not content."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


# --- Prometheus and Alertmanager ------------------------------------------------------------------------------------------


def test_rules() -> None:
    promtool = binary("promtool")
    output = ran(promtool, "check", "rules", "recording.rules.yml", "alerts.rules.yml", folder=FOLDER / "prometheus")
    assert "4 rules found" in output
    assert "6 rules found" in output


def test_alerts_fire_on_their_symptom() -> None:
    assert "SUCCESS" in ran(binary("promtool"), "test", "rules", "alerts.test.yml", folder=FOLDER / "prometheus")


def test_prometheus_configuration(tmp_path: Path) -> None:
    """Debian builds Prometheus without Kubernetes' service discovery: those jobs get static targets for the check."""
    body = yaml.safe_load((FOLDER / "prometheus/prometheus.yml").read_text())
    for job in body["scrape_configs"]:
        if job.pop("kubernetes_sd_configs", None):
            job["static_configs"] = [{"targets": ["localhost:9"]}]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(body))
    ran(binary("promtool"), "check", "config", "--syntax-only", "prometheus.yml", folder=tmp_path)
    assert all((FOLDER / "prometheus" / name).is_file() for name in body["rule_files"])


def alerts() -> Iterator[Body]:
    for group in yaml.safe_load((FOLDER / "prometheus/alerts.rules.yml").read_text())["groups"]:
        yield from group["rules"]


def test_every_alert_is_tested_and_named_for_what_it_is_about() -> None:
    cases = yaml.safe_load((FOLDER / "prometheus/alerts.test.yml").read_text())["tests"]
    tested = [test for case in cases for test in case["alert_rule_test"] if test["exp_alerts"]]
    assert {test["alertname"] for test in tested} == {alert["alert"] for alert in alerts()}
    for test in tested:
        labels = {"alertname": test["alertname"], **test["exp_alerts"][0]["exp_labels"]}
        assert entity_of(labels) == EntityId("service", labels["service"])
    assert {alert["alert"]: alert_signal(alert["alert"]) for alert in alerts()} == {
        "ServiceErrorRatioHigh": "alert_errors_in",
        "ServiceLatencyHigh": "alert_latency_in",
        "ServiceTrafficDropped": "alert_traffic_in",
        "ServiceMemoryNearLimit": "alert_memory",
        "ServiceCpuThrottled": "alert_cpu",
        "ServiceRestarts": "alert_other",
    }


def test_alertmanager_configuration() -> None:
    assert "SUCCESS" in ran(binary("amtool"), "check-config", "alertmanager.yml", folder=FOLDER / "alertmanager")


# --- OpenTelemetry Collector ------------------------------------------------------------------------------------------------


def collector() -> Body:
    body: Body = yaml.safe_load((FOLDER / "opentelemetry/collector.yaml").read_text())
    return body


@pytest.mark.parametrize("where", ["collectors/alertmanager/alertmanager.yml", "docs/serve.md"])
def test_nobody_stops_hearing_of_alerts_because_rca_does(where: str, tmp_path: Path) -> None:
    """Alertmanager falls back to the receiver on top only where no route took an alert."""
    text = (ROOT / where).read_text()
    if where.endswith(".md"):
        (block,) = re.findall(r"(?m)(^ {7}route:\n(?: {7}.*\n)+)", text)
        text = textwrap.dedent(block)
    (tmp_path / "alertmanager.yml").write_text(text)
    told = ran(binary("amtool"), "config", "routes", "test", "--config.file=alertmanager.yml", "severity=page", folder=tmp_path)
    assert "rca,on-call" in told.splitlines()
    assert "SUCCESS" in ran(binary("amtool"), "check-config", "alertmanager.yml", folder=tmp_path)


def test_collector_pipelines_are_wired() -> None:
    """Everything that is used is defined, everything that is defined is used, and connectors join two pipelines."""
    body = collector()
    pipelines = body["service"]["pipelines"].values()
    used = {part: {name for pipeline in pipelines for name in pipeline.get(part, ())} for part in ("receivers", "exporters")}
    connectors = set(body["connectors"])
    assert used["receivers"] == set(body["receivers"]) | connectors
    assert used["exporters"] == set(body["exporters"]) | connectors
    assert {name for pipeline in pipelines for name in pipeline.get("processors", ())} == set(body["processors"])
    assert set(body["service"]["extensions"]) == set(body["extensions"])


def test_rca_gets_spans_before_they_are_sampled_and_after_their_pod_is_known() -> None:
    for name, pipeline in collector()["service"]["pipelines"].items():
        if "otlp_grpc/rca" in pipeline["exporters"]:
            processors = pipeline["processors"]
            assert "tail_sampling" not in processors, name
            assert processors.index("memory_limiter") == 0
            assert processors.index("k8s_attributes") < processors.index("batch")
    exporter = collector()["exporters"]["otlp_grpc/rca"]
    assert exporter["compression"] == "gzip"
    assert exporter["headers"] == {"authorization": "Bearer ${env:OTEL_RCA_TOKEN}"}
    assert exporter["retry_on_failure"]["enabled"]
    assert exporter["sending_queue"]["enabled"]
    assert {"k8s.pod.name", "k8s.node.name"} <= set(collector()["processors"]["k8s_attributes"]["extract"]["metadata"])


def test_rules_read_the_span_metrics_that_the_pipeline_makes() -> None:
    """`traces.span.metrics` in seconds becomes these names in Prometheus; they are in rca's map, too."""
    connector = collector()["connectors"]["spanmetrics"]
    prefix = connector["namespace"].replace(".", "_")
    assert connector["histogram"]["unit"] == "s"
    rules = (FOLDER / "prometheus/recording.rules.yml").read_text()
    read = set(re.findall(r"\b(traces_\w+?)(?=\{)", rules))
    assert read == {f"{prefix}_calls_total", f"{prefix}_duration_seconds_bucket"}
    known = (ROOT / "rca/collectors/prometheus/map.toml").read_text()
    assert f'"{prefix}_duration_seconds"' in known


# --- Kubernetes ---------------------------------------------------------------------------------------------------------------


def rights(path: Path, kind: str = "ClusterRole") -> set[tuple[str, str, str]]:
    """(verb, group, resource) that a role allows."""
    return {
        (verb, group, resource)
        for rule in one(kind, path)["rules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def requests_of(api: KubernetesApi, config: KubernetesConfig) -> set[tuple[str, str, str]]:
    """(verb, group, resource) of every request that collecting, checking and watching make."""
    reader = KubernetesCollector(config)
    now = time.time_ns()
    reader.collect(now - 10**9, now)
    reader.check()
    with reader.watch(lambda telemetry: None) as running:
        deadline = time.monotonic() + 10
        while not running.in_sight():
            assert time.monotonic() < deadline
            time.sleep(0.02)
    return {(asked.verb, asked.group, asked.name) for asked in api.asked}


def test_rights_are_exactly_what_is_asked_for(kubernetes_api: KubernetesApi, tmp_path: Path) -> None:
    settings = load_config(MANIFESTS / "rca.toml").kubernetes
    assert settings is not None
    reader = settings.model_copy(update={"kubeconfig": kubernetes_api.kubeconfig(tmp_path)})
    assert requests_of(kubernetes_api, reader) == rights(MANIFESTS / "rbac.yaml")
    with_secrets = reader.model_copy(update={"secrets": True})
    expected = rights(MANIFESTS / "rbac.yaml") | rights(MANIFESTS / "rbac-secrets.yaml")
    assert requests_of(kubernetes_api, with_secrets) == expected


def test_rights_in_one_namespace(kubernetes_api: KubernetesApi, tmp_path: Path) -> None:
    path = MANIFESTS / "rbac-namespaced.yaml"
    namespace = one("Role", path)["metadata"]["namespace"]
    config = KubernetesConfig(kubeconfig=kubernetes_api.kubeconfig(tmp_path), namespaces=(namespace,), nodes=False)
    assert requests_of(kubernetes_api, config) == rights(path, "Role")
    assert {asked.namespace for asked in kubernetes_api.asked} == {namespace}


def test_rights_of_what_chaos_mesh_injected(kubernetes_api: KubernetesApi, tmp_path: Path) -> None:
    resources_of(KubernetesConfig(kubeconfig=kubernetes_api.kubeconfig(tmp_path)))
    asked = {(asked.verb, asked.group, asked.name) for asked in kubernetes_api.asked}
    assert asked - rights(MANIFESTS / "rbac.yaml") == rights(MANIFESTS / "rbac-chaos-mesh.yaml")


@pytest.mark.parametrize("name", ["rbac.yaml", "rbac-namespaced.yaml", "rbac-secrets.yaml", "rbac-chaos-mesh.yaml"])
def test_roles_are_bound_to_the_account_that_runs(name: str) -> None:
    *_, role, binding = documents(MANIFESTS / name)
    account = one("ServiceAccount", MANIFESTS / "service-account.yaml")["metadata"]["name"]
    namespace = one("Namespace", MANIFESTS / "namespace.yaml")["metadata"]["name"]
    assert binding["roleRef"] == {"apiGroup": "rbac.authorization.k8s.io", "kind": role["kind"], "name": role["metadata"]["name"]}
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": namespace}]
    assert pod()["serviceAccountName"] == account


def pod() -> Body:
    spec: Body = one("Deployment", MANIFESTS / "deployment.yaml")["spec"]["template"]["spec"]
    return spec


def container() -> Body:
    (body,) = pod()["containers"]
    return dict(body)


def config_in_the_pod() -> Config:
    """The configuration as the container reads it: by $RCA_CONFIG, from the mounted config map."""
    (variable,) = container()["env"]
    path = Path(variable["value"])
    mount = next(mount for mount in container()["volumeMounts"] if mount["mountPath"] == str(path.parent))
    volume = next(volume for volume in pod()["volumes"] if volume["name"] == mount["name"])
    (generated,) = one("Kustomization", MANIFESTS / "kustomization.yaml")["configMapGenerator"]
    assert variable["name"] == "RCA_CONFIG"
    assert (volume["configMap"]["name"], path.name) == (generated["name"], generated["files"][0])
    return load_config(MANIFESTS / path.name)


def test_the_pod_cannot_do_more_than_it_has_to() -> None:
    assert pod()["securityContext"]["runAsNonRoot"]
    assert pod()["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container()["securityContext"] == {
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert set(container()["resources"]) == {"requests", "limits"}
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container())
    assert (
        one("Namespace", MANIFESTS / "namespace.yaml")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    )


def test_the_command_of_the_pod_is_ours() -> None:
    done = CliRunner().invoke(app, [*container()["args"], "--help"])
    assert done.exit_code == 0
    assert "Receive OTLP" in done.output


def test_configuration_ports_and_volumes_agree() -> None:
    config = config_in_the_pod()
    assert config.otlp is not None
    assert config.store is not None
    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
    listening = {"otlp-grpc": config.otlp.grpc_address, "otlp-http": config.otlp.http_address}
    assert {name: f"0.0.0.0:{port}" for name, port in ports.items()} == listening
    service = one("Service", MANIFESTS / "service.yaml")["spec"]
    assert {port["targetPort"]: port["port"] for port in service["ports"]} == ports
    labels = one("Deployment", MANIFESTS / "deployment.yaml")["spec"]["template"]["metadata"]["labels"]
    policy = one("NetworkPolicy", MANIFESTS / "network-policy.yaml")["spec"]
    assert service["selector"] == labels == policy["podSelector"]["matchLabels"]
    assert [port["port"] for port in policy["ingress"][0]["ports"]] == list(ports.values())
    mounts = {mount["mountPath"]: mount for mount in container()["volumeMounts"]}
    assert str(config.store.folder) in mounts
    assert str(config.otlp.tokens_file).startswith(tuple(f"{path}/" for path, mount in mounts.items() if mount.get("readOnly")))
    assert {mount["name"] for mount in mounts.values()} == {volume["name"] for volume in pod()["volumes"]}
    nested = [path for path in mounts for other in mounts if path != other and path.startswith(other + "/")]
    assert nested == []  # nothing can be mounted inside a config map
    assert one("Deployment", MANIFESTS / "deployment.yaml")["spec"]["replicas"] == 1  # the store has one writer


def test_limits_are_larger_than_what_the_configuration_allows() -> None:
    config = config_in_the_pod()
    assert config.otlp is not None
    assert config.store is not None
    storage = one("PersistentVolumeClaim", MANIFESTS / "volume.yaml")["spec"]["resources"]["requests"]["storage"]
    assert config.store.max_bytes < size_bytes(f"{storage}B")
    assert 2 * (config.stream.max_open_bytes + config.otlp.max_pending_bytes) < size_bytes(
        f"{container()['resources']['limits']['memory']}B"
    )


def test_kustomize_renders_it() -> None:
    """A real kubectl, where there is one, puts everything together."""
    kubectl = shutil.which("kubectl")
    kustomization = one("Kustomization", MANIFESTS / "kustomization.yaml")
    assert all((MANIFESTS / name).is_file() for name in kustomization["resources"])
    if kubectl is None:
        return
    rendered = list(yaml.safe_load_all(ran(kubectl, "kustomize", ".", folder=MANIFESTS)))
    kinds = sorted(body["kind"] for body in rendered)
    assert kinds == sorted(
        [
            *("Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding"),
            *("PersistentVolumeClaim", "ConfigMap", "Deployment", "Service", "NetworkPolicy"),
        ]
    )
    config_map = next(body for body in rendered if body["kind"] == "ConfigMap")
    deployed = next(body for body in rendered if body["kind"] == "Deployment")["spec"]["template"]["spec"]
    assert tomllib.loads(config_map["data"]["rca.toml"])
    names = [volume["configMap"]["name"] for volume in deployed["volumes"] if "configMap" in volume]
    assert names == [config_map["metadata"]["name"]]
    assert deployed["containers"][0]["image"] == f"registry.example.com/rca:{__version__}"


# --- Kubernetes, with rca serve ----------------------------------------------------------------------------------------------


def serving_pod() -> Body:
    """The pod with what is added to it, as a strategic merge puts it together: lists by name."""
    added = one("Deployment", SERVING / "deployment.yaml")["spec"]["template"]["spec"]
    lists = {name: {each["name"]: each for each in (*pod()[name], *added[name])} for name in ("containers", "volumes")}
    return {**pod(), **{name: list(each.values()) for name, each in lists.items()}}


def serving_container() -> Body:
    return dict(next(each for each in serving_pod()["containers"] if each["name"] == "serve"))


def test_both_containers_may_do_the_same_and_share_the_store() -> None:
    first, second = container(), serving_container()
    assert first["securityContext"] == second["securityContext"]
    assert set(second["resources"]) == {"requests", "limits"}
    mounted = {each["name"]: each["mountPath"] for each in second["volumeMounts"]}
    assert (
        mounted.items() >= {each["name"]: each["mountPath"] for each in first["volumeMounts"] if each["name"] != "tokens"}.items()
    )
    assert set(mounted) <= {volume["name"] for volume in serving_pod()["volumes"]}
    done = CliRunner().invoke(app, [*second["args"], "--help"])
    assert done.exit_code == 0
    assert "Take alerts from Alertmanager" in done.output


def test_serving_is_configured_as_it_is_deployed() -> None:
    config = load_config(SERVING / "rca.toml")
    alone = load_config(MANIFESTS / "rca.toml")
    assert (config.store, config.otlp, config.kubernetes) == (alone.store, alone.otlp, alone.kubernetes)
    second = serving_container()
    (port,) = second["ports"]
    assert config.serve.address == f"0.0.0.0:{port['containerPort']}"
    (served,) = one("Service", SERVING / "service.yaml")["spec"]["ports"]
    policy = one("NetworkPolicy", SERVING / "network-policy.yaml")["spec"]
    assert (served["targetPort"], served["port"]) == (port["name"], port["containerPort"])
    assert [each["port"] for each in policy["ingress"][0]["ports"]] == [port["containerPort"]]
    assert {second[probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")} == {"/healthz"}
    secrets = next(each["mountPath"] for each in second["volumeMounts"] if each["name"] == "serve")
    files = [str(config.serve.access_file), *(str(table["bot_token_file"]) for table in config.sinks.values())]
    assert all(path.startswith(f"{secrets}/") for path in files)
    assert config.store is not None
    kept = (config.serve.audit_file, config.serve.maintenance_file)
    assert all(path is not None and path.parent == config.store.folder for path in kept)
    assert len(sinks_of(config.sinks)) == 1
    receiver = yaml.safe_load((FOLDER / "alertmanager/alertmanager.yml").read_text())["receivers"][-1]
    assert receiver["webhook_configs"][0]["url"] == f"http://rca.rca.svc:{served['port']}{ALERTS_PATH}"


def test_kustomize_renders_serving() -> None:
    """A real kubectl, where there is one."""
    kubectl = shutil.which("kubectl")
    assert (SERVING / one("Kustomization", SERVING / "kustomization.yaml")["resources"][0]).resolve() == MANIFESTS.resolve()
    if kubectl is None:
        return
    rendered = list(yaml.safe_load_all(ran(kubectl, "kustomize", ".", folder=SERVING)))
    deployed = next(body for body in rendered if body["kind"] == "Deployment")["spec"]["template"]["spec"]
    assert {each["name"]: each["image"] for each in deployed["containers"]} == dict.fromkeys(
        ("rca", "serve"), f"registry.example.com/rca:{__version__}"
    )
    config_map = next(volume["configMap"]["name"] for volume in deployed["volumes"] if volume["name"] == "config")
    assert config_map.startswith("rca-serve-")
    text = next(body for body in rendered if body["metadata"]["name"] == config_map)["data"]["rca.toml"]
    assert text == (SERVING / "rca.toml").read_text()
    service = next(body for body in rendered if body["kind"] == "Service")["spec"]
    assert {port["name"]: port["port"] for port in service["ports"]} == {"otlp-grpc": 4317, "otlp-http": 4318, "serve": 9095}
    assert {body["metadata"].get("namespace", "rca") for body in rendered} == {"rca"}


# --- the image ----------------------------------------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n\s*", "", (FOLDER / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines]


def test_dockerfile_is_pinned_small_and_not_root() -> None:
    found = instructions()
    bases = [argument.split()[0] for name, argument in found if name == "FROM"]
    assert len(bases) == 2
    assert all(re.fullmatch(r"python:3\.11\.\d+-slim-bookworm", base) for base in bases)
    user = next(argument for name, argument in found if name == "USER")
    assert user == f"{pod()['securityContext']['runAsUser']}:{pod()['securityContext']['runAsGroup']}"
    assert [ast.literal_eval(argument) for name, argument in found if name in ("ENTRYPOINT", "CMD")] == [
        ["rca"],
        container()["args"],
    ]
    installed = " ".join(argument for name, argument in found if name == "RUN")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "[gnn" not in installed
    assert not [package for package in project["dependencies"] if package.startswith(("torch", "dgl"))]


def test_dockerfile_copies_what_there_is_and_what_the_wheel_needs() -> None:
    copied = [argument.split()[:-1] for name, argument in instructions() if name == "COPY" and not argument.startswith("--from")]
    names = {name for part in copied for name in part}
    assert all((ROOT / name).exists() for name in names)
    assert {"pyproject.toml", "README.md", "LICENSE", "rca"} <= names
    let_in = {line[1:] for line in (FOLDER / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")}
    assert let_in == names


def test_readme_names_every_file() -> None:
    text = (FOLDER / "README.md").read_text()
    files = [path for path in FOLDER.rglob("*") if path.is_file() and path.suffix in (".yaml", ".yml", ".toml")]
    unnamed = [path.name for path in files if path.name not in text and path.parent not in (MANIFESTS, SERVING)]
    assert unnamed in ([], ["alerts.test.yml"])
    assert all(path.name in text for path in (FOLDER / "grafana").iterdir())
