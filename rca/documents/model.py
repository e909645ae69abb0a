"""What a document is made of. Plain values: nothing here is escaped, for each format escapes in its own way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

Align = Literal["left", "right", "center"]


@dataclass(frozen=True)
class Text:
    """A paragraph, or an item of a list. `cites` are the keys of the sources that it rests on."""

    words: str
    cites: tuple[str, ...] = ()

    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class Bullets:
    """A list."""

    items: tuple[Text, ...]

    kind: ClassVar[str] = "bullets"


@dataclass(frozen=True)
class Table:
    """A table. `align` has one entry per column, or none at all: text stands left.

    `cites` stand behind the caption, `row_cites` (one entry per row, or none at all) behind the last cell of each row.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    align: tuple[Align, ...] = ()
    cites: tuple[str, ...] = ()
    row_cites: tuple[tuple[str, ...], ...] = ()

    kind: ClassVar[str] = "table"

    def __post_init__(self) -> None:
        wrong = next((row for row in self.rows if len(row) != len(self.header)), None)
        if wrong is not None or len(self.align) not in (0, len(self.header)):
            raise ValueError(f"expected {len(self.header)} columns in every row and in align, found {wrong or self.align}")
        if len(self.row_cites) not in (0, len(self.rows)):
            raise ValueError(f"expected row_cites of {len(self.rows)} rows or of none, found {len(self.row_cites)}")


@dataclass(frozen=True)
class Figure:
    """A drawing as SVG, and in words: those are all that Markdown shows of it."""

    svg: str
    words: str
    title: str = ""
    cites: tuple[str, ...] = ()

    kind: ClassVar[str] = "figure"


@dataclass(frozen=True)
class Figures:
    """Small drawings side by side."""

    items: tuple[Figure, ...]

    kind: ClassVar[str] = "figures"


@dataclass(frozen=True)
class Question:
    """What no data answers, and a person has to write."""

    words: str

    kind: ClassVar[str] = "question"


@dataclass(frozen=True)
class Code:
    """Text to be copied, line by line as it stands."""

    text: str
    language: str = ""

    kind: ClassVar[str] = "code"


Block = Text | Bullets | Table | Figure | Figures | Question | Code


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it. `key` is stable: templates and tests name sections by it."""

    heading: str
    blocks: tuple[Block, ...]
    key: str


@dataclass(frozen=True)
class Source:
    """Supporting data: what it is, where it is (an http address becomes a link), and what to type to see it again."""

    key: str
    what: str
    where: str = ""
    queries: tuple[str, ...] = ()


@dataclass(frozen=True)
class Document:
    """A document. `facts` are names and values under its title; `sources` are numbered from 1 in their order.

    Raises ValueError if it cites a source that it does not list, or names a section or a source twice.
    """

    title: str
    subtitle: str
    sections: tuple[Section, ...]
    facts: tuple[tuple[str, str], ...] = ()
    sources: tuple[Source, ...] = ()

    def __post_init__(self) -> None:
        for what, keys in (("section", [one.key for one in self.sections]), ("source", [one.key for one in self.sources])):
            twice = [key for key, times in Counter(keys).items() if times > 1]
            if twice:
                raise ValueError(f"expected every {what} once, found {', '.join(twice)} twice")
        unknown = sorted(set(cites_of(self.sections)) - {source.key for source in self.sources})
        if unknown:
            raise ValueError(f"expected a source for everything that is cited, found none for {', '.join(unknown)}")

    @cached_property
    def numbers(self) -> Mapping[str, int]:
        """Numbers of the sources by key."""
        return {source.key: i for i, source in enumerate(self.sources, 1)}

    @cached_property
    def by_key(self) -> Mapping[str, Section]:
        """Sections by key."""
        return {section.key: section for section in self.sections}


def cites_of(sections: Iterable[Section]) -> Iterator[str]:
    """Keys of everything that sections cite, as often as they do, in the order in which it is read."""
    for section in sections:
        for block in section.blocks:
            yield from getattr(block, "cites", ())
            for item in getattr(block, "items", ()):
                yield from item.cites
            for cites in getattr(block, "row_cites", ()):
                yield from cites
