"""Log lines to templates: severity, masking of variable parts, and template mining with Drain.

Masking runs in Polars on distinct texts; only distinct masked lines reach Drain (He et al., "Drain: An online log parsing
approach with fixed depth tree", ICWS 2017), in order of their first appearance, so that the same lines give the same templates.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import Any, Final

import polars as pl

from rca.telemetry import SECOND_NS

BIN_NS: Final = 10 * SECOND_NS
"""Lines of a template are counted in bins of this length."""

_MAX_CHARACTERS: Final = 800
_MAX_WORDS: Final = 30
_ANY: Final = "<*>"
_WORDS: Final = {"WARNING": "WARN", "ERR": "ERROR", "SEVERE": "ERROR", "CRITICAL": "FATAL", "PANIC": "FATAL", "NOTICE": "INFO"}
_LEVELS: Final = ("TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL")

# A short line's words tell "started" from "completed", so Drain starts strict; masking has taken the variable parts already.
_LIKENESSES: Final = (0.9, 0.7, 0.5, 0.3)
_MANY_TEMPLATES: Final = 200
_REPEATED: Final = re.compile(r"(\S.{3,80}?)(?:[ ,;]*\1)+")  # `item: <*> item: <*>` is a list of any length

# Order matters: what a later pattern would tear apart comes first.
_MASKS: Final[tuple[tuple[str, str], ...]] = (
    (r"\s+", " "),
    (r'"[^"]*"', _ANY),
    (r"\B'[^']*'\B", _ANY),
    (r"\b[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}\b", _ANY),
    (r"\b(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun),? \w{3} \d{1,2} \d{2}:\d{2}:\d{2} \w+ \d{4}\b", _ANY),
    (r"\b\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2})?(?:[.,]\d+)?(?:Z|[+-]\d{2}:?\d{2})?)?", _ANY),
    (r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b", _ANY),
    (r"\b[0-9a-fA-F]{16,}\b", _ANY),
    (r"=\[[^\[\]]*\]", f"={_ANY}"),
    (r"=[^\s,;()\[\]{}]+", f"={_ANY}"),
    (r"\([^()]*\)", f"({_ANY})"),
    (r"\([^()]*\([^()]*\)[^()]*\)", f"({_ANY})"),
    (r"\{[^{}]*\}", f"{{{_ANY}}}"),
    (r"\{[^{}]*\{[^{}]*\}[^{}]*\}", f"{{{_ANY}}}"),
    (r"\[[^\[\]]*,[^\[\]]*\]", f"[{_ANY}]"),
    (r"([:\u{ff1a}])\s*[^\[\]]*\]", f"${{1}} {_ANY}]"),
    (r"[\w.-]*\d[\w.-]*", _ANY),
    (r"(?:[\w.]+\(<\*>\)[,;]?\s*){2,}", _ANY),
    (r"<\*>(?:[\s,.:/-]*<\*>)+", _ANY),
)


def severity(given: pl.Expr, text: pl.Expr) -> pl.Expr:
    """Severity in the bundle's words, from a level that the line states, else ERROR if the text says so, else INFO."""
    stated = given.str.to_uppercase().replace(_WORDS)
    says_error = text.str.contains(r"\bERROR\b|Exception\b|\bTraceback\b|\bpanic:")
    return pl.when(stated.is_in(_LEVELS)).then(stated).when(says_error).then(pl.lit("ERROR")).otherwise(pl.lit("INFO"))


def mask(text: pl.Expr) -> pl.Expr:
    """Text with numbers, identifiers, dates, addresses, quoted values and argument lists masked, cut to 30 words."""
    masked = text.str.slice(0, _MAX_CHARACTERS)
    for pattern, replacement in _MASKS:
        masked = masked.str.replace_all(pattern, replacement)
    return masked.str.strip_chars().str.split(" ").list.head(_MAX_WORDS).list.join(" ")


def mine(lines: pl.DataFrame) -> pl.DataFrame:
    """Add a column `template` to lines with columns `group`, `source` (file and line that wrote it, may be null) and `text`.

    Groups (services) are mined apart. The source is never masked and leads the template.
    """
    texts = lines.select("group", "source", "text").unique(maintain_order=True)
    texts = texts.with_columns(masked=pl.concat_str([pl.col("source"), mask(pl.col("text"))], separator=" ", ignore_nulls=True))
    distinct = texts.select("group", "masked").unique(maintain_order=True)
    mined = distinct.with_columns(template=pl.Series("template", _drain(distinct), dtype=pl.String))
    texts = texts.join(mined, on=["group", "masked"], how="left", maintain_order="left").drop("masked")
    return lines.join(texts, on=["group", "source", "text"], how="left", nulls_equal=True, maintain_order="left")


