"""The graphs of the last incidents as they were counted, in an SQLite file below the home: what drift is told from.

A count is some KiB: of every feature of a graph at most MOST_VALUES values, of no entity its name. It is written when an
incident is kept, so nothing has to be read again to say whether now looks like training, and a restart loses nothing.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from rca.arrays import Schema, arrays_of
from rca.errors import BadInput
from rca.features import EDGE_FEATURE_NAMES, NODE_FEATURE_NAMES
from rca.graph import ServiceGraph
from rca.incidents.database import Database, Migrations, explained
from rca.models.measures import MODALITIES, Measure, Measured, measured

RECENT_FILE: Final = "recent.sqlite3"
MOST_KEPT: Final = 200
"""Incidents; of more, the oldest are forgotten."""
MOST_VALUES: Final = 500
"""Of a graph with more values of a quantity, so many stand for all: as many between any two of them."""

MIGRATIONS: Final[Migrations] = [
    (
        """CREATE TABLE counts (
             incident_id TEXT PRIMARY KEY,
             recording TEXT NOT NULL,   -- digest of what it was counted from
             system TEXT NOT NULL,
             end_ns INTEGER NOT NULL,
             schema TEXT NOT NULL,      -- digest of the names of the features
             body BLOB NOT NULL) STRICT""",
        "CREATE INDEX counts_by_time ON counts (end_ns)",
    ),
]
_BUSY_SECONDS: Final = 30.0
_HERE: Final = Schema(NODE_FEATURE_NAMES, EDGE_FEATURE_NAMES)


@dataclass(frozen=True, eq=False)
class Counted:
    """One incident: its system, when its window ended, and its graph as it was counted."""

    incident_id: str
    system: str
    end_ns: int
    measured: Measured


class Recent:
    """The counts of a home; it belongs to one thread, and several processes may use it at once.

    Raises BadInput for a file that is none of these, StorageFull, and Unavailable where another process holds it for too long.
    """

    def __init__(self, home: Path) -> None:
        self.path = home / RECENT_FILE
        with self._explained():
            home.mkdir(parents=True, exist_ok=True)
            self._database = Database(self.path, MIGRATIONS, _BUSY_SECONDS)

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def keep(self, incident_id: str, recording: str, system: str, end_ns: int, graph: ServiceGraph) -> None:
        """Count the graph of an incident, in the place of what was counted of it before. Raises BadGraph."""
        body = packed(measured(arrays_of([graph])))
        row = (incident_id, recording, system, end_ns, _digest(Schema.of(graph)), body)
        with self._explained(), self._database.writing():
            self._database.connection.execute("INSERT OR REPLACE INTO counts VALUES (?, ?, ?, ?, ?, ?)", row)
            self._database.connection.execute(
                "DELETE FROM counts WHERE incident_id NOT IN (SELECT incident_id FROM counts ORDER BY end_ns DESC LIMIT ?)",
                (MOST_KEPT,),
            )

    def recordings(self, schema: Schema = _HERE) -> Mapping[str, str]:
        """What every incident was counted from, where its features were those of the schema."""
        query = "SELECT incident_id, recording FROM counts WHERE schema = ?"
        with self._explained():
            return dict(self._database.connection.execute(query, (_digest(schema),)))

    def since(self, since_ns: int, schema: Schema = _HERE) -> tuple[Counted, ...]:
        """Incidents that ended after a moment, oldest first, of such features. Raises BadInput for a count that is damaged."""
        query = """SELECT incident_id, system, end_ns, body FROM counts WHERE end_ns > ? AND schema = ?
                   ORDER BY end_ns, incident_id"""
        with self._explained():
            rows = self._database.connection.execute(query, (since_ns, _digest(schema))).fetchall()
        return tuple(Counted(name, system, end_ns, self._unpacked(name, body)) for name, system, end_ns, body in rows)

    def _unpacked(self, incident_id: str, body: bytes) -> Measured:
        try:
            return unpacked(body)
        except (ValueError, KeyError, TypeError, zlib.error) as error:
            expected = "a graph that was counted (remove the file to start anew)"
            raise BadInput(f"{self.path}: {incident_id}", expected=expected, found=str(error)) from error

    def _explained(self) -> AbstractContextManager[None]:
        return explained(self.path, "counts of the last incidents", _BUSY_SECONDS)


def packed(found: Measured) -> bytes:
    """The count of one graph as bytes. Of a quantity with many values, some stand for all; the share that is missing stays."""
    head: dict[str, Any] = {
        "missing": [name for name, gone in found.missing.items() if gone[0]],
        "kinds": dict(found.kinds),
        "relations": dict(found.relations),
        "measures": {},
    }
    values = []
    for name, measure in found.measures.items():
        ordered = np.sort(measure.values)
        kept = min(len(ordered), MOST_VALUES)
        asked = int(measure.asked[0])
        if kept < len(ordered):
            asked = round(asked * kept / len(ordered))
            ordered = ordered[((np.arange(kept) + 0.5) * len(ordered) / kept).astype(np.int64)]
        head["measures"][name] = [measure.group, kept, asked]
        values.append(ordered.astype("<f2").tobytes())
    return zlib.compress(json.dumps(head, separators=(",", ":")).encode() + b"\n" + b"".join(values))


def unpacked(body: bytes) -> Measured:
    """What `packed` packed. Raises ValueError, KeyError, TypeError or zlib.error for anything else."""
    text, _, rest = zlib.decompress(body).partition(b"\n")
    head = json.loads(text)
    values = np.frombuffer(rest, dtype="<f2").astype(np.float16)
    measures: dict[str, Measure] = {}
    start = 0
    for name, (group, kept, asked) in head["measures"].items():
        owner = np.zeros(kept, dtype=np.int64)
        measures[name] = Measure(group, values[start : start + kept], owner, np.array([asked], dtype=np.int64))
        start += kept
    if start != len(values):
        raise ValueError(f"{len(values)} values in the place of {start}")
    missing = {str(name): np.array([name in head["missing"]], dtype=np.bool_) for name in MODALITIES}
    return Measured(1, measures, missing, head["kinds"], head["relations"])


def _digest(schema: Schema) -> str:
    return hashlib.sha256("\n".join((*schema.features, "", *schema.edge_features)).encode()).hexdigest()[:16]
