"""What watches over `rca serve`: rules by promtool, dashboards against the figures that there are, a runbook for every alert."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from scripts.dashboards import DASHBOARDS, dashboard
from scripts.serve_rules import ALERTS, PROMISES
from tests.servers.prometheus import binary
from tests.serving import serving

ROOT = Path(__file__).parents[1]
RULES = ROOT / "collectors/prometheus/serve.rules.yml"
ALERT_NAMES = {*(promise.alert for promise in PROMISES), *(alert.name for alert in ALERTS)}


def promtool(*arguments: str, folder: Path) -> str:
    done = subprocess.run([binary("promtool"), *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def expressions() -> Iterator[str]:
    """Every expression of rules and dashboards."""
    yield from (rule["expr"] for rule in rules())
    for name in DASHBOARDS:
        for panel in json.loads(dashboard(name))["panels"]:
            yield from (target["expr"].replace("$__rate_interval", "5m") for target in panel["targets"])


def test_alerts_fire_when_they_should_and_never_in_maintenance() -> None:
    assert "SUCCESS" in promtool("test", "rules", "serve.test.yml", folder=RULES.parent)
    tests = yaml.safe_load((RULES.parent / "serve.test.yml").read_text())["tests"]
    fired = {each["alertname"] for test in tests for each in test["alert_rule_test"] if each["exp_alerts"]}
    assert fired == ALERT_NAMES
    assert {rule["alert"] for rule in rules() if "alert" in rule} == ALERT_NAMES


def test_every_expression_is_promql(tmp_path: Path) -> None:
    made = [{"record": f"expression:{number}", "expr": expr} for number, expr in enumerate(expressions())]
    (tmp_path / "all.yml").write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": made}]}))
    promtool("check", "rules", "all.yml", folder=tmp_path)


def test_every_figure_that_is_read_is_there(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        text = requests.get(f"{server.url}/metrics", timeout=20).text
    kinds = dict(line.split()[2:4] for line in text.splitlines() if line.startswith("# TYPE"))
    known = {name for name, kind in kinds.items() if kind != "histogram"}
    known |= {f"{name}_{part}" for name, kind in kinds.items() if kind == "histogram" for part in ("bucket", "count", "sum")}
    known |= {rule["record"] for rule in rules() if "record" in rule}
    for expr in expressions():
        assert set(re.findall(r"\brca_serve[_:][\w:]+", expr)) <= known, expr
    read = set(re.findall(r"\brca_serve_\w+?(?=_bucket|_count|\{|\[|\)|,| |$)", "\n".join(expressions())))
    assert {name for name in kinds if name not in read} == set(), "every figure is on a dashboard"


def test_every_outcome_that_is_read_is_counted(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        text = requests.get(f"{server.url}/metrics", timeout=20).text
    for expr in expressions():
        for metric, outcomes in re.findall(r'(rca_serve_\w+)\{outcome=~?"([^"]+)"', expr):
            assert all(f'{metric}{{outcome="{outcome}"}}' in text for outcome in outcomes.split("|")), expr
    assert 'rca_serve_first_answer_seconds_bucket{le="30.0"}' in text


def test_every_alert_has_its_runbook() -> None:
    page = (ROOT / "docs/operating.md").read_text()
    sections = set(re.findall(r"^### (RcaServe\w+)$", page, re.M))
    assert sections == ALERT_NAMES
    for rule in rules():
        if "alert" in rule:
            assert rule["annotations"]["runbook"] == f"docs/operating.md#{rule['alert'].lower()}"
            assert rule["labels"]["severity"] in ("page", "ticket")
    for promise in PROMISES:
        shown = f"{promise.objective * 100:g} %"
        assert f"| {promise.says} | {shown} | `{promise.alert}` |" in page


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_lie_beside_each_other(name: str) -> None:
    body = json.loads(dashboard(name))
    taken: set[tuple[int, int]] = set()
    for panel in body["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken
        assert at["x"] + at["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in body["panels"]}) == len(body["panels"])
    linked = {link["url"].removeprefix("/d/rca-serve-") for link in body["links"]}
    assert linked == set(DASHBOARDS) - {name}
