"""Postmortems: every computed sentence names its data, what was said is judged by the labels, names stay where they belong."""

from __future__ import annotations

import json
import math
import re
import subprocess
from dataclasses import replace
from functools import cache
from pathlib import Path

import html5lib
import polars as pl
import pytest
from markdown_it import MarkdownIt
from typer.testing import CliRunner

from rca.cli.main import app
from rca.documents.html import to_html
from rca.documents.markdown import to_markdown
from rca.documents.model import Bullets, Code, Document, Figure, Figures, Question, Table, Text
from rca.errors import BadInput, RcaError, UnknownName
from rca.incidents.bundle import read_bundle, write_bundle
from rca.incidents.example import example_incident
from rca.incidents.incident import EntityModel, Label
from rca.incidents.store import IncidentStore
from rca.metrics import METRICS
from rca.models import registry
from rca.postmortem.account import Account, Objective
from rca.postmortem.document import document_of
from rca.postmortem.gathering import account_of
from rca.postmortem.impact import beyond_chance, expected, impact_of, poisson_tail
from rca.postmortem.sources import promql
from rca.telemetry import BIN_FRAMES, SECOND_NS, EntityId, Telemetry
from rca.wording import percent
from tests.pages import HOSTILE
from tests.postmortems import AUTHOR, CHANNEL, SUMMARY, heard
from tests.servers.prometheus import binary

ROOT = Path(__file__).resolve().parent.parent
SECTIONS = (
    *("summary", "impact", "causes", "detection", "resolution", "timeline", "evidence", "answers", "similar", "gaps"),
    *("lessons", "actions"),
)
NO_HOME = Path("nowhere")


def account(text: str | Path, home: Path = NO_HOME, **options: object) -> Account:
    return account_of(str(text), home, registry.create("floor"), made_by="--ranker floor", **options)  # type: ignore[arg-type]


@cache
def example(number: int) -> Account:
    """A recorded incident of the shop."""
    return account(recorded(number))


def recorded(number: int) -> Path:
    return next((ROOT / "incidents").glob(f"shop-{number:03}-*.tar.zst"))


def words_of(document: Document, key: str) -> str:
    """Everything that a section says, questions left out."""
    found: list[str] = []
    for block in document.by_key[key].blocks:
        if isinstance(block, Text):
            found.append(block.words)
        elif isinstance(block, Bullets):
            found += [item.words for item in block.items]
        elif isinstance(block, Table):
            found += [block.caption, *(" | ".join(row) for row in block.rows)]
    return "\n".join(found)