def count(lines: pl.DataFrame, origin_ns: int) -> pl.DataFrame:
    """The `logs` frame: lines (columns time_unix_nano, group, operation, severity, template, and namespace where there are any)
    counted in bins of 10 s.

    Bins start at `origin_ns` plus multiples of 10 s, so that a bin never straddles an incident that starts there.
    """
    time = (pl.col("time_unix_nano") - origin_ns) // BIN_NS * BIN_NS + origin_ns
    named = ["namespace"] if "namespace" in lines.columns else []
    keys = ["time_unix_nano", "group", *named, "operation", "severity", "template"]
    counted = lines.with_columns(time).group_by(keys).agg(pl.len().cast(pl.Int64).alias("count")).sort(keys)
    return counted.with_columns(pl.lit("service").alias("entity_kind")).rename({"group": "entity"})


class Templates:
    """Templates of lines that keep coming: the same mining as `mine`, one line after the other, in bounded memory.

    A service has at most `most` templates. When there are more, they are mined again with less likeness; when the least does not
    help, further lines count as `<*>`. Services that wrote nothing for longest are forgotten first.
    """

    def __init__(self, most: int = _MANY_TEMPLATES, services: int = 1000) -> None:
        self._most, self._services = most, services
        self._groups: OrderedDict[str, _Group] = OrderedDict()

    def mine(self, lines: pl.DataFrame) -> pl.DataFrame:
        """Add a column `template` to lines with columns `group` (service) and `text`."""
        texts = lines.select("group", "text").unique(maintain_order=True).with_columns(mask(pl.col("text")).alias("masked"))
        distinct = texts.select("group", "masked").unique(maintain_order=True)
        found = [self._group(group).template(masked) for group, masked in distinct.iter_rows()]
        distinct = distinct.with_columns(pl.Series("template", found, dtype=pl.String))
        texts = texts.join(distinct, on=["group", "masked"], how="left", nulls_equal=True, maintain_order="left").drop("masked")
        return lines.join(texts, on=["group", "text"], how="left", nulls_equal=True, maintain_order="left")

    def _group(self, name: str) -> _Group:
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = _Group(self._most)
        self._groups.move_to_end(name)
        if len(self._groups) > self._services:
            self._groups.popitem(last=False)
        return group


class _Group:
    """Templates of one service."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._likenesses = iter(_LIKENESSES)
        self._miner = _miner(next(self._likenesses))
        self._full = False
        self._known: dict[str, Any] = {}  # masked line to its cluster, whose template may still become coarser

    def template(self, masked: str) -> str:
        cluster = self._known.get(masked) or self._cluster(_REPEATED.sub(r"\1", masked))
        if cluster is None:
            return _ANY
        if len(self._known) > 2 * self._most:
            self._known.clear()
        self._known[masked] = cluster
        return str(cluster.get_template())

    def _cluster(self, line: str) -> Any:
        if self._full:
            return self._miner.match(line)
        cluster = self._miner.add_log_message(line)[0]
        while len(self._miner.clusters) > self._most:
            likeness = next(self._likenesses, None)
            if likeness is None:
                self._full = True
                return cluster
            coarser = _miner(likeness)
            for old in self._miner.clusters:
                coarser.add_log_message(old.get_template())
            self._miner = coarser
            self._known.clear()
            cluster = coarser.add_log_message(line)[0]
        return cluster


def _drain(distinct: pl.DataFrame) -> list[str]:
    """Template of each (group, masked) row: the strictest likeness that keeps a group's templates few."""
    templates: dict[tuple[str, str], str] = {}
    for (group,), rows in distinct.group_by("group", maintain_order=True):
        lines = [_REPEATED.sub(r"\1", line) for line in rows["masked"]]
        for likeness in _LIKENESSES:
            mined = _mined(lines, likeness)
            if len(set(mined)) <= _MANY_TEMPLATES:
                break
        templates.update(zip(((group, masked) for masked in rows["masked"]), mined, strict=True))
    return [templates[row] for row in distinct.iter_rows()]


def _mined(lines: list[str], likeness: float) -> list[str]:
    miner = _miner(likeness)
    clusters = [miner.add_log_message(line)[0] for line in lines]
    return [cluster.get_template() for cluster in clusters]


def _miner(likeness: float) -> Any:
    from drain3.drain import Drain

    return Drain(depth=4, sim_th=likeness, max_children=100, parametrize_numeric_tokens=False)
