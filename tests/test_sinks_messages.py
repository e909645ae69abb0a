"""What messages say: golden files of each channel, and for any text at all that limits hold and nothing foreign is a command."""

from __future__ import annotations

import html.parser
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from rca.ranking import CandidateSet, Evidence, RankedCandidate
from rca.report import Path as ReportPath
from rca.report import confidence_of
from rca.sinks.alertmanager.alert import LONGEST_DESCRIPTION, alert_of
from rca.sinks.alertmanager.config import AlertmanagerConfig
from rca.sinks.apprise.body import Format, Limits, title_and_body
from rca.sinks.example import example_notices, hostile_notice, unranked_notice
from rca.sinks.markup import CHAT, HTML, MARKDOWN, MRKDWN, PLAIN, is_address, line, tamed
from rca.sinks.message import Message, fitted, headline, in_text, message_of
from rca.sinks.notice import AlertLine, Links, Notice
from rca.sinks.pagerduty.config import PagerDutyConfig
from rca.sinks.pagerduty.event import LARGEST_BYTES, event_of, severity_of
from rca.sinks.slack.blocks import LARGEST, LONGEST_TEXT, MOST_BLOCKS, slack_message
from rca.sinks.webhook.payload import payload_of
from rca.telemetry import EntityId

GOLDEN = Path(__file__).parent / "golden" / "sinks"
FIRST, REVISED, RESOLVED = example_notices()
PAGERDUTY = PagerDutyConfig(routing_key_file=Path("key"))
ALERTMANAGER = AlertmanagerConfig(url="http://alertmanager:9093")
MAIL, TEAMS, SMS = Limits(250, 32_768, "html"), Limits(250, 1_000, "markdown"), Limits(0, 160, "text")
NOTICES = {"first": FIRST, "revised": REVISED, "resolved": RESOLVED, "unranked": unranked_notice(), "hostile": hostile_notice()}


def _rendered(channel: str, notice: Notice) -> str:
    """What is sent, as text."""
    if channel == "slack.json":
        return _json(slack_message(notice)[0])
    if channel == "pagerduty.json":
        return _json(event_of(notice, PAGERDUTY)[0])
    if channel == "alertmanager.json":
        return _json(alert_of(notice, ALERTMANAGER, notice.alerts[0].starts_ns)[0])
    limits = {"mail.html": MAIL, "teams.md": TEAMS, "sms.txt": SMS}[channel]
    title, body, _ = title_and_body(notice, limits)
    return f"{title}\n\n{body}\n"


def _json(body: Any) -> str:
    return json.dumps(body, indent=2, ensure_ascii=False) + "\n"


@pytest.mark.parametrize("which", NOTICES)
@pytest.mark.parametrize("channel", ["slack.json", "pagerduty.json", "alertmanager.json", "mail.html", "teams.md", "sms.txt"])
def test_messages_read_as_they_should(channel: str, which: str) -> None:
    """`RCA_WRITE_GOLDEN=1` writes the files anew; look at them then."""
    path = GOLDEN / f"{which}-{channel}"
    text = _rendered(channel, NOTICES[which])
    if os.environ.get("RCA_WRITE_GOLDEN") == "1":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_a_message_says_everything_that_helps() -> None:
    text = in_text(message_of(FIRST), PLAIN)
    for part in (
        "shop/catalogue is likely, not certain: 58 %",
        "- shop/checkout 31 %, latency",
        "CPU usage 0.93 cores, baseline 0.11 cores",
        "shop/frontend -> shop/catalogue",
        "collection was 30 s behind",
        "HighLatency on shop/frontend: p99 of checkout over 500 ms (critical, since 10:11:00)",
        "https://rca.example.com/incidents/01JHK3V0A7",
        "https://wiki.example.com/runbooks/high-latency",
        "https://grafana.example.com/d/svc",
        "https://tempo.example.com/trace/",
        "revision 1, ranked by general 2026-11",
    ):
        assert part in text


def test_without_a_ranking_it_says_why() -> None:
    notice = unranked_notice()
    assert headline(notice) == "Cause unknown: HighLatency on frontend"
    assert "No ranking could be made: Prometheus did not answer" in in_text(message_of(notice), PLAIN)


