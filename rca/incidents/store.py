"""The incident store: an SQLite database for what people look up and change, and a bundle folder beside it per incident.

The bundle is written once and never changed; labels live in the database alone, with an audit trail. A write that was
acknowledged survives kill -9: the bundle is on the disk before the row that names it is committed. All SQL of the product
stands in this package: here, and in rca.incidents.inbox.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self

from rca.errors import BadBundle, BadInput, RcaError, UnknownName
from rca.faults import NO_FAULT
from rca.incidents.bundle import (
    INCIDENT_FILE,
    IncidentFile,
    bundle_files,
    merged_gaps,
    read_bundle,
    read_manifest,
    write_bundle,
    write_folder,
)
from rca.incidents.database import Database, explained
from rca.incidents.entities import check_label, known_entities
from rca.incidents.home import default_home, user_name
from rca.incidents.incident import EntityModel, Incident, Label
from rca.telemetry import Telemetry

DATABASE_FILE: Final = "incidents.sqlite3"
BUNDLE_FOLDER: Final = "bundles"
BUSY_SECONDS: Final = 30.0
"""How long a write waits for another process's write."""

LabelState = Literal["labelled", "unlabelled", "disputed"]
Outcome = Literal["added", "unchanged", "replaced"]

MIGRATIONS: Final[list[tuple[str, ...]]] = [
    (
        """CREATE TABLE incidents (
             id TEXT PRIMARY KEY,
             system TEXT NOT NULL,
             start_ns INTEGER NOT NULL,
             body TEXT NOT NULL,        -- incident.json without labels and frames
             digest TEXT NOT NULL,      -- of the bundle as it was added
             folder TEXT NOT NULL,      -- under bundles/
             added_ns INTEGER NOT NULL) STRICT""",
        """CREATE TABLE labels (
             incident_id TEXT NOT NULL REFERENCES incidents (id) ON DELETE CASCADE,
             position INTEGER NOT NULL,
             fault_kind TEXT NOT NULL,
             provenance TEXT NOT NULL,
             from_bundle INTEGER NOT NULL,
             body TEXT NOT NULL,
             PRIMARY KEY (incident_id, position)) STRICT""",
        """CREATE TABLE audit (
             number INTEGER PRIMARY KEY AUTOINCREMENT,
             at_ns INTEGER NOT NULL,
             who TEXT NOT NULL,
             incident_id TEXT NOT NULL, -- no reference: the trail outlives the incident
             action TEXT NOT NULL,
             before TEXT NOT NULL,      -- JSON
             after TEXT NOT NULL) STRICT""",
        "CREATE INDEX audit_of_incident ON audit (incident_id, number)",
    ),
]
"""Statements that lead from version i to i + 1 of the schema. Append only."""


@dataclass(frozen=True)
class AuditEntry:
    """One change: who made it, when, to which incident, and what stood there before and after (JSON values)."""

    number: int
    at_ns: int
    who: str
    incident_id: str
    action: str
    before: Any
    after: Any