def questions_of(document: Document, key: str) -> list[str]:
    return [block.words for block in document.by_key[key].blocks if isinstance(block, Question)]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A home, and the incident of rca serve in it."""
    home = tmp_path_factory.mktemp("home")
    return home, heard(home)


# --- what it says -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [12, 16, 31, 54])
def test_every_computed_sentence_names_its_data(number: int) -> None:
    document = document_of(replace(example(number), objective=Objective(0.999)))
    assert tuple(section.key for section in document.sections) == SECTIONS
    for section in document.sections:
        for block in section.blocks:
            match block:
                case Text() | Figure():
                    assert block.cites, block
                case Bullets() | Figures():
                    assert all(item.cites for item in block.items), block
                case Table():
                    assert block.cites or block.row_cites or section.key == "actions", block
                case Question() | Code():
                    assert block.words if isinstance(block, Question) else block.text
    assert [source.key for source in document.sources if source.queries]
    assert not re.search(r"\bNone\b|nan|\{\}|[\[(]\)|  ", "\n".join(words_of(document, key) for key in SECTIONS[:-1]))


def test_an_incident_of_rca_serve_tells_who_was_told_what_when(served: tuple[Path, str]) -> None:
    home, incident_id = served
    document = document_of(account(incident_id, home))
    answers, detection = words_of(document, "answers"), words_of(document, "detection")
    assert "rca serve was right 63 s after the first alert had arrived." in answers
    assert re.search(r"1 \| \d\d:\d\d:\d\d \| 3 s \| .* \| no \| floor", answers)
    assert re.search(r"2 \| \d\d:\d\d:\d\d \| 63 s \| payment .* \| yes \| floor", answers)
    assert f"Revision 1 was told to {CHANNEL} at" in answers
    assert "Revision 2 did not reach pager: 404 from https://secret.example/hook." in answers
    assert "First alert: SlowRequests on frontend" in detection
    assert "First right ranking: revision 2" in detection
    assert "The last alert ended at" in words_of(document, "resolution")
    timeline = words_of(document, "timeline")
    rows = [line.split(" | ") for line in timeline.splitlines()[1:]]
    assert [row[0] for row in rows if row[0] != "some time"] == sorted(row[0] for row in rows if row[0] != "some time")
    for words in ("SlowRequests on frontend (critical)", "rca serve, revision 2: payment", f"payment: labelled by {AUTHOR}"):
        assert words in timeline
    assert "earlier" in words_of(document, "similar")
    assert "it was payment, thrown exceptions" in words_of(document, "similar")
    assert f"The cause was payment (thrown exceptions), confirmed by {AUTHOR}." in words_of(document, "summary")


def test_without_labels_nothing_is_judged(tmp_path: Path) -> None:
    incident_id = heard(tmp_path, label=False)
    document = document_of(account(incident_id, tmp_path))
    assert "cannot be judged: nobody has labelled the cause" in words_of(document, "answers")
    assert " | not known | floor" in words_of(document, "answers")
    assert "Nobody has confirmed a cause. payment" in words_of(document, "causes")
    assert any(words.startswith("Was it payment? rca incidents label") for words in questions_of(document, "causes"))


def test_an_incident_whose_telemetry_was_not_kept_is_written_from_its_alerts(tmp_path: Path) -> None:
    incident_id = heard(tmp_path, telemetry=False)
    document = document_of(account(incident_id, tmp_path))
    assert "the telemetry of this incident: it is not in the store" in words_of(document, "gaps")
    assert "How many requests were affected is not in the telemetry." in words_of(document, "summary")
    assert "First alert: SlowRequests on frontend" in words_of(document, "detection")
    assert "revision 1" in words_of(document, "timeline")
    assert to_html(document)


def test_no_telemetry_at_all_is_said(tmp_path: Path) -> None:
    incident, _ = example_incident(1, "cpu_contention", "cart")
    path = write_bundle(tmp_path / "empty", incident.model_copy(update={"labels": ()}), Telemetry())
    document = document_of(account(path))
    assert "The cause is not known: there is no telemetry to tell it from." in words_of(document, "summary")
    assert "nothing to draw" in words_of(document, "evidence")
    assert "no spans, metrics or logs at all" in words_of(document, "gaps")
    assert any("Who was affected" in words for words in questions_of(document, "impact"))
    assert to_markdown(document)


def test_where_nobody_is_to_blame_that_is_what_it_says() -> None:
    document = document_of(example(16))
    assert "Nobody is to blame: nothing wrong (said by rca shop)." in words_of(document, "summary")
    assert "Requests to gateway neither failed nor were slow more often than chance explains." in words_of(document, "summary")


def test_several_causes_are_named_with_who_says_so() -> None:
    found = example(31)
    second = Label(
        entity=EntityModel(name="payment"), fault_kind="exception", provenance="confirmed", author="anna", at_ns=10**18
    )
    disputed = second.model_copy(update={"entity": EntityModel(name="gateway"), "provenance": "disputed"})
    both = found.incident.model_copy(update={"labels": (*found.incident.labels, second, disputed)})
    document = document_of(replace(found, incident=both))
    told = "The causes were cart (bad rollout), injected by rca shop; payment (thrown exceptions), confirmed by anna."
    assert told in words_of(document, "summary")
    assert "Disputed: that it was gateway." in words_of(document, "causes")
    assert "payment (thrown exceptions): confirmed by anna" in words_of(document, "timeline")


def test_alerts_of_the_baseline_are_not_taken_for_the_first() -> None:
    document = document_of(example(31))
    assert "First alert: HighErrorRatio on cart at 08:46:38, 28 s after the onset." in words_of(document, "detection")
    assert "perhaps of something else: VerySlowRequests on checkout at 08:44:28" in words_of(document, "detection")


def test_queries_are_promql_that_prometheus_reads(tmp_path: Path) -> None:
    promtool = binary("promtool")
    queries = {
        query
        for number in (12, 31)
        for source in document_of(example(number)).sources
        for query in source.queries
        if not re.match(r"\{|rca |kubectl |GET ", query)
    }
    queries |= {query for metric in METRICS for kind in ("service", "node") if (query := promql(metric, EntityId(kind, 'a"b')))}
    assert len(queries) > 30
    rules = [{"record": f"r{i}", "expr": query} for i, query in enumerate(sorted(queries))]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "g", "rules": rules}]}))
    done = subprocess.run([promtool, "check", "rules", tmp_path / "rules.yml"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_names_and_words_from_elsewhere_stay_text(tmp_path: Path) -> None:
    incident, telemetry = example_incident(2, "exception", "payment", requests_per_second=1.0)
    texts = ("service.name", "entity", "message", "template", "name", "source", "target")
    frames = {
        name: frame.with_columns(
            pl.col(text).str.replace_all("payment", HOSTILE, literal=True) for text in texts if text in frame.columns
        )
        for name, frame in telemetry.frames().items()
    }
    label = Label(entity=EntityModel(name=HOSTILE), fault_kind="exception", provenance="confirmed", author=HOSTILE, note=HOSTILE)
    given = {"title": HOSTILE, "labels": (label,), "alerting": (EntityModel(name=HOSTILE),), "system": HOSTILE}
    path = write_bundle(tmp_path / "b", incident.model_copy(update=given), replace(telemetry, gaps=(), **frames))
    document = document_of(account(path))
    html = to_html(document)
    page = html5lib.HTMLParser(strict=True).parse(html)
    space = "{http://www.w3.org/1999/xhtml}"
    assert [page.findall(f".//{space}{name}") for name in ("script", "img", "iframe")] == [[], [], []]
    assert [name for element in page.iter() for name in element.attrib if name.startswith("on") or name == "src"] == []
    for text in (html, to_markdown(document)):
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202a-\u202e\ufeff]", text)
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(to_markdown(document))
    kinds = {token.type for token in tokens} | {part.type for token in tokens for part in token.children or ()}
    assert {"fence", "table_open", "bullet_list_open"} <= kinds
    assert kinds.isdisjoint({"html_block", "html_inline", "image", "link_open", "code_inline"})


# --- impact -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("least", "mean"), [(0, 3.0), (1, 0.5), (4, 4.0), (30, 10.0), (90, 70.0), (5, 0.0)])
def test_the_tail_of_a_poisson_distribution(least: int, mean: float) -> None:
    brute = 1 - sum(math.exp(-mean) * mean**i / math.factorial(i) for i in range(least))
    assert poisson_tail(least, mean) == pytest.approx(brute, abs=1e-9)
    assert poisson_tail(10_000, 5.0) == 0.0


def test_chance_is_measured_against_the_baseline() -> None:
    assert expected((5, 10), (100, 1000)) == 1.0
    assert expected((5, 0), (100, 0)) is None
    assert beyond_chance((20, 10), (100, 1000))
    assert not beyond_chance((2, 10), (100, 1000))
    assert not beyond_chance((50, 0), (100, 0))  # no baseline, no judgement
    assert not beyond_chance((1, 0), (1000, 1000))  # one is an accident


def test_requests_are_counted_where_they_enter() -> None:
    found = example(54)
    impact = impact_of(found.case)
    assert impact is not None
    assert [entity.name for entity in impact.entries] == ["gateway"]
    assert impact.operations[0].operation == "POST /checkout/{customer}"
    assert (impact.failed, impact.requests[0]) == ((27.0, 0.0), 601.0)
    assert sum(step.requests for step in impact.steps) == 601
    assert all(step.hurt for step in impact.steps)
    told = words_of(document_of(replace(found, objective=Objective(0.99, 7))), "impact")
    assert "Failed: 27 of 601 (4.5 %), where the baseline's share would give 0." in told
    assert "An objective of 99 % over 7 days lets 1 % of the requests fail; 4.5 % did, 4.5 times that." in told
    usual = impact.rates[1]
    assert usual is not None
    budget = 0.01 * usual * 7 * 86400
    assert f"7 days allow {budget:,.0f} failed requests: the 27 of the window are {percent(27 / budget)} of that." in told


def test_a_labelled_database_is_the_service_that_the_telemetry_knows_it_by() -> None:
    document = document_of(example(106))
    assert "The cause was database shop-db (network delay), injected by rca shop." in words_of(document, "summary")
    assert re.search(r"shop-db (is number \d+ of 19|comes first)", words_of(document, "answers"))
    assert "What speaks for shop-db:" in words_of(document, "causes")


def test_without_spans_metrics_tell_how_many_requests_failed(tmp_path: Path) -> None:
    incident, telemetry = read_bundle(recorded(54))
    none = {name: frame.clear() for name, frame in telemetry.frames().items() if name in BIN_FRAMES}
    bare = replace(telemetry, gaps=(), **none)
    assert account(write_bundle(tmp_path / "bare", incident, bare)).impact is None  # who calls whom is not known
    graph = example(54).case.graph
    calls = [(graph.entities[a].name, graph.entities[b].name) for a, b in graph.edges["calls"].T.tolist()]
    frame = pl.DataFrame({"source": [a for a, _ in calls], "target": [b for _, b in calls]})
    kinds = [pl.lit("service").alias("source_kind"), pl.lit("service").alias("target_kind"), pl.lit("calls").alias("relation")]
    topology = pl.concat([bare.topology, frame.with_columns(kinds).select(bare.topology.columns)])
    found = account(write_bundle(tmp_path / "metrics", incident, replace(bare, topology=topology)))
    impact, counted = found.impact, example(54).impact
    assert impact is not None
    assert counted is not None
    assert impact.entries == counted.entries
    assert impact.requests[0] == pytest.approx(counted.requests[0], rel=0.1)
    assert 0.5 < impact.failed[0] / counted.failed[0] < 1.5  # rates look back over half a minute
    assert impact.more_failed
    told = words_of(document_of(found), "impact")
    assert "These are estimates from rates of metrics" in told
    assert "Slow:" not in told


def test_consumers_are_no_entries() -> None:
    assert "What email-worker does behind a queue is no request" in words_of(document_of(example(12)), "impact")
    impact = example(12).impact
    assert impact is not None
    assert [entity.name for entity in impact.entries] == ["gateway"]


def test_telemetry_behind_the_window_says_when_it_was_over(tmp_path: Path) -> None:
    incident, telemetry = read_bundle(recorded(54))
    quiet, end_ns = incident.baselines[0], incident.window.end_ns
    inside = pl.col("time_unix_nano").is_between(quiet.start_ns, quiet.start_ns + 60 * SECOND_NS, closed="left")
    later = pl.col("time_unix_nano") + (end_ns - quiet.start_ns)
    frames = {
        name: pl.concat([frame.filter(pl.col("time_unix_nano") < end_ns), frame.filter(inside).with_columns(later)])
        for name, frame in telemetry.frames().items()
        if name in BIN_FRAMES
    }
    path = write_bundle(tmp_path / "over", incident, replace(telemetry, gaps=(), **frames))
    document = document_of(account(path))
    assert re.search(
        r"Requests were as usual again from \d\d:\d\d:\d\d on, 60 s after the onset\.", words_of(document, "resolution")
    )
    assert "Requests are as usual again" in words_of(document, "timeline")
    assert "27 of 601" in words_of(document, "impact")  # what comes after the window is not counted


# --- the command --------------------------------------------------------------------------------------------------------


def run(*arguments: str | Path) -> tuple[int, str]:
    """Exit code and output, errors of ours as main tells them."""
    result = CliRunner().invoke(app, ["postmortem", *map(str, arguments)])
    if isinstance(result.exception, RcaError):
        return result.exception.exit_code, str(result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


PLAIN = ("--ranker", "floor", "--store", "nowhere")
BUNDLE = "BUNDLE"
"""Stands for a small bundle in the arguments of a test."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(
        tmp_path_factory.mktemp("small") / "b", *example_incident(1, "exception", "cart", requests_per_second=0.2)
    )