def _ranked(*shares: float, no_fault: float = 0.0, heard: bool = True) -> Notice:
    assert FIRST.report is not None
    ranking = FIRST.report.ranking
    evidence = ranking.candidates[0].evidence if heard else ()
    candidates = tuple(
        RankedCandidate(rank, each.entity, 1.0, share, evidence=evidence)
        for rank, (each, share) in enumerate(zip(ranking.candidates, shares, strict=False), start=1)
    )
    ranking = replace(ranking, candidates=candidates, no_fault=no_fault)
    return replace(FIRST, report=replace(FIRST.report, ranking=ranking, confidence=confidence_of(ranking)))


@pytest.mark.parametrize(
    ("notice", "start"),
    [
        (_ranked(0.9, 0.1), "Likely shop/catalogue (90 %): "),
        (_ranked(0.5, 0.2), "Likely shop/catalogue (50 %): "),
        (_ranked(0.4, 0.35), "shop/catalogue (40 %) or shop/checkout (35 %): "),
        (_ranked(0.3, 0.1), "Perhaps shop/catalogue (30 %): "),
        (_ranked(0.3, 0.1, no_fault=0.6), "Perhaps no fault: "),
        (_ranked(0.3, 0.1, heard=False), "Cause unknown: "),
    ],
)
def test_the_headline_claims_no_more_than_is_known(notice: Notice, start: str) -> None:
    assert headline(notice) == f"{start}HighLatency on frontend"
    over = replace(notice, state="resolved")
    assert headline(over) == f"Resolved. {start}HighLatency on frontend"


def test_an_order_that_means_nothing_is_not_shown() -> None:
    assert message_of(_ranked(0.3, 0.1, heard=False)).candidates == ()


# --- limits -------------------------------------------------------------------------------------------------------------


def test_evidence_goes_first_and_the_page_last() -> None:
    lost = []
    message = message_of(FIRST)
    for most in range(len(in_text(message, PLAIN)), 20, -10):
        fit = fitted(message, lambda each, most=most: len(in_text(each, PLAIN)) <= most)  # type: ignore[misc]
        lost += [what for what in fit.cut if what not in lost]
        assert not fit.cut or "cut" in in_text(fit, PLAIN) or "left out: " in in_text(fit, PLAIN)
        if len(fit.candidates) > 0:
            assert fit.candidates[0].name == "shop/catalogue"
    assert lost == ["evidence", "alerts", "gaps", "links", "path", "candidates", "details", "words"]


def test_a_short_message_names_the_cause_and_the_page() -> None:
    title, body, cut = title_and_body(FIRST, SMS)
    assert title == ""
    assert len(body) <= 160
    assert "shop/catalogue (58 %)" in body
    assert "https://rca.example.com/incidents/01JHK3V0A7" in body
    assert "(cut)" in body
    assert "evidence" in cut


foreign = st.one_of(
    st.text(),
    st.text(alphabet="<>!@#&*_`~|[]()\\/:;'\"{}-+=.1 \t\r\n\x1b\x00\u202e\u200b\ud800éx", max_size=60),
    st.sampled_from(
        ["<!channel>", "<@U1|x>", "*b*", "_i_", "```", "</p><script>", "[x](javascript:y)", "@here", "x" * 5_000, "&amp;"]
    ),
)
addresses = st.one_of(foreign, foreign.map(lambda text: f"https://x.example/{text}"), st.just("https://rca.example/i/1"))


