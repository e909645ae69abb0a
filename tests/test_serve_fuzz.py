"""The API, fuzzed from its own description: the answer to anything is one of those described, and never a failure of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import jsonschema
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.specs.openapi.checks import positive_data_acceptance

from rca.errors import Unavailable
from rca.serve.app import ALERTS_PATH
from rca.serve.server import Server
from tests.recorded import failing
from tests.serving import body, serving

SECRET = "f" * 32
AUTHORIZED = {"Authorization": f"Bearer {SECRET}"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    sources = [failing("prometheus", Unavailable("connection refused"))]
    home = tmp_path_factory.mktemp("fuzz")
    (home / "access").write_text(f"send,label fuzz {SECRET}\n")
    limits = {"body": "1MiB", "pending": "8MiB"}
    with serving(home, sources=sources, access_file=home / "access", limits=limits) as found:
        headers = {"Content-Type": "application/json", **AUTHORIZED}
        requests.post(found.url + ALERTS_PATH, data=body(), headers=headers, timeout=20).raise_for_status()
        yield found


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
def test_every_operation_answers_as_described(server: Server, mode: schemathesis.GenerationMode) -> None:
    """What fits the description and what does not, in turn."""
    described = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operations = [found.ok() for found in described.get_all_operations()]
    assert len(operations) >= 11
    for operation in operations:
        check(operation, mode)


def check(operation: Any, mode: schemathesis.GenerationMode) -> None:
    # The JSON schema cannot say that times lie between 2000 and 2100, nor that a fault kind is one of docs/faults.md.
    loose = [positive_data_acceptance] if operation.method == "post" else []

    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def fuzz(case: Any) -> None:
        case.call_and_validate(headers=AUTHORIZED, excluded_checks=loose, timeout=20)

    with suppress(Unsatisfiable):  # nothing can be wrong with a request that has no parts
        fuzz()


def test_the_description_is_whole_and_its_examples_are_taken(server: Server) -> None:
    schema = requests.get(f"{server.url}/openapi.json", timeout=20).json()
    paths = {"/v1/alertmanager", "/v1/incidents", "/v1/rankings", "/v1/labels", "/v1/models", "/healthz", "/readyz", "/metrics"}
    assert paths <= set(schema["paths"])
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            assert operation["summary"], path
            assert {"401", "403", "422", "503"} <= set(operation["responses"]), path
    example = schema["components"]["schemas"]["Webhook"]["example"]
    taken = requests.post(server.url + ALERTS_PATH, json=example, headers=AUTHORIZED, timeout=20)
    assert taken.status_code == 200
    for label in schema["components"]["schemas"]["LabelIn"]["examples"]:
        refused = requests.post(f"{server.url}/v1/labels", json=label, headers=AUTHORIZED, timeout=20)
        assert refused.status_code == 404  # it is valid, and there is no such incident


def test_whatever_is_asked_and_answered_is_described_with_an_example(server: Server) -> None:
    described = requests.get(f"{server.url}/openapi.json", timeout=20).json()
    models = described["components"]["schemas"]
    shown = []
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            contents = [operation["responses"]["200"]["content"]]
            contents += [operation["requestBody"]["content"]] if "requestBody" in operation else []
            for content in contents:
                if "text/plain" in content:  # for Prometheus
                    continue
                name = content["application/json"]["schema"]["$ref"].rsplit("/", 1)[1]
                examples = models[name].get("examples", [models[name].get("example")])
                for example in examples:
                    jsonschema.validate(example, {**models[name], "components": described["components"]})
                shown.append(f"{method} {path} {name}")
    assert len(shown) >= 12