def test_markdown_goes_to_the_terminal_and_both_into_a_folder(tmp_path: Path, small: Path) -> None:
    code, output = run(small, *PLAIN)
    assert (code, output.splitlines()[0]) == (0, "# Postmortem of example-1")
    code, output = run(small, *PLAIN, "--out", tmp_path / "made")
    assert (code, sorted(path.name for path in (tmp_path / "made").iterdir())) == (
        0,
        ["example-1.html", "example-1.md"],
    )
    code, output = run(small, *PLAIN, "--out", tmp_path / "made", "--format", "html")
    assert code == 2
    assert "expected files that are not there yet (or --force)" in output
    assert run(small, *PLAIN, "--out", tmp_path / "made", "--force")[0] == 0
    code, output = run(small, *PLAIN, "--out", tmp_path / "one.html")
    assert (code, output.strip(), (tmp_path / "one.html").read_text()[:15]) == (0, str(tmp_path / "one.html"), "<!doctype html>")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("no-such-incident",), "expected a known name, found 'no-such-incident'"),
        (("no/such.tar.zst",), "bundle: expected a known name, found 'no/such.tar.zst'"),
        ((BUNDLE, "--format", "pdf"), "--format: expected a known name, found 'pdf'"),
        ((BUNDLE, "--format", "both"), "expected md for the terminal, or a folder as --out, found both"),
        ((BUNDLE, "--out", "x.md", "--format", "html"), "expected md for x.md"),
        ((BUNDLE, "--objective", "100"), "expected a share above 0 % and below 100 %, such as 99.9, found 100"),
        ((BUNDLE, "--objective", "nan"), "found nan"),
        ((BUNDLE, "--template", "x.txt"), "expected a name that ends in .md or .html"),
        ((BUNDLE, "--template", "x.html"), "expected one for md, which is what is written, found x.html"),
        ((BUNDLE, "--template", "a.md", "--template", "b.md.j2"), "expected one template for a format, found a.md and b.md.j2"),
        ((BUNDLE, "--template", "none.md"), "template none.md: expected a file, found nothing there"),
        ((BUNDLE, "--out", str(ROOT / "Makefile")), "expected a folder, or a file that ends in .md or .html"),
        ((BUNDLE, "--ranker", "gnn"), "expected a ranker that needs no training"),
    ],
)
def test_wrong_input_is_told_in_one_line(small: Path, arguments: tuple[str, ...], words: str) -> None:
    given = [small if argument == BUNDLE else argument for argument in arguments]
    code, output = run(*given, *(PLAIN if "--ranker" not in arguments else ("--store", "nowhere")))
    assert code == 2
    assert words in output
    assert "\n" not in output.strip()
    assert not Path("nowhere").exists()  # looking something up makes no store


