"""Documents: what is said stands there as it was said, in both formats, whatever the text; mistakes in templates are told."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import html5lib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from rca.documents.html import drawn, to_html
from rca.documents.markdown import escaped, fenced, to_markdown
from rca.documents.model import Bullets, Code, Document, Figure, Figures, Question, Section, Source, Table, Text
from rca.drawing.foreign import plain
from rca.errors import BadInput
from tests.pages import HOSTILE

SQUARE = '<svg viewBox="0 0 9 9" aria-labelledby="t"><title id="t">a</title><path id="p" d="M0 0" marker-end="url(#p)"/></svg>'
MARKED = "[a](javascript:alert(1)) ![b](http://evil.example/x.png) | `c` **d** _e_ ~f~ # g\n\n# h <b>i</b> &lt; www.evil.example"
FOREIGN = st.text(st.one_of(st.sampled_from("\\`*_{}[]()<>#+-.!|~$&:=/\"' \t\n1aB\x1b\u202e"), st.characters()), max_size=60)


def document(words: str = "It broke.", **given: Any) -> Document:
    """A document with every kind of block, each of which says `words` somewhere."""
    blocks = (
        Text(words, ("spans", "alerts")),
        Bullets((Text(words), Text("second", ("alerts",)))),
        Table(("what", words), (("rate", words), ("3", "4")), words, ("left", "right"), ("spans",)),
        Figure(SQUARE, words, words),
        Figures((Figure(SQUARE, words, "one"), Figure(SQUARE, "two", "two"))),
        Code(f"up == 0 # {words}", "promql"),
    )
    sections = (Section(words, blocks, "summary"), Section("Lessons", (Question(words),), "lessons"))
    sources = (Source("spans", words, "https://tempo.example/?a=1&b=<2>", (words,)), Source("alerts", "alerts", words))
    return Document(
        **{"title": words, "subtitle": words, "sections": sections, "facts": (("System", words),), "sources": sources} | given
    )


def parsed(markdown: str) -> list[Any]:
    """Tokens of a parser of GitHub's Markdown that also makes links of bare addresses where it can."""
    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(markdown)


def shown(tokens: list[Any]) -> list[str]:
    """The text of every inline token, as a reader sees it; anything but text in it is named by its type."""
    kept = ("text", "text_special", "softbreak")
    return [
        "".join(one.content if one.type in kept else f"<{one.type}>" for one in token.children)
        for token in tokens
        if token.children
    ]


@settings(deadline=None)
@given(FOREIGN)
def test_markdown_shows_any_text_as_it_stands_at_the_beginning_of_a_line_and_inside(text: str) -> None:
    for before in ("", "so "):
        words = plain(before + text)
        assert shown(parsed(escaped(before + text))) == ([words] if words else [])


@settings(max_examples=30, deadline=None)
@given(FOREIGN, FOREIGN)
def test_markdown_shows_any_text_in_a_table_and_a_list(text: str, other: str) -> None:
    blocks = (Table(("a", "b"), ((text, other),)), Bullets((Text(f"x {text}"),)))
    told = shown(parsed(to_markdown(Document("t", "", (Section("s", blocks, "s"),)))))
    assert told == ["t", "s", "a", "b", *filter(None, (plain(text), plain(other))), plain(f"x {text}")]


@settings(deadline=None)
@given(st.text(max_size=80), st.text(max_size=8))
def test_nothing_ends_a_block_of_code_early(text: str, language: str) -> None:
    (token,) = parsed(str(fenced(text, language)))
    assert token.type == "fence"
    assert token.content.count("\n") == len(text.splitlines()) or not text


@pytest.mark.parametrize("words", [HOSTILE, MARKED, "| --- |", "---", "1. x", "```", "\x1b]8;;http://x\x07y", "{{ 7*7 }}"])
def test_hostile_text_stays_text_in_both_formats(words: str) -> None:
    made = document(words)
    markdown, html = to_markdown(made), to_html(made)
    for token in parsed(markdown):
        assert token.type not in ("html_block", "hr")
        for part in token.children or ():
            assert part.type not in ("html_inline", "image", "s_open", "code_inline")
            assert part.type != "link_open" or part.attrs["href"].startswith("https://tempo.example/")
    for text in (markdown, html):
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202a-\u202e\ufeff]", text)
    page = html5lib.HTMLParser(strict=True).parse(html)
    space = "{http://www.w3.org/1999/xhtml}"
    assert [page.findall(f".//{space}{name}") for name in ("script", "img", "iframe", "b")] == [[], [], [], []]
    assert [link.get("href", "") for link in page.iter(f"{space}a") if not link.get("href", "").startswith("#")] == [
        "https://tempo.example/?a=1&b=<2>"
    ]
    assert plain(words) in "".join(page.find(f".//{space}h1").itertext())