class IncidentStore:
    """Incidents by id. Several processes may use one store at once; one object belongs to one thread.

    Every change is acknowledged by returning, and is then on the disk. Raises StorageFull if the disk is full, Unavailable if
    another process holds the store for longer than BUSY_SECONDS, BadInput if the home is not a store of this version.
    """

    def __init__(self, home: Path | None = None, *, who: str = "") -> None:
        self.home = Path(home) if home else default_home()
        self._who = who or user_name()
        self._bundles = self.home / BUNDLE_FOLDER
        with _explained(self.home):
            self._bundles.mkdir(parents=True, exist_ok=True)
            database = Database(self.home / DATABASE_FILE, MIGRATIONS, BUSY_SECONDS)
            self._db, self._writing, self._reading = database.connection, database.writing, database.reading
            try:
                self._sweep()
            except BaseException:
                self._db.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the database."""
        self._db.close()

    # --- reading ------------------------------------------------------------------------------------------------

    def list(
        self, *, system: str | None = None, state: LabelState | None = None, fault_kind: str | None = None
    ) -> tuple[Incident, ...]:
        """Incidents with their present labels, oldest first, that fit every filter. Reads no bundle.

        `labelled` means that at least one label is undisputed, `disputed` that there are labels and none is undisputed.
        """
        undisputed = "EXISTS (SELECT 1 FROM labels WHERE incident_id = id AND provenance != 'disputed'{})"
        some = "EXISTS (SELECT 1 FROM labels WHERE incident_id = id)"
        states = {
            None: "1",
            "labelled": undisputed.format(""),
            "unlabelled": f"NOT {some}",
            "disputed": f"{some} AND NOT {undisputed.format('')}",
        }
        if state not in states:
            raise UnknownName("label state", str(state), [name for name in states if name])
        query = f"""SELECT id FROM incidents
            WHERE (?1 IS NULL OR system = ?1) AND {states[state]}
              AND (?2 IS NULL OR {undisputed.format(" AND fault_kind = ?2")})
            ORDER BY start_ns, id"""
        with _explained(self.home), self._reading():
            ids = [row[0] for row in self._db.execute(query, (system, fault_kind))]
            return tuple(self._incident(incident_id) for incident_id in ids)

    def incident(self, incident_id: str) -> Incident:
        """One incident with its present labels; its telemetry stays unread. Raises UnknownName."""
        with _explained(self.home), self._reading():
            return self._incident(incident_id)

    def get(self, incident_id: str) -> tuple[Incident, Telemetry]:
        """One incident with its present labels and its telemetry. Raises UnknownName, BadBundle, BadTelemetry."""
        while True:
            folder = self._folder(incident_id)
            try:
                telemetry = read_bundle(self._bundles / folder)[1]
            except BadBundle:
                if self._folder(incident_id) != folder:  # replaced by another process while we read
                    continue
                raise
            return self.incident(incident_id), telemetry

    def manifest(self, incident_id: str) -> IncidentFile:
        """One incident with its present labels and the files of its frames. Raises UnknownName, BadBundle."""
        stored = read_manifest(self._bundles / self._folder(incident_id))
        return stored.model_copy(update={"labels": self.incident(incident_id).labels})

    def audit(self, incident_id: str | None = None) -> tuple[AuditEntry, ...]:
        """Every change in order, of one incident or of all; removed incidents keep their trail."""
        query = "SELECT * FROM audit WHERE ?1 IS NULL OR incident_id = ?1 ORDER BY number"
        with _explained(self.home):
            rows = self._db.execute(query, (incident_id,)).fetchall()
        return tuple(AuditEntry(*row[:5], *map(json.loads, row[5:])) for row in rows)

    # --- changing -----------------------------------------------------------------------------------------------

    def add(self, incident: Incident, telemetry: Telemetry, *, replace: bool = False) -> Outcome:
        """Add an incident. An identical one changes nothing, labels given here included.

        Raises BadInput if another incident has the id, unless `replace`, which also repairs a damaged bundle; labels that were
        given here survive a replacement.
        """
        incident = incident.model_copy(update={"gaps": merged_gaps(incident, telemetry)})
        files = bundle_files(incident, telemetry)
        digest = hashlib.sha256(files[INCIDENT_FILE]).hexdigest()  # it carries the hashes of all frames
        folder = f"{incident.id}@{digest[:16]}"
        with _explained(self.home), self._writing():
            row = self._db.execute("SELECT digest, folder FROM incidents WHERE id = ?", (incident.id,)).fetchone()
            if row and ((row[0] == digest and not replace) or self._holds(row[1], incident, telemetry)):
                return "unchanged"
            if row and not replace:
                raise BadInput(
                    f"incident {incident.id}", expected="an id that is free (or --replace)", found="another incident of that id"
                )
            before = self._snapshot(incident.id) if row else None
            kept = self._own_labels(incident.id)
            with self._kept_only_if_named(folder):
                write_folder(self._bundles / folder, files)
                self._db.execute("DELETE FROM incidents WHERE id = ?", (incident.id,))
                self._insert(incident, digest, folder, kept)
                self._note(incident.id, "replaced" if row else "added", before, self._snapshot(incident.id))
        if row and row[1] != folder:
            shutil.rmtree(self._bundles / row[1], ignore_errors=True)
        return "replaced" if row else "added"

    def label(self, incident_id: str, label: Label, *, force: bool = False) -> bool:
        """Append a label; False if the same one stands there already. Several entities may be labelled: several causes.

        Raises UnknownName for an entity that the incident's telemetry does not mention, and BadInput for one that the fault
        cannot name, unless `force`; BadInput if the entity has another undisputed label, which has to be disputed or
        withdrawn first. An inferred label may be confirmed directly.
        """
        where = f"label of incident {incident_id}"
        if not force:
            check_label(where, label, known_entities(*self.get(incident_id)))
        label = label.model_copy(update={"author": label.author or self._who, "at_ns": label.at_ns or time.time_ns()})
        with _explained(self.home), self._writing():
            labels = self._incident(incident_id).labels
            standing = next((x for x in labels if x.entity == label.entity and x.provenance != "disputed"), None)
            if standing is None:
                self._set_labels(incident_id, "labelled", (*labels, label))
                return True
            if (standing.fault_kind, standing.provenance) == (label.fault_kind, label.provenance):
                return False
            if (standing.fault_kind, standing.provenance, label.provenance) == (label.fault_kind, "inferred", "confirmed"):
                self._set_labels(incident_id, "confirmed", tuple(label if x is standing else x for x in labels))
                return True
            raise BadInput(
                where,
                expected=f"{label.name()} without a label (dispute or withdraw the old one first)",
                found=f"{standing.fault_kind} ({standing.provenance})",
            )

    def dispute(self, incident_id: str, entity: EntityModel | None, note: str = "") -> None:
        """Mark the undisputed label of an entity as disputed: it stays visible, and no longer counts. Raises UnknownName."""
        with _explained(self.home), self._writing():
            labels, standing = self._standing(incident_id, entity)
            doubted = standing.model_copy(update={"provenance": "disputed", "note": note or standing.note})
            self._set_labels(incident_id, "disputed", tuple(doubted if label is standing else label for label in labels))

    def withdraw(self, incident_id: str, entity: EntityModel | None) -> None:
        """Take back the label of an entity, disputed or not; the audit trail keeps it. Raises UnknownName."""
        with _explained(self.home), self._writing():
            labels, standing = self._standing(incident_id, entity, disputed=True)
            self._set_labels(incident_id, "withdrawn", tuple(label for label in labels if label is not standing))

    def remove(self, incident_id: str) -> None:
        """Remove an incident and its telemetry; the audit trail stays. Raises UnknownName."""
        with _explained(self.home), self._writing():
            folder = self._folder(incident_id)
            before = self._snapshot(incident_id)
            self._db.execute("DELETE FROM incidents WHERE id = ?", (incident_id,))
            self._note(incident_id, "removed", before, None)
        shutil.rmtree(self._bundles / folder, ignore_errors=True)  # what is left of it is swept at the next start

    # --- bundles in and out -------------------------------------------------------------------------------------

    def export(self, incident_id: str, path: Path, *, replace: bool = False) -> Path:
        """Write an incident with its present labels as a bundle. Raises as `get` and `write_bundle` do."""
        return write_bundle(path, *self.get(incident_id), replace=replace)

    def import_bundle(self, path: Path, *, replace: bool = False) -> tuple[Incident, Outcome]:
        """Add the incident of a bundle. Raises as `read_bundle` and `add` do."""
        incident, telemetry = read_bundle(path)
        return incident, self.add(incident, telemetry, replace=replace)

    # --- inside -------------------------------------------------------------------------------------------------

    def _sweep(self) -> None:
        """Remove bundles that no row names: their writer was killed. Waits for no one: a busy store is swept later."""
        if not self._orphans():
            return
        self._db.execute("PRAGMA busy_timeout = 0")
        try:
            with self._writing():  # who is just writing a bundle holds the same lock
                for path in self._orphans():
                    shutil.rmtree(path, ignore_errors=True)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
        finally:
            self._db.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")

    @contextlib.contextmanager
    def _kept_only_if_named(self, folder: str) -> Iterator[None]:
        """Give the room back at once if the row cannot be written: the disk may be full."""
        try:
            yield
        except BaseException:
            if self._db.in_transaction:  # SQLite itself rolls back on a full disk
                self._db.execute("ROLLBACK")
            if self._bundles / folder in self._orphans():
                shutil.rmtree(self._bundles / folder, ignore_errors=True)
            raise

    def _orphans(self) -> tuple[Path, ...]:
        present = tuple(self._bundles.iterdir())
        named = {row[0] for row in self._db.execute("SELECT folder FROM incidents")}
        return tuple(path for path in present if path.name not in named)

    def _folder(self, incident_id: str) -> str:
        row = self._db.execute("SELECT folder FROM incidents WHERE id = ?", (incident_id,)).fetchone()
        if row is None:
            raise self._unknown(incident_id)
        return str(row[0])

    def _unknown(self, incident_id: str) -> UnknownName:
        return UnknownName(
            f"incidents in {self.home}", incident_id, [row[0] for row in self._db.execute("SELECT id FROM incidents")]
        )

    def _incident(self, incident_id: str) -> Incident:
        row = self._db.execute("SELECT body FROM incidents WHERE id = ?", (incident_id,)).fetchone()
        if row is None:
            raise self._unknown(incident_id)
        query = "SELECT body FROM labels WHERE incident_id = ? ORDER BY position"
        labels = tuple(Label.model_validate_json(each[0]) for each in self._db.execute(query, (incident_id,)))
        return Incident.model_validate_json(row[0]).model_copy(update={"labels": labels})

    def _holds(self, folder: str, incident: Incident, telemetry: Telemetry) -> bool:
        """True if a stored bundle says the same in other bytes (another version of a library wrote it)."""
        try:
            if read_manifest(self._bundles / folder).incident() != incident:
                return False
            stored = read_bundle(self._bundles / folder)[1].frames()
        except RcaError:
            return False  # damaged: `replace` repairs it
        return all(frame.equals(stored[name]) for name, frame in telemetry.frames().items())

    def _insert(self, incident: Incident, digest: str, folder: str, kept: tuple[Label, ...]) -> None:
        body = incident.model_copy(update={"labels": ()}).model_dump_json()
        row = (incident.id, incident.system, incident.window.start_ns, body, digest, folder, time.time_ns())
        self._db.execute("INSERT INTO incidents VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        judged = {label.entity for label in kept}
        given = tuple(label for label in incident.labels if label.entity not in judged)
        self._insert_labels(incident.id, (*given, *kept), from_bundle=len(given))

    def _insert_labels(self, incident_id: str, labels: tuple[Label, ...], from_bundle: int) -> None:
        rows = [
            (incident_id, i, label.fault_kind, label.provenance, i < from_bundle, label.model_dump_json())
            for i, label in enumerate(labels)
        ]
        self._db.executemany("INSERT INTO labels VALUES (?, ?, ?, ?, ?, ?)", rows)

    def _own_labels(self, incident_id: str) -> tuple[Label, ...]:
        """Labels that were given or disputed here, not brought by the bundle."""
        query = "SELECT body FROM labels WHERE incident_id = ? AND NOT from_bundle ORDER BY position"
        return tuple(Label.model_validate_json(row[0]) for row in self._db.execute(query, (incident_id,)))

    def _set_labels(self, incident_id: str, action: str, labels: tuple[Label, ...]) -> None:
        """Write the labels anew. Those that came with the bundle and did not change keep standing first."""
        before = self._incident(incident_id).labels
        own = set(self._own_labels(incident_id))
        brought = [label for label in labels if label in before and label not in own]
        changed = [label for label in labels if label not in brought]
        self._db.execute("DELETE FROM labels WHERE incident_id = ?", (incident_id,))
        self._insert_labels(incident_id, (*brought, *changed), from_bundle=len(brought))
        self._note(incident_id, action, _dumped(before), _dumped(self._incident(incident_id).labels))

    def _standing(
        self, incident_id: str, entity: EntityModel | None, *, disputed: bool = False
    ) -> tuple[tuple[Label, ...], Label]:
        """All labels, and the last one of an entity (of the undisputed ones unless `disputed`)."""
        labels = self._incident(incident_id).labels
        counted = [label for label in labels if disputed or label.provenance != "disputed"]
        for label in reversed(counted):
            if label.entity == entity:
                return labels, label
        named = entity.name if entity else NO_FAULT
        raise UnknownName(f"labels of incident {incident_id}", named, {label.name() for label in counted})

    def _snapshot(self, incident_id: str) -> dict[str, Any]:
        row = self._db.execute("SELECT digest FROM incidents WHERE id = ?", (incident_id,)).fetchone()
        return {"bundle": row[0], "labels": _dumped(self._incident(incident_id).labels)}

    def _note(self, incident_id: str, action: str, before: Any, after: Any) -> None:
        self._db.execute(
            "INSERT INTO audit (at_ns, who, incident_id, action, before, after) VALUES (?, ?, ?, ?, ?, ?)",
            (time.time_ns(), self._who, incident_id, action, json.dumps(before), json.dumps(after)),
        )


def _dumped(labels: tuple[Label, ...]) -> list[dict[str, Any]]:
    return [label.model_dump(mode="json") for label in labels]


def _explained(home: Path) -> contextlib.AbstractContextManager[None]:
    return explained(home / DATABASE_FILE, "an incident store", BUSY_SECONDS)
