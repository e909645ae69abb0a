"""`rca triage`, as people, pipes and programs see it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from rca.cli.main import app
from rca.cli.triage import print_report
from rca.errors import RcaError, UnknownName
from rca.graph import ServiceGraph
from rca.incidents.bundle import write_bundle
from rca.incidents.example import example_incident
from rca.incidents.incident import Incident
from rca.incidents.store import IncidentStore
from rca.models.registry import create
from rca.pipeline import case_of, report_on
from rca.ranking import Chances, rank_by_score
from rca.report import MOST_NEIGHBOURS, confidence_of, map_of, path_of, shortest_path
from rca.telemetry import EntityId, Gap, Interval, Telemetry
from scripts import docs
from tests.cases import example_cases

SCHEMA = json.loads((docs.ROOT / "docs/ranking.schema.json").read_text(encoding="utf-8"))
GOLDEN = docs.ROOT / "cli"
INCIDENT, TELEMETRY = example_incident()
"""The demo's incident."""
Run = Callable[..., str]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundles") / INCIDENT.id, INCIDENT, TELEMETRY)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `rca triage` in a store of its own and returns what it printed; our errors come out as they are.

    The label-free score ranks unless a ranker or model is given, so that what is printed does not change with the shipped model.
    """
    monkeypatch.setenv("RCA_HOME", str(tmp_path / "home"))

    def call(*arguments: object, code: int = 0) -> str:
        chosen = [] if {"--ranker", "--model", "--engine"} & {*map(str, arguments)} else ["--ranker", "floor"]
        result = CliRunner().invoke(app, ["triage", *map(str, arguments), *chosen])
        if isinstance(result.exception, RcaError):
            raise result.exception
        assert result.exit_code == code, result.output
        return result.output

    return call


def altered(tmp_path: Path, incident: Incident = INCIDENT, **frames: pl.DataFrame) -> Path:
    """A bundle of the example with some frames alone."""
    return write_bundle(tmp_path / "altered", incident, Telemetry.of(**frames), replace=True)


# --- what people read ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("transcript", "options"), [("triage.txt", ()), ("triage-why-not.txt", ("--why-not", "checkout", "--top", "2"))]
)
def test_golden_transcripts(run: Run, bundle: Path, transcript: str, options: tuple[str, ...]) -> None:
    """Write them anew with RCA_WRITE_GOLDEN=1, and read the difference."""
    output = run(bundle, *options)
    if os.environ.get("RCA_WRITE_GOLDEN"):
        (GOLDEN / transcript).write_text(output, encoding="utf-8")
    assert output == (GOLDEN / transcript).read_text(encoding="utf-8")
    assert max(map(len, output.splitlines())) <= 80
    assert all(line == line.rstrip() for line in output.splitlines())
    assert output.isascii()


def test_a_poisoned_name_stays_text(run: Run, tmp_path: Path) -> None:
    poison = "\x1b[2J[bold red]cat\u202ealogue\x9b[/]"
    spans = TELEMETRY.spans.with_columns(pl.col("service.name").replace("catalogue", poison))
    logs = TELEMETRY.logs.with_columns(pl.col("entity").replace("catalogue", poison), pl.col("template") + "\x1b]0;x\x07[red]")
    path = altered(tmp_path, INCIDENT.model_copy(update={"title": "a\x1b[31mb"}), spans=spans, logs=logs)
    output = run(path)
    assert "\\x1b[2J[bold red]cat\\u202ealogue\\x9b[/]" in output.replace("\n", "").replace(" " * 6, "")
    assert not set(output) & set("\x1b\x9b\x07\u202e")
    assert not set(run(path, "--json")) & set("\x1b\x9b\x07\u202e")


def test_colour_only_on_a_terminal(bundle: Path) -> None:
    def stdout(**environment: str) -> str:
        command = [sys.executable, "-m", "rca", "triage", str(bundle)]
        return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True).stdout

    assert "\x1b" not in stdout()
    coloured = stdout(FORCE_COLOR="1", COLUMNS="80", TERM="xterm-256color")
    assert "\x1b[" in coloured
    assert "\x1b[3" not in stdout(FORCE_COLOR="1", NO_COLOR="1", COLUMNS="80", TERM="xterm-256color")


# --- JSON ---------------------------------------------------------------------------------------------------------------


def test_json_fits_the_published_schema(run: Run, bundle: Path) -> None:
    body = json.loads(run(bundle, "--json", "--top", "3", "--why-not", "cart"))
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(body, SCHEMA)
    assert body["schema_version"] == body["ranking"]["schema_version"] == "1"
    candidates = body["ranking"]["candidates"]
    assert candidates[0]["entity"]["name"] == "catalogue"
    assert candidates[0]["fault_family"] == "cpu"
    assert [bool(candidate["evidence"]) for candidate in candidates] == [True, True, True] + [False] * (len(candidates) - 3)
    others = body["ranking"]["no_fault"] + body["ranking"]["outside"]
    assert sum(c["probability"] for c in candidates) + others == pytest.approx(1, abs=1e-4)
    assert [entity["name"] for entity in body["path"]["entities"]] == ["frontend", "catalogue"]
    assert body["why_not"]["entity"]["name"] == "cart"
    del body["path"]["words"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(body, SCHEMA)


def test_a_trained_model_ranks(run: Run, bundle: Path, tmp_path: Path) -> None:
    from rca.models.gnn import NetworkRanker

    NetworkRanker(epochs=1, width=8, normals=0).fit(example_cases()).save(tmp_path / "model")
    body = json.loads(run(bundle, "--json", "--model", tmp_path / "model"))
    jsonschema.validate(body, SCHEMA)
    assert body["ranking"]["ranker"].startswith("model-")
    assert body["ranking"]["candidates"][0]["evidence"]


def test_the_same_input_gives_the_same_json(run: Run, bundle: Path) -> None:
    assert run(bundle, "--json") == run(bundle, "--json")


# --- windows ------------------------------------------------------------------------------------------------------------


def test_an_empty_window_is_stated(run: Run, bundle: Path, tmp_path: Path) -> None:
    output = run(bundle, "--from", "2026-03-01T00:00:00Z", "--until", "2026-03-01T00:10:00+00:00", code=3)
    assert "Not enough telemetry to tell: there is none in the window, so there is nothing to rank." in " ".join(output.split())
    assert "no spans in the incident, though there were some before" in output
    body = json.loads(run(altered(tmp_path), "--json", code=3))
    jsonschema.validate(body, SCHEMA)
    assert body["ranking"]["candidates"] == []
    assert body["path"] is body["map"] is None
    assert body["missing"] == ["no spans, metrics or logs at all", "no events or alerts in that time"]


def test_another_window_of_the_same_telemetry(run: Run, bundle: Path) -> None:
    quiet = run(bundle, "--from", "2026-01-15T10:04:00Z", "--until", "2026-01-15T11:09:00.5+01:00")
    assert "2026-01-15 10:04:00 to 10:09:00 UTC" in quiet
    assert "catalogue stands out" not in quiet
    assert "catalogue stands out" in run(bundle, "--onset", "2026-01-15T10:11:00Z")


# --- mistakes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--why-not", "catalog"), "did you mean catalogue"),
        (("--ranker", "flor"), "did you mean floor"),
        (("--ranker", "logistic"), "needs no training"),
        (("--ranker", "floor", "--model", "x"), "--ranker or --model, found both"),
        (("--engine", "torch"), "--model beside --engine"),
        (("--model", "nowhere"), "nowhere"),
        (("--since", "yesterday"), "--since: expected a time with its offset"),
        (("--until", "2026-01-15T10:12:00"), "without an offset"),
        (("--until", "2026-01-15T09:00:00Z"), "an end after its start"),
        (("--since", ""), "--since: expected a time with its offset"),
        (("--since", "1500-01-01T00:00:00Z"), "--since: expected a time between the years 2000 and 2100"),
        (("--since", "0001-01-01T00:00:00+23:59"), "--since: expected a time between"),
        (("--until", "9999-12-31T23:59:59-23:59"), "--until: expected a time between"),
        (("--why-not", ""), "--why-not: expected a known name"),
        (("--onset", "2026-01-15T10:11:00Z", "--since", "2026-01-15T10:11:00Z"), "--since or --onset, found both"),
    ],
)
def test_mistakes_are_named(run: Run, bundle: Path, options: tuple[str, ...], message: str) -> None:
    with pytest.raises(RcaError, match=message) as caught:
        run(bundle, *options)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("text", ["./missing.tar.zst", "missing.tar.zst", "missing/incident"])
def test_what_looks_like_a_path_is_not_looked_up_in_the_store(text: str) -> None:
    with pytest.raises(UnknownName, match=f"^bundle: expected a known name, found '{text}'"):
        CliRunner().invoke(app, ["triage", text], catch_exceptions=False)


def test_incidents_that_do_not_exist(run: Run, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="bundle, or id of an incident"):
        run("nothing")
    assert not (tmp_path / "home").exists()
    with pytest.raises(UnknownName, match=f"did you mean {bundle}"):
        run(f"{bundle}x")
    with IncidentStore(tmp_path / "home") as store:
        store.add(INCIDENT, TELEMETRY)
    assert "catalogue stands out" in run(INCIDENT.id)
    assert "catalogue stands out" in run(INCIDENT.id, "--store", tmp_path / "home")
    with pytest.raises(UnknownName, match=f"did you mean {INCIDENT.id}"):
        run(f"{INCIDENT.id}x")


def test_a_mistake_is_one_line_and_no_traceback(bundle: Path) -> None:
    command = [sys.executable, "-m", "rca", "triage", str(bundle), "--why-not", "nobody\x1b[2J"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --why-not")
    assert done.stderr.count("\n") == 1
    assert "\x1b" not in done.stderr


def test_what_is_not_needed_is_not_imported(bundle: Path) -> None:
    script = (
        "import sys; from rca.cli.main import app; "
        f"app(['triage', {str(bundle)!r}], standalone_mode=False) if len(sys.argv) > 1 else None; "
        "names = 'torch dgl pandas sqlalchemy sqlite3 kubernetes lightgbm sklearn networkx drain3 matplotlib '"
        "'grpc requests starlette dateparser'; names = names.split(); "
        "print([name for name in names if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script, "triage"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    script = script.replace("'torch", "'polars numpy pydantic torch")
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


# --- parts --------------------------------------------------------------------------------------------------------------


def services(*names: str) -> tuple[EntityId, ...]:
    return tuple(EntityId("service", name) for name in names)


def graph(calls: str) -> ServiceGraph:
    """A graph without features from `a>b b>c`."""
    pairs = [tuple(call.split(">")) for call in calls.split()]
    entities = services(*sorted({name for pair in pairs for name in pair}))
    row = {entity.name: i for i, entity in enumerate(entities)}
    template = case_of(INCIDENT, TELEMETRY).graph
    n, e = len(entities), len(pairs)
    return ServiceGraph(
        entities=entities,
        feature_names=template.feature_names,
        features=np.zeros((n, len(template.feature_names)), dtype=np.float32),
        available=np.zeros((n, len(template.feature_names)), dtype=bool),
        edges={"calls": np.array([[row[a], row[b]] for a, b in pairs], dtype=np.int64).T},
        edge_feature_names=("x",),
        edge_features={"calls": np.zeros((e, 1), dtype=np.float32)},
        edge_available={"calls": np.zeros((e, 1), dtype=bool)},
    ).validate()


def test_paths() -> None:
    made = graph("a>b b>c a>d d>c c>e x>y")
    a, c, x, y = services("a", "c", "x", "y")
    assert path_of(made, [a], c).words == "a -> b -> c"
    assert path_of(made, [c], c).words == "c alerts itself."
    assert path_of(made, [c], a).entities == ()
    assert "it is further up and calls what alerts." in path_of(made, [c], a).words
    assert "no chain of calls joins them" in path_of(made, [x], c).words
    assert path_of(made, [], y).noticed_by == "unknown"
    assert (
        path_of(made, services("gone"), y).words
        == "The incident names no alerting service, and nothing strays where requests enter."
    )


def test_a_cycle_ends() -> None:
    assert shortest_path({0: [1], 1: [0]}, [0], 2) == []


def test_hubs_are_cut_and_say_so() -> None:
    made = graph(" ".join(f"caller{i:02}>hub" for i in range(20)))
    case = case_of(INCIDENT, TELEMETRY)
    hub = EntityId("service", "hub")
    ranking = rank_by_score("r", Interval(0, 1), made.candidates, np.zeros(len(made.candidates)))
    around = map_of(replace(case, graph=made), ranking, hub)
    assert len(around.callers.neighbours) == MOST_NEIGHBOURS
    assert around.callers.cut == 20 - MOST_NEIGHBOURS
    assert {neighbour.health for neighbour in around.callers.neighbours} == {"unobserved"}


def test_confidence_in_words() -> None:
    names = services(*"abcdefghijklm")
    case = case_of(INCIDENT, TELEMETRY)
    evidence = report_on(INCIDENT, TELEMETRY, create("floor")).ranking.candidates[0].evidence

    def words(*shares: float, **others: Any) -> str:
        given, ranked = [evidence] * len(shares), names[: len(shares)]
        chances = Chances(np.array(shares), **{"no_fault": 0.0, **others})
        found = confidence_of(rank_by_score("r", case.window.incident, ranked, np.log(shares), chances=chances, evidence=given))
        return f"{found.outcome}, {found.level}: {found.words}"

    assert words(0.9, 0.08, 0.02) == "cause, clear: a stands out: 90 %, the runner-up b 8 %."
    assert words(0.6, 0.3, 0.1) == "cause, likely: a is likely, not certain: 60 %, the runner-up b 30 %."
    assert words(0.45, 0.4, 0.15) == "cause, close: A close call between a (45 %) and b (40 %): check both."
    assert words(*[0.07] * 13, no_fault=0.09) == "cause, unsure: Not sure: a leads with only 7 %, the runner-up b 7 %."
    assert words(0.2, 0.1, 0.1, no_fault=0.6) == "no_fault, unsure: Perhaps no fault at all (60 %); a comes next with 20 %."
    elsewhere = "Telemetry points at nobody: a cause that it does not show (45 %) is likelier than a (30 %)."
    assert words(0.3, 0.1, outside=0.45, no_fault=0.15) == f"outside, unsure: {elsewhere}"
    listed = words(0.6, 0.25, 0.05, no_fault=0.1, mass=0.9)
    assert listed.endswith(" With 90 % it is one of these 3: a, b or no fault.")
    assert words(0.95, 0.05, mass=0.9) == "cause, clear: a stands out: 95 %, the runner-up b 5 %."
    assert words(*[0.1] * 10, mass=0.85).endswith(" With 90 % it is one of the first 9 candidates.")
    others = words(*[0.1] * 6, no_fault=0.25, outside=0.15, mass=0.85)
    assert others.endswith(" With 90 % it is one of the first 5 candidates, no fault or a cause that telemetry does not show.")
    strange = words(0.95, 0.05, unlike=("number of candidates (900; known: 5 to 150)",))
    assert strange.endswith("measured on: number of candidates (900; known: 5 to 150). Trust them less.")


def test_no_baseline_is_said(run: Run, tmp_path: Path) -> None:
    incident = INCIDENT.model_copy(update={"baselines": ()})
    output = run(altered(tmp_path, incident, metrics=TELEMETRY.metrics, topology=TELEMETRY.topology))
    assert "Not enough telemetry to tell: it names candidates, and nothing of any" in " ".join(output.split())
    assert "Nothing stands out" not in output
    assert "no baseline: nothing says what is usual here" in output


def test_spans_whose_parents_are_missing_are_counted(run: Run, tmp_path: Path) -> None:
    spans = TELEMETRY.spans.filter((pl.col("service.name") != "frontend") | (pl.col("kind") != 2))
    assert "parent" in run(altered(tmp_path, spans=spans)).split("What was missing")[1]


def test_pods_without_a_service_are_said(run: Run, tmp_path: Path) -> None:
    output = run(altered(tmp_path, metrics=TELEMETRY.metrics), code=3)
    assert "names no service or other candidate" in output
    assert "the service of 8 pods: cart-7c9d8f6b5-x2k4q" in output


def test_gaps_are_gathered_and_those_of_the_window_come_first() -> None:
    hour = 3600 * 10**9
    start = INCIDENT.window.start_ns
    outside = [Gap("spans", "file absent", Interval(start - n * hour, start - n * hour + 1)) for n in (1, 2)]
    long = Gap("traces", "not asked", Interval(start - 24 * hour, start))
    gaps = (*outside, Gap("logs", "lost", Interval(start, start + 60 * 10**9)), Gap("metrics", "not scraped"), long)
    report = report_on(INCIDENT, replace(TELEMETRY, gaps=gaps), create("floor"))
    assert report.missing == (
        "logs: lost (10:10:00 to 10:11:00, in the window)",
        "spans: file absent (2 times, 08:10:00 to 09:10:00)",
        "metrics: not scraped",
        "traces: not asked (2026-01-14 10:10:00 to 2026-01-15 10:10:00)",
    )


def test_no_kind_of_fault_is_named_where_nothing_strays(capsys: pytest.CaptureFixture[str]) -> None:
    report = report_on(INCIDENT, TELEMETRY, create("floor"))
    first, *rest = report.ranking.candidates
    bare = [replace(candidate, evidence=(), fault_family="latency") for candidate in rest]
    print_report(replace(report, ranking=replace(report.ranking, candidates=(first, *bare))), top=2, json=False)
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.endswith("nothing strays")]
    assert row.split()[-3:] == ["-", "nothing", "strays"]


def test_the_demo_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "scripts.demo"]
    environment = os.environ | {"PYTHONPATH": str(docs.ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    for words in ("ranked by", "Candidates", "What was really wrong, which the ranking was not told: ", "Try next", "--why-not"):
        assert words in done.stdout
    bundle = done.stdout.split("$ rca triage ")[1].split()[0]
    told = subprocess.run([*command, "--bundle"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == bundle
    assert (tmp_path / bundle).exists()
