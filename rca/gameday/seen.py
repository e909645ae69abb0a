"""What another tool injected: the records of times, targets and fault kinds, and the plain file of them.

A plain file is CSV with a header, TOML with `[[injection]]` tables, or JSON: a list, or an object with `injection`. Its fields
are `fault`, `target`, `start` and `end` (RFC 3339 with an offset), `strength` and `note`. Without an `end`, that is not known, or
it lasts still.
"""

from __future__ import annotations

import csv
import io
import json
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from rca.errors import BadInput, BadTelemetry, UnknownName
from rca.faults import FAULT_KINDS, is_no_fault
from rca.gameday.injections import Injection, Source
from rca.models.files import write_atomically
from rca.telemetry import SECOND_NS, EntityId, check_time

_FIELDS: Final = ("fault", "target", "start", "end", "strength", "note")
_REQUIRED: Final = ("fault", "start")


@dataclass(frozen=True)
class Seen:
    """An injection that another tool tells of. Times in ns; `end_ns` is None where it is not known, or it lasts still.

    `target` is what that tool calls whom it hit, `names` what telemetry may call it, the likeliest first.
    """

    fault_kind: str
    target: str
    start_ns: int
    end_ns: int | None
    source: Source
    strength: float | None = None
    note: str = ""
    names: tuple[str, ...] = ()

    @property
    def identity(self) -> tuple[str, str, int]:
        """What two records of the same injection share. Files tell times to the microsecond."""
        return self.fault_kind, self.target, self.start_ns // 1000

    def injection(self, number: int, culprit: EntityId | None) -> Injection:
        """The injection of that number, whose label names `culprit`."""
        return Injection(
            number, self.fault_kind, self.target, culprit, self.start_ns, self.end_ns, self.strength, self.source, self.note
        )


def read_injections(path: Path) -> list[Seen]:
    """The injections of a plain file, in the order of time. Raises BadInput that names the line or the entry."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "bytes that are not UTF-8"
        raise BadInput(str(path), expected="a file with injections", found=str(reason)) from None
    readers = {".csv": _csv_rows, ".toml": _toml_rows, ".json": _json_rows}
    if path.suffix not in readers:
        raise BadInput(str(path), expected=f"a file that ends in {', '.join(readers)}", found=path.suffix or "no ending")
    found = [_seen(where, row) for where, row in readers[path.suffix](text, str(path))]
    return sorted(found, key=lambda seen: (seen.start_ns, seen.fault_kind, seen.target))


def write_injections(path: Path, injections: Iterable[Seen]) -> None:
    """Write a CSV file that `read_injections` reads, in one step. Raises StorageFull."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_FIELDS)
    for seen in injections:
        end = "" if seen.end_ns is None else _moment(seen.end_ns)
        strength = "" if seen.strength is None else f"{seen.strength:g}"
        writer.writerow((seen.fault_kind, seen.target, _moment(seen.start_ns), end, strength, seen.note))
    write_atomically(path, text.getvalue().encode())


def _csv_rows(text: str, where: str) -> list[tuple[str, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text), restkey="?", skipinitialspace=True)
    rows = [(f"{where}, line {reader.line_num}", {str(key).strip(): value for key, value in row.items()}) for row in reader]
    if not reader.fieldnames:
        raise BadInput(where, expected=f"a header: {','.join(_FIELDS)}", found="an empty file")
    return [(place, {key: value for key, value in row.items() if value not in (None, "")}) for place, row in rows]


def _toml_rows(text: str, where: str) -> list[tuple[str, dict[str, Any]]]:
    try:
        body = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadInput(where, expected="TOML", found=str(error)) from None
    return _listed(body, where, "[[injection]] tables")


def _json_rows(text: str, where: str) -> list[tuple[str, dict[str, Any]]]:
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(where, expected="JSON", found=str(error)) from None
    return _listed({"injection": body} if isinstance(body, list) else body, where, "a list of injections, or an object with one")


def _listed(body: Any, where: str, expected: str) -> list[tuple[str, dict[str, Any]]]:
    entries = body.get("injection") if isinstance(body, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries) or set(body) != {"injection"}:
        raise BadInput(
            where, expected=expected, found=", ".join(map(str, body)) if isinstance(body, dict) else type(body).__name__
        )
    return [(f"{where}, injection {number}", entry) for number, entry in enumerate(entries, 1)]


def _seen(where: str, row: dict[str, Any]) -> Seen:
    for key in row:
        if key not in _FIELDS:
            raise UnknownName(f"{where}: field", key, _FIELDS)
    for key in _REQUIRED:
        if key not in row:
            raise BadInput(where, expected=f"{' and '.join(_REQUIRED)} of every injection", found=f"no {key}")
    fault, target = str(row["fault"]), str(row.get("target", ""))
    if fault not in FAULT_KINDS:
        raise UnknownName(f"{where}: fault", fault, FAULT_KINDS)
    if not target and not is_no_fault(fault):
        raise BadInput(f"{where}: target", expected=f"whom {fault} hit", found="none")
    start_ns, end_ns = _time(f"{where}: start", row["start"]), _time(f"{where}: end", row["end"]) if "end" in row else None
    if end_ns is not None and end_ns <= start_ns:
        raise BadInput(f"{where}: end", expected=f"a time after the start, {row['start']}", found=str(row["end"]))
    strength = _strength(f"{where}: strength", row["strength"]) if "strength" in row else None
    return Seen(fault, target, start_ns, end_ns, "file", strength, str(row.get("note", "")), (target,) if target else ())


def _time(where: str, value: Any) -> int:
    """Nanoseconds of an RFC 3339 text, or of a date and time of TOML."""
    expected = "a time with its offset, such as 2026-01-15T10:10:00Z"
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value).strip())
        if moment.tzinfo is None:
            raise BadInput(where, expected=expected, found=f"{value}, without an offset")
        time_ns = int(moment.replace(microsecond=0).timestamp()) * SECOND_NS + moment.microsecond * 1000
        check_time(where, time_ns)
    except (ValueError, BadTelemetry):
        raise BadInput(where, expected=expected, found=repr(value)) from None
    return time_ns


def _strength(where: str, value: Any) -> float:
    try:
        strength = float(value)
    except (TypeError, ValueError):
        strength = -1.0
    if not 0 < strength <= 1:
        raise BadInput(where, expected="a number above 0, up to 1", found=repr(value))
    return strength


def _moment(time_ns: int) -> str:
    seconds, rest = divmod(time_ns, SECOND_NS)
    moment = datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest // 1000)
    return moment.isoformat().replace("+00:00", "Z")


def grouped(injections: Sequence[Seen]) -> list[list[Seen]]:
    """Injections that overlap in time, together; groups and their injections in the order of time.

    One whose end is not known overlaps nothing that begins after it: who injects again has usually ended the last one.
    """
    groups: list[list[Seen]] = []
    for seen in sorted(injections, key=lambda each: each.start_ns):
        if groups and any(other.end_ns is not None and seen.start_ns < other.end_ns for other in groups[-1]):
            groups[-1].append(seen)
        else:
            groups.append([seen])
    return groups