@st.composite
def notices(draw: st.DrawFn) -> Notice:
    """Notices with anything in them."""
    assert FIRST.report is not None
    texts = [draw(foreign) for _ in range(6)]
    evidence = tuple(Evidence("cpu", text, 1.0, None, "1", 3.0) for text in draw(st.lists(foreign, max_size=5)))
    entity = FIRST.report.ranking.candidates[0].entity
    candidates = tuple(
        RankedCandidate(rank, replace(entity, name=name, namespace=texts[0]), 1.0, 1 / 5, texts[1], evidence)
        for rank, name in enumerate(draw(st.lists(foreign, max_size=5)), start=1)
    )
    ranking = replace(FIRST.report.ranking, candidates=candidates, notes=tuple(texts[:1]))
    report = replace(
        FIRST.report,
        ranking=ranking,
        confidence=confidence_of(ranking),
        path=ReportPath("alert", (), texts[2]),
        missing=tuple(draw(st.lists(foreign, max_size=6))),
    )
    many = draw(st.sampled_from([1, 30]))
    links = [(draw(foreign), draw(addresses)) for _ in range(3)] * many
    return Notice(
        incident_id=draw(foreign),
        group_key=texts[3],
        revision=1,
        state=draw(st.sampled_from(["firing", "resolved"])),
        title=texts[4],
        report=draw(st.sampled_from([report, None])),
        trouble=texts[5],
        alerts=(AlertLine(*texts[:4], draw(st.integers(-(2**70), 2**70)), draw(st.none() | st.integers(-(2**70), 2**70))),)
        * many,
        more_alerts=draw(st.integers(0, 10**6)),
        links=Links(draw(addresses), tuple(links), tuple(links), tuple(links)),
        news=tuple(draw(st.lists(foreign, max_size=3))) * many,
    )


@settings(max_examples=200, deadline=None)
@given(notices())
def test_slack_takes_any_notice(notice: Notice) -> None:
    body, _ = slack_message(notice)
    blocks = body["blocks"]
    assert 1 <= len(blocks) <= MOST_BLOCKS
    assert len(json.dumps(blocks, ensure_ascii=False)) <= LARGEST
    assert 1 <= len(blocks[0]["text"]["text"]) <= 150
    for block in blocks[1:]:
        (text,) = (each for each in (block.get("text"), *block.get("elements", ())) if each)
        assert 1 <= len(text["text"]) <= LONGEST_TEXT
        assert text["verbatim"] is True
        for command in re.findall(r"<[^>]*>?", text["text"]):
            assert is_address(command[1:-1].partition("|")[0].replace("&amp;", "&")), command
        assert text["text"].count("<") == text["text"].count(">")
        assert not set("`~") & set(re.sub(r"<[^|>]*\|", "", text["text"])), "but for addresses"
    assert not re.search(r"[<>]", body["text"])
    json.dumps(body).encode("ascii")


@settings(max_examples=150, deadline=None)
@given(notices())
def test_pagerduty_and_alertmanager_take_any_notice(notice: Notice) -> None:
    event, _ = event_of(notice, PAGERDUTY)
    assert len(json.dumps(event).encode()) <= LARGEST_BYTES
    assert 1 <= len(event["dedup_key"]) <= 255
    if event["event_action"] == "trigger":
        assert 1 <= len(event["payload"]["summary"]) <= 1_024
        assert event["payload"]["source"]
        assert all(is_address(each["href"]) for each in event["links"])
    alert, _ = alert_of(notice, ALERTMANAGER, 10**18)
    assert len(alert["annotations"]["description"]) <= LONGEST_DESCRIPTION
    assert alert["startsAt"] < alert["endsAt"]
    assert all("\x1b" not in text and "\n" not in text for text in alert["labels"].values())


@settings(max_examples=150, deadline=None)
@given(notices(), st.integers(16_384, 10**6))
def test_the_webhook_takes_any_notice(notice: Notice, max_bytes: int) -> None:
    body, _ = payload_of(replace(notice, incident_id="i"), max_bytes)
    assert len(body) <= max_bytes
    assert json.loads(body)["idempotency_key"] == "i:1"


def test_the_webhook_cuts_a_set_of_very_many_with_the_candidates() -> None:
    report = FIRST.report
    assert report is not None
    many = tuple(EntityId("service", f"service-{place}") for place in range(20_000))
    ranking = replace(report.ranking, likely=CandidateSet(0.9, many, no_fault=True, outside=False))
    notice = replace(FIRST, report=replace(report, ranking=ranking))
    body, cut = payload_of(notice, 100_000)
    likely = json.loads(body)["report"]["ranking"]["likely"]
    assert likely["entities"][0]["name"] == "service-0"
    assert (len(likely["entities"]), likely["no_fault"], cut) == (200, True, ("details",))
    small = json.loads(payload_of(notice, 8_000)[0])
    assert len(small["report"]["ranking"]["likely"]["entities"]) <= 50
    assert "candidates" in small["cut"]


