"""What `rca serve` says of itself: spans and metrics over OTLP, off by default, and never in the way."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from rca.errors import BadInput
from rca.observe import ObserveConfig, Observer, observing
from rca.serve.metrics import Gauge, Metrics
from tests.servers.certificates import self_signed
from tests.servers.otlp import attributes, observed
from tests.servers.prometheus import free_port
from tests.serving import until


def settings(url: str, **more: object) -> ObserveConfig:
    return ObserveConfig.model_validate({"enabled": True, "endpoint": url, "interval": "200ms", "timeout": "1s", **more})


def test_off_it_loads_and_sends_nothing() -> None:
    script = (
        "import sys; from rca.observe import ObserveConfig, observing; observer = observing(ObserveConfig())\n"
        "with observer.span('rank', rca_alerts=1) as span: span.tell(rca_alerts=2); span.fail('x')\n"
        "observer.histogram('a', 'b', (1.0,))(2.0); observer.close(); assert observer.context() == {}\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry.')])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_spans_of_two_processes_are_one_trace() -> None:
    with observed() as receiver:
        here, there = observing(settings(receiver.url)), observing(settings(receiver.url))
        with here.span("rank", rca_incident_ids=["a", "b"], rca_task="answer") as span:
            context = here.context()
            with there.span("build graph", context, rca_graph_id="f00"):
                pass
            with pytest.raises(BadInput), there.span("score", context):
                raise BadInput("model", expected="a model", found="none")
            span.tell(rca_telemetry_age_s=1.5)
        here.close()
        there.close()
        spans = {span.name: span for span in receiver.spans()}
    rank = spans["rank"]
    assert {span.trace_id for span in spans.values()} == {rank.trace_id}
    assert {spans[name].parent_span_id for name in ("build graph", "score")} == {rank.span_id}
    assert attributes(spans["build graph"]) == {"rca.graph.id": "f00"}
    assert attributes(rank)["rca.telemetry.age_s"] == 1.5
    assert (spans["score"].status.code, spans["score"].status.message) == (2, "model: expected a model, found none")
    assert rank.status.code == 0


def test_metrics_have_the_names_that_prometheus_makes_of_them() -> None:
    metrics = Metrics()
    metrics.gauges += [Gauge("telemetry_age_seconds", "age", lambda: 12.0), Gauge("maintenance", "declared", lambda: None)]
    with observed() as receiver:
        observer = observing(settings(receiver.url))
        metrics.report_to(observer)
        metrics.rankings.add("failed", 3)
        metrics.first_answer_seconds.observe(4.0)
        metrics.graph_age_seconds.observe(0.1)
        metrics.acknowledgement_seconds.observe(0.1)
        metrics.ranking_seconds.observe(0.1)
        metrics.ranked_by.add("floor")
        metrics.gaps.add("prometheus")
        observer.close()
        found = receiver.metrics()
    written = metrics.text()
    names = {line.split()[2] for line in written.splitlines() if line.startswith("# TYPE")}
    units = {"s": "_seconds", "By": "_bytes", "": ""}
    made = {
        metric.name.replace(".", "_") + units[metric.unit] + ("_total" if metric.HasField("sum") else "")
        for metric in found.values()
    }
    assert made == names - {"rca_serve_maintenance"}, "a value that there is none of is not sent"
    assert "rca_serve_telemetry_age_seconds 12" in written
    failed = [
        point for point in found["rca.serve.rankings"].sum.data_points if point.attributes[0].value.string_value == "failed"
    ]
    assert [point.as_int for point in failed] == [3]
    assert found["rca.serve.rankings"].sum.is_monotonic
    (answers,) = found["rca.serve.first_answer"].histogram.data_points
    assert tuple(answers.explicit_bounds) == metrics.first_answer_seconds.bounds
    assert (answers.count, answers.sum) == (1, 4.0)


def test_a_figure_that_cannot_be_told_keeps_no_other_from_being_sent() -> None:
    def broken() -> float:
        raise BadInput("inbox", expected="a disk", found="none")

    metrics = Metrics()
    metrics.gauges += [Gauge("broken", "x", broken), Gauge("fine", "x", lambda: 1.0)]
    with observed() as receiver:
        observer = observing(settings(receiver.url))
        metrics.report_to(observer)
        until(lambda: "rca.serve.fine" in receiver.metrics())
        assert "rca.serve.broken" not in receiver.metrics()
        observer.close()
    assert "rca_serve_fine 1" in metrics.text()
    assert "rca_serve_broken " not in metrics.text().replace("# HELP rca_serve_broken ", "").replace(
        "# TYPE rca_serve_broken ", ""
    )


def test_who_takes_it_is_shown_a_token_over_tls(tmp_path: Path) -> None:
    certificate = self_signed(tmp_path)
    token = tmp_path / "token"
    token.write_text("first-token\n")
    with observed(certificate) as receiver:
        url = receiver.url.replace("127.0.0.1", "localhost")
        observer = observing(settings(url, ca_file=certificate[0], bearer_token_file=token, headers={"X-Scope-OrgID": "team"}))
        with observer.span("one"):
            pass
        until(lambda: len(receiver.spans()) == 1)
        token.write_text("second-token")
        with observer.span("two"):
            pass
        observer.close()
        sent = [request for request in receiver.receiver.requests if request.path == "/v1/traces"]
    assert [each.headers["Authorization"] for each in sent] == ["Bearer first-token", "Bearer second-token"]
    assert all({name.lower(): value for name, value in each.headers.items()}["x-scope-orgid"] == "team" for each in sent)


def test_nobody_there_keeps_nobody_waiting() -> None:
    observer = observing(settings(f"http://127.0.0.1:{free_port()}"))
    began = time.monotonic()
    for _ in range(100):
        with observer.span("rank"):
            pass
    assert time.monotonic() - began < 1.0
    observer.close()
    assert time.monotonic() - began < 10.0


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="expected a file with a secret"):
        observing(settings("http://localhost:4318", bearer_token_file=tmp_path / "nothing"))
    with pytest.raises(ValidationError, match="endpoint"):
        ObserveConfig(endpoint="http://user:secret@collector:4318")
    assert type(observing(ObserveConfig(endpoint="http://localhost:1"))) is Observer, "it takes the switch"