def test_what_is_cited_is_numbered_and_listed_with_what_to_type() -> None:
    markdown, html = to_markdown(document()), to_html(document())
    assert "It broke. [1] [2]" in markdown
    assert re.search(
        r"## Supporting data\n\n1\. It broke\. .*\n\n    ```\n    It broke\.\n    ```\n\n2\. alerts \(It broke\.\)\n$", markdown
    )
    assert '<p>It broke. <a class="cite" href="#source-1">[1]</a> <a class="cite" href="#source-2">[2]</a></p>' in html
    assert '<li id="source-1">It broke.' in html


def test_markdown_has_its_tables_figures_and_questions() -> None:
    markdown = to_markdown(document())
    assert "| what | It broke. |\n| :--- | ---: |\n| rate | It broke. |\n| 3 | 4 |\n" in markdown
    assert "*Figure:* **one.** It broke.\n" in markdown
    assert "> **To be written:** It broke.\n" in markdown
    assert "```promql\nup == 0 # It broke.\n```" in markdown
    assert "\n\n\n" not in markdown


def test_a_file_of_html_loads_nothing_and_prints_on_white() -> None:
    html = to_html(document())
    assert "default-src 'none'" in html
    assert not re.search(r"<(script|link|img|iframe)|@import|url\((?!#)", html)
    printed = html[html.index("@media print") :]
    assert "--ground: #fff" in printed
    assert "break-inside: avoid" in printed
    assert "nav { display: none; }" in printed
    ids = re.findall(r'\bid="([^"]*)"', html)
    assert len(ids) == len(set(ids))
    assert 'marker-end="url(#summary-4-p)"' in html


@pytest.mark.parametrize(
    "svg",
    [
        "<svg><script>alert(1)</script></svg>",
        '<svg onload="alert(1)"/>',
        '<svg><g style="x"/></svg>',
        '<svg><image href="x"/></svg>',
        '<svg><path href="http://evil.example"/></svg>',
        '<svg><path fill="url(http://evil.example)"/></svg>',
        '<!DOCTYPE svg [<!ENTITY a "b">]><svg/>',
        '<svg xmlns:x="http://www.w3.org/1999/xlink"><path x:href="#a"/></svg>',
        "<svg><foreignObject/></svg>",
    ],
)
def test_a_drawing_that_could_run_or_load_anything_is_refused(svg: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        drawn(svg, "a")


def test_a_document_is_checked_when_it_is_made() -> None:
    with pytest.raises(ValueError, match="expected a source for everything that is cited, found none for nobody"):
        document(sections=(Section("s", (Bullets((Text("x", ("nobody",)),)),), "s"),))
    with pytest.raises(ValueError, match="expected every section once, found s twice"):
        document(sections=(Section("s", (), "s"), Section("t", (), "s")))
    with pytest.raises(ValueError, match="expected 1 columns"):
        Table(("a",), (("b", "c"),))


def test_a_template_of_ones_own_replaces_all_or_parts(tmp_path: Path) -> None:
    whole = tmp_path / "ours.md"
    whole.write_text('{% from "rca/blocks.md" import body %}\n{{ document.title }}!\n{{ body(sections.lessons) }}')
    assert to_markdown(document("a*b"), whole) == "a\\*b!\n> **To be written:** a\\*b\n\n"
    page = tmp_path / "document.html"
    page.write_text('{% extends "rca/document.html" %}{% block head %}<p>{{ document.title }}</p>{% endblock %}')
    assert "<p>a&lt;b</p>" in to_html(document("a<b"), page)


@pytest.mark.parametrize(
    ("template", "line", "found"),
    [
        ("a\n{% if %}", 2, "Expected an expression"),
        ("a\n\n{{ documnet.title }}", 3, "'documnet' is undefined"),
        ("{{ sections.impct.heading }}", 1, "no attribute 'impct'"),
        ("{{ 1 / 0 }}", 1, "division by zero"),
        ("\n{% include 'other.md' %}", 2, "a template that is not there: other.md"),
        ("{{ document.__class__.__mro__ }}", 1, "unsafe"),
        ("{% for x in range(10000000) %}{% endfor %}", 1, "Range too big"),
        ("x\n{% include 'mine.md' %}", 2, "recursion"),
        ("{{ document|nosuch }}", 1, "No filter named 'nosuch'"),
    ],
)
def test_a_mistake_in_a_template_is_told_with_its_line(tmp_path: Path, template: str, line: int, found: str) -> None:
    path = tmp_path / "mine.md"
    path.write_text(template)
    with pytest.raises(BadInput, match=re.escape(f"mine.md, line {line}: expected a template of jinja2")) as raised:
        to_markdown(document(), path)
    assert found in raised.value.found
    assert "summary, lessons" in raised.value.expected


def test_a_template_that_is_not_there_or_no_text_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="expected a file, found nothing there"):
        to_markdown(document(), tmp_path / "none.md")
    with pytest.raises(BadInput, match="expected a file, found a folder"):
        to_markdown(document(), tmp_path)
    (tmp_path / "bytes.md").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="found text that is not UTF-8"):
        to_markdown(document(), tmp_path / "bytes.md")