@settings(max_examples=200, deadline=None)
@given(notices(), st.integers(100, 40_000), st.sampled_from(["text", "markdown", "html"]), st.sampled_from([0, 100]))
def test_apprise_keeps_to_any_limit(notice: Notice, most: int, kind: Format, title: int) -> None:
    notice = replace(notice, links=replace(notice.links, page="https://rca.example/i/1"))
    subject, body, _ = title_and_body(notice, Limits(title, most, kind))
    assert len(body) <= most
    assert len(subject) <= title
    assert not re.search(r"[<>@*`\n\r]", subject)
    assert "@" not in body


# --- escaping -----------------------------------------------------------------------------------------------------------


@given(foreign)
def test_a_line_is_one_and_moves_no_cursor(text: str) -> None:
    found = line(text, 50)
    assert len(found) <= 50
    assert found.isprintable()
    found.encode()


@given(foreign)
def test_markdown_shows_the_text_itself(text: str) -> None:
    text = line(text, 200)
    tokens = MarkdownIt("commonmark").enable(["strikethrough", "table"]).parse(MARKDOWN.escape(text))
    shown = "".join(child.content for token in tokens for child in token.children or ())
    kinds = {child.type for token in tokens for child in token.children or ()} | {token.type for token in tokens}
    assert kinds <= {"paragraph_open", "inline", "paragraph_close", "text", "text_special", "softbreak"}
    assert shown == text.replace("@", "(at)")


class _Tags(html.parser.HTMLParser):
    """Tags and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name == "href"]
        assert [name for name, _ in attrs] in ([], ["href"])

    def handle_data(self, data: str) -> None:
        self.text += data


@given(foreign)
def test_html_shows_the_text_itself(text: str) -> None:
    text = line(text, 200)
    page = _Tags(f"<p>{HTML.escape(text)}</p>")
    assert page.tags == ["p"]
    assert page.text == text.replace("@", "(at)")


@settings(max_examples=150, deadline=None)
@given(notices())
def test_a_mail_holds_no_tag_and_no_link_but_ours(notice: Notice) -> None:
    _, body, _ = title_and_body(notice, MAIL)
    page = _Tags(body)
    assert set(page.tags) <= {"p", "ul", "li", "b", "a", "br"}
    assert all(is_address(link) for link in page.links)


@given(foreign)
def test_slack_reads_no_command_in_foreign_text(text: str) -> None:
    escaped = MRKDWN.escape(line(text, 200))
    assert not re.search(r"[<>*~`]|&(?!amp;|lt;|gt;)", escaped)
    assert not re.search(r"(?<!\w)_|_(?!\w)", escaped)


@given(foreign)
def test_a_chat_that_reads_markdown_after_all_shows_the_text(text: str) -> None:
    """Mattermost, for one, which apprise takes for a service of plain text."""
    tokens = MarkdownIt("commonmark").enable("strikethrough").parse("- " + CHAT.escape(line(text, 200)))
    kinds = {child.type for token in tokens for child in token.children or ()}
    assert not kinds & {"strong_open", "em_open", "s_open", "link_open", "image", "code_inline", "html_inline"}


@given(foreign)
def test_a_title_holds_no_command_of_any_channel(text: str) -> None:
    assert not re.search(r"[<>@*`~|]", tamed(text))


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "data:text/html,x",
        "https://user:pw@host/",
        "https://",
        "//host/",
        "https://x/|<!channel>",
        "https://x/ y",
        "https://x/\x1b",
        "http://[::1",
        "https://x/" + "y" * 1_000,
    ],
)
def test_what_leads_nowhere_is_not_linked_to(url: str) -> None:
    assert not is_address(url)
    message = message_of(replace(FIRST, links=Links(url, runbooks=(("x", url),))))
    assert (message.page, message.links, message.cut) == ("", (), ("links",))


def test_severities_come_in_many_words() -> None:
    assert severity_of(["warning", "Critical ", "info"]) == "critical"
    assert severity_of(["P3", "none"]) == "warning"
    assert severity_of(["whatever", ""]) == "error"


def test_an_empty_message_is_still_one() -> None:
    assert fitted(Message("", ""), lambda _: False).cut == ()
