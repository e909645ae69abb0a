"""Settings of the Kubernetes source."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from rca.settings import DurationNs, Section, SizeBytes
from rca.telemetry import MINUTE_NS, SECOND_NS

_SERVICE_LABELS = ("resource.opentelemetry.io/service.name", "app.kubernetes.io/name")


class KubernetesConfig(Section):
    """Which cluster is read, as whom, and how its pods are told apart as services."""

    kubeconfig: Path | None = Field(
        None,
        description="kubeconfig file; without it the pod's own service account is used, or $KUBECONFIG and ~/.kube/config "
        "outside a cluster",
    )
    context: str | None = Field(None, description="context of the kubeconfig; without it the current one")
    ca_file: Path | None = Field(None, description="certificate authority to trust instead of the one that is configured there")
    namespaces: tuple[str, ...] = Field((), description="namespaces that are read; all if empty")
    exclude_namespaces: tuple[str, ...] = Field((), description="namespaces that are left out when all are read")
    nodes: bool = Field(True, description="read nodes: their conditions, and which pod runs on which; needs a ClusterRole")
    config_maps: bool = Field(True, description="notice when config maps change; their metadata alone is asked for")
    secrets: bool = Field(
        False,
        description="notice when secrets change; their metadata alone is asked for, but the RBAC rule that this takes would let "
        "the account read their content",
    )
    service_labels: tuple[str, ...] = Field(
        _SERVICE_LABELS,
        description="annotations or labels of a pod that name its service: the first counts before OTEL_SERVICE_NAME of its "
        "containers, the others after it; without any, the name of its workload is taken",
    )
    namespaced_services: bool = Field(
        False,
        description="services carry their Kubernetes namespace as service.namespace, as the OpenTelemetry operator sets it; "
        "leave it off if your spans have no service.namespace",
    )
    timeout: DurationNs = Field(5 * SECOND_NS, description="longest wait for a connection, and for the next part of an answer")
    retries: Annotated[int, Field(ge=0, le=10, description="how often a list is asked for again after a failure")] = 2
    concurrency: Annotated[int, Field(ge=1, le=32, description="lists that are asked for at the same time")] = 4
    page_size: Annotated[int, Field(ge=1, le=10_000, description="objects in one part of a list")] = 500
    max_response_bytes: SizeBytes = Field(64 * 2**20, description="largest part of a list, and largest object of a watch")
    event_lifetime: DurationNs = Field(
        60 * MINUTE_NS, description="how long the cluster keeps events (kube-apiserver --event-ttl); before that lies a gap"
    )

    @model_validator(mode="after")
    def _one_choice(self) -> KubernetesConfig:
        if self.namespaces and self.exclude_namespaces:
            raise ValueError("expected namespaces or exclude_namespaces, found both")
        return self