def test_a_template_with_a_mistake_writes_nothing(tmp_path: Path, small: Path) -> None:
    template = tmp_path / "ours.md.jinja"
    template.write_text("{{ document.title }}\n{{ sections.imapct.heading }}")
    code, output = run(small, *PLAIN, "--out", tmp_path / "made", "--template", template)
    assert code == 2
    assert "ours.md.jinja, line 2" in output
    assert "sections` (summary, impact, causes" in output
    assert not (tmp_path / "made").exists()
    template.write_text("{{ document.title }}: {{ sections.impact.heading }}\n")
    assert run(small, *PLAIN, "--out", tmp_path / "made", "--template", template)[0] == 0
    assert (tmp_path / "made" / "example-1.md").read_text() == "Postmortem of example-1: Impact\n"


def test_unknown_ids_are_answered_with_near_ones(served: tuple[Path, str]) -> None:
    home, incident_id = served
    with pytest.raises(UnknownName, match="did you mean") as raised:
        account(incident_id[:-2], home)
    assert incident_id in str(raised.value)
    with pytest.raises(BadInput):
        account("./missing.tar.zst", home)


def test_nothing_of_a_name_is_left_when_it_is_redacted(served: tuple[Path, str]) -> None:
    home, incident_id = served
    found = account(incident_id, home, redact=True)
    document = document_of(found)
    texts = to_markdown(document), to_html(document)
    with IncidentStore(home) as store:
        incident, telemetry = store.get(incident_id)
    names = {*telemetry.spans["service.name"].unique(), *telemetry.spans["k8s.pod.name"].drop_nulls().unique()}
    names |= {incident_id, incident.system, AUTHOR, CHANNEL, "secret.example", "earlier", "their words", "for many", SUMMARY}
    for text in texts:
        words = re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)
        assert [name for name in sorted(names) if re.search(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", words)] == []
    assert "svc-" in texts[0]
    assert "names, which are pseudonyms here" in words_of(document, "gaps")
    assert "yes | floor" in words_of(document, "answers")
    assert "past-" in words_of(document, "similar")
