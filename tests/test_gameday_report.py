"""The report of a game day as people read it: golden files, days that went wrong, and the commands that make it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import html5lib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from rca.cli.gameday import app
from rca.collectors.alerts import Alert
from rca.documents.html import to_html
from rca.documents.markdown import to_markdown
from rca.errors import BadInput, UnknownName
from rca.gameday import figures
from rca.gameday.contest import Played, QuietAnswers
from rca.gameday.folder import GameDay, Guess, Journal, day_folder, entity_json
from rca.gameday.plan import parsed_plan
from rca.gameday.replay import Answer, Noticed
from rca.gameday.report import best_rule, injections_table, named, report_of, told
from rca.gameday.running import Runner
from rca.gameday.scores import Scores
from rca.incidents.store import IncidentStore
from rca.telemetry import MINUTE_NS, SECOND_NS, EntityId, Interval
from tests.gamedays import PLAN, FakeSystem, typed
from tests.gamedays import a_day as prepared
from tests.played import game_day
from tests.test_gameday_scores import (
    CART,
    LIVE,
    MODEL,
    ORDERS,
    RIGHT,
    RULE,
    SHOP_DB,
    T0,
    WRONG,
    injected,
    played,
    recordings,
    says,
    scored,
    scores_of,
)

GOLDEN = Path(__file__).parent / "golden" / "gameday"
Run = Callable[..., str]


def a_day() -> tuple[GameDay, Scores]:
    """A day with a bit of everything: right soon, right late, never, nobody, not collected, no alert, guesses, a quiet watch."""
    begun = [T0 + number * 10 * MINUTE_NS for number in range(8)]
    ones = [
        played(1, WRONG, RIGHT, says(CART, ORDERS, sure=0.9, level="clear"), over_ns=begun[1] + 4 * MINUTE_NS),
        played(2, says(ORDERS, sure=0.85, level="clear"), RIGHT, kind="return", fixed_ns=begun[2] + 3 * MINUTE_NS),
        played(3, WRONG, says(ORDERS, CART, level="close", sure=0.4), kind="slow_database", causes=(SHOP_DB,)),
        played(4, says(CART, level="likely", sure=0.5), says(CART, level="nothing"), kind="traffic_surge", causes=()),
        Played(injected(5, incident_id=None), "not collected", "the machine was saturated", causes=(CART,)),
        replace(played(6, RIGHT, kind="crash_loop"), overlapping=(7,), trouble="telemetry covers 9 of 12 bins"),
        Played(injected(7), "unlabelled", "its label is disputed, so nobody knows who is to blame"),
    ]
    ones[2] = replace(ones[2], seen=Noticed(begun[3]), moments=(begun[3], begun[3] + MINUTE_NS))
    guesses = (Guess(1, begun[1] + 80 * SECOND_NS, "anna", ORDERS), Guess(1, begun[1] + 110 * SECOND_NS, "anna", CART))
    window = Interval(begun[1] - 2 * MINUTE_NS, begun[1] - MINUTE_NS)
    quiet = [QuietAnswers(window, (window,), 1, {"model": (WRONG,), "rule": (says(CART, level="unsure"),)}), QuietAnswers(window)]
    plan = parsed_plan(PLAN + 5 * '[[injection]]\nfault = "exception"\ntarget = "payment"\n', "plan.toml")
    day = GameDay("friday", Path("friday"), plan, tuple(one.injected for one in ones), guesses, "aborted", "cart failed for 2m")
    return day, scores_of(day, "digest", (MODEL, RULE), ones, quiet, LIVE)


def golden(name: str, text: str) -> None:
    """`RCA_WRITE_GOLDEN=1` writes the files anew; look at them then."""
    path = GOLDEN / name
    if os.environ.get("RCA_WRITE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_the_report_in_markdown() -> None:
    day, scores = a_day()
    text = to_markdown(report_of(day, scores))
    golden("report.md", re.sub(r"rca \d+\.\d+\.\d+", "rca 0.0.0", text))


def test_the_figures() -> None:
    _, scores = a_day()
    golden("curve.svg", figures.drawn_curve(figures.curve_of(scores.rankers, "words")) + "\n")
    golden("reliability.svg", figures.drawn_reliability(figures.reliability_of(scores.in_use.calibration.bins, "words")) + "\n")


def test_the_report_in_html_is_well_formed_and_says_the_same() -> None:
    day, scores = a_day()
    document = report_of(day, scores)
    text = to_html(document)
    html5lib.HTMLParser(strict=True).parse(text)
    assert "<script" not in text
    for section in document.sections:
        assert f'id="{section.key}"' in text
    assert text.count("<svg") == 2
    assert text.count('class="question"') == 5


@pytest.mark.parametrize("state", ["running", "interrupted", "aborted"])
def test_a_day_without_anything_has_a_report(state: str) -> None:
    scores = scored([]).model_copy(update={"state": state, "why": "nothing began"})
    day = GameDay("friday", Path("friday"), None)
    document = report_of(day, scores)
    words = to_markdown(document)
    assert "No injection of this game day can be scored" in words
    assert f"The game day is {state} (nothing began)." in words
    assert to_html(document).count("<svg") == 0


_SAID = st.sampled_from(
    [RIGHT, WRONG, says(SHOP_DB), says(CART, ORDERS, tie=True), says(ORDERS, level="nothing"), Answer(failure="no telemetry")]
)


@given(
    st.lists(st.tuples(st.lists(_SAID, min_size=1, max_size=4), st.sampled_from([(), (CART,), (CART, ORDERS)])), max_size=5),
    st.lists(st.tuples(st.integers(1, 5), st.integers(-60, 600), st.sampled_from(["anna", "ben"])), max_size=4),
    st.booleans(),
)
@settings(max_examples=15, deadline=None)
def test_whatever_happened_there_is_a_report(
    rows: list[tuple[list[Answer], tuple[EntityId, ...]]], guessed: list[tuple[int, int, str]], watched: bool
) -> None:
    ones = [played(number, *said, kind=f"kind-{number % 2}", causes=causes) for number, (said, causes) in enumerate(rows, 1)]
    guesses = [
        Guess(number, ones[number - 1].from_ns + after * SECOND_NS, who, CART)
        for number, after, who in guessed
        if number <= len(ones)
    ]
    window = Interval(T0, T0 + MINUTE_NS)
    quiet = [QuietAnswers(window, (window,), 0, {"model": (RIGHT,), "rule": (WRONG,)})] if watched else []
    scores = scored(ones, guesses, quiet)
    assert Scores.model_validate_json(scores.dumps()) == scores
    for ranker in scores.rankers:
        shares = [*ranker.accuracy.values(), *(point.share for point in ranker.curve), ranker.quiet, ranker.nobody]
        for figure in shares:
            assert figure.value is None or 0 <= figure.value <= 1
            assert figure.low is None or figure.low <= (figure.value or 0.0) <= (figure.high or 0.0)
        if ranker.curve:
            assert ranker.curve[-1].share.value == ranker.accuracy["ac1"].value
            assert ranker.settled.n == round((ranker.accuracy["ac1"].value or 0.0) * ranker.accuracy["ac1"].n)
    document = report_of(GameDay("friday", Path("friday"), None), scores)
    assert "nan" not in to_markdown(document).replace("nanoseconds", "")
    assert to_html(document)


def test_a_day_that_takes_longer_than_one_tells_dates() -> None:
    ones = [played(1, RIGHT), played(30, RIGHT)]
    day = GameDay("friday", Path("friday"), None, tuple(one.injected for one in ones), (), "complete")
    text = to_markdown(report_of(day, scored(ones)))
    assert "- **When:** 2026-05-28 20:36:40 to 2026-05-29 01:29:40 UTC" in text
    assert "| 2026-05-29 01:26:40 |" in text


def test_one_injection_has_no_interval_and_says_that_it_is_one() -> None:
    scores = scored([played(1, RIGHT)])
    words = to_markdown(report_of(GameDay("friday", Path("friday"), None), scores))
    assert "for 1 of 1 injected faults (100 %), in half of these at once." in words
    assert "of 1 injection, one that is right or wrong by chance moves a share by 100 %" in words


def test_foreign_text_stays_text() -> None:
    evil = EntityId("service", "<b>|`x`\x1b[2J")
    one = played(1, says(evil, CART), causes=(evil,))
    strange = replace(
        one, injected=replace(one.injected, injection=replace(one.injected.injection, note="<script>", target="|a|"))
    )
    scores = scored([strange])
    document = report_of(GameDay("friday", Path("friday"), None), scores)
    page, words = to_html(document), to_markdown(document)
    assert "<b>" not in page.partition("<main")[2]
    assert "\x1b" not in page + words
    rows = [line for line in words.splitlines() if line.startswith("|") and "\\|a\\|" in line]
    assert rows
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 9 for row in rows)


def test_the_rule_beside_is_never_the_floor() -> None:
    scores = scored([played(1, RIGHT)])
    assert best_rule(scores) == scores.rankers[1]
    floor = scores.rankers[1].model_copy(update={"label": "floor"})
    assert best_rule(scores.model_copy(update={"rankers": (scores.rankers[0], floor)})) is None


def test_words_of_entities_and_answers() -> None:
    assert (named("service:shop/cart"), named("database:shop-db")) == ("shop/cart", "database shop-db")
    said = scored([played(1, WRONG, WRONG, RIGHT)]).injections[0].said["model"]
    assert told(said) == "0: orders (likely, 50 %, wrong); 1: cart (likely, 70 %, right)"
    assert injections_table(scored([played(1, RIGHT, WRONG)]))[1] == [
        ("1", "slow requests: cart", "cart (likely, 70 %, right)", "orders (likely, 50 %, wrong)", "never (place 2)")
    ]


def test_curves_of_a_single_moment_and_of_many() -> None:
    one = figures.curve_of(scored([played(1, RIGHT)]).rankers, "words")
    assert one.band == ""  # a single group has no interval
    many = figures.curve_of(scored([played(n, *[RIGHT] * 20, kind=f"k{n}") for n in (1, 2)]).rankers, "words")
    assert [tick.label for tick in many.x_ticks] == ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10"]
    svg = ElementTree.fromstring(figures.drawn_curve(many))
    assert svg.attrib["viewBox"] == "0 0 720 330"


# --- commands ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command of the group in a store of its own; our errors come out as they are."""
    monkeypatch.setenv("RCA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RCA_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    return typed


def test_score_and_report_as_a_user_types_them(run: Run, tmp_path: Path) -> None:
    """A day that the runner itself has run, on a system in which time passes at once: two faults, each with a quiet watch."""
    home = tmp_path / "home"
    home.mkdir()
    alert = Alert("Slow", 20 * SECOND_NS, end_ns=35 * SECOND_NS)
    day = prepared(home, PLAN.replace('fault = "slow_database"\ntarget = "shop-db"', 'fault = "exception"\ntarget = "payment"'))
    with IncidentStore(home) as store:
        Runner(day, FakeSystem(fires=[alert]), store, told=str).run()
    (tmp_path / "live.toml").write_text('[triage]\nlag = "30s"\nbaseline = "2m"\nlookback = "2m"\n')
    options = ("--ranker", "max-z", "--config", tmp_path / "live.toml")
    out = run("score", "tuesday", *options)
    assert "the tool had named the cause first for 2 of 2 injected faults" in out
    assert f"kept in {home / 'gamedays' / 'tuesday' / 'scores.json'}" in out
    body = json.loads(run("score", "tuesday", *options, "--json"))
    assert (body["version"], body["settings"]["lag_s"]) == ("1", 30.0)
    assert [ranker["role"] for ranker in body["rankers"]] == ["in use", "baseline"]
    assert [one["counted_from"] for one in body["injections"]] == ["alert", "alert"]
    assert [one["resolve_minutes"] for one in body["injections"]] == [0.25, 0.25]
    assert body["quiet"]["windows"] == 2
    files = [str(tmp_path / "out" / f"gameday-tuesday.{kind}") for kind in ("md", "html")]
    assert run("report", "tuesday", "--out", tmp_path / "out").splitlines() == files
    assert "All were injected." in Path(files[0]).read_text()
    (tmp_path / "mine.md").write_text("{{ document.title }}: {{ sections.summary.heading }}")
    run("report", "tuesday", "--out", tmp_path / "out", "--template", tmp_path / "mine.md")
    assert Path(files[0]).read_text() == "Game day tuesday: Summary"


def test_a_day_of_which_nothing_was_collected(run: Run, tmp_path: Path) -> None:
    game_day(tmp_path / "home", [recordings()[0]], lost=(1,), state="interrupted", why="its process ended without a word")
    out = run("score", "friday", "--ranker", "max-z")
    assert "No injection of this game day can be scored" in out
    run("report", "friday", "--out", tmp_path / "out", "--format", "md")
    text = (tmp_path / "out" / "gameday-friday.md").read_text()
    assert "was not collected: the machine was saturated." in text
    assert "The game day is interrupted (its process ended without a word)." in text


def test_what_is_refused(run: Run, tmp_path: Path) -> None:
    home = tmp_path / "home"
    game_day(home, [recordings()[0]], lost=(1,))
    with pytest.raises(UnknownName, match=r"'fridy' \(did you mean friday"):
        run("score", "fridy")
    with pytest.raises(BadInput, match="rca gameday score friday"):
        run("report", "friday", "--out", tmp_path)
    with pytest.raises(BadInput, match="needs training"):
        run("score", "friday", "--ranker", "logistic")
    assert CliRunner().invoke(app, ["score", "friday", "--seed", "-1"]).exit_code == 2
    with pytest.raises(UnknownName, match=r"--format: .*'pdf'"):
        run("report", "friday", "--out", tmp_path, "--format", "pdf")
    run("score", "friday", "--ranker", "max-z")
    for name, found in (("mine.txt", "ends in .md or .html"), ("mine.html", "mine.html")):
        (tmp_path / name).write_text("{{ document.titel }}")
        with pytest.raises(BadInput, match=found):
            run("report", "friday", "--out", tmp_path, "--template", tmp_path / name)
    with pytest.raises(BadInput, match=r"ends in \.md, found"):
        run("report", "friday", "--out", tmp_path, "--format", "md", "--template", tmp_path / "mine.html")
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput):
        run("report", "friday", "--out", tmp_path / "file" / "out")


def test_scores_of_a_day_that_has_changed_are_refused(run: Run, tmp_path: Path) -> None:
    home = tmp_path / "home"
    game_day(home, [recordings()[0], recordings()[1]], lost=(1, 2))
    run("score", "friday", "--ranker", "max-z")
    run("report", "friday", "--out", tmp_path / "out")
    Journal(day_folder(home, "friday")).add("guess", number=1, who="anna", entity=entity_json(CART))
    with pytest.raises(BadInput, match="something was added or labelled since"):
        run("report", "friday", "--out", tmp_path / "out")
