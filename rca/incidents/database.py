"""An SQLite file that several processes share: its schema is brought up to date, and every commit is on the disk.

Errors of SQLite and of the file system become ours.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rca.errors import BadInput, StorageFull, Unavailable
from rca.incidents.bundle import storage

Migrations = Sequence[tuple[str, ...]]
"""Statements that lead from version i to i + 1 of a schema. Append only."""


class Database:
    """One connection; it belongs to one thread unless `shared`, and then its users take turns.

    Raises BadInput for a file of a newer version, and what SQLite says otherwise: use `explained` around.
    """

    def __init__(self, path: Path, migrations: Migrations, busy_seconds: float, *, shared: bool = False) -> None:
        self.path, self._migrations, self._busy_seconds = path, migrations, busy_seconds
        self.connection = sqlite3.connect(path, timeout=busy_seconds, isolation_level=None, check_same_thread=not shared)
        try:
            self.connection.execute("PRAGMA foreign_keys = ON")
            self.connection.execute("PRAGMA synchronous = FULL")
            self._use_wal()
            self._migrate()
        except BaseException:
            self.connection.close()
            raise

    def close(self) -> None:
        """Let go of the file."""
        self.connection.close()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """One transaction that holds the write lock; it is on the disk when it ends, or did not happen."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.connection.execute("COMMIT")
        except BaseException:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Everything read inside is of one moment."""
        if self.connection.in_transaction:
            yield
            return
        self.connection.execute("BEGIN")
        try:
            yield
        finally:
            self.connection.execute("COMMIT")

    def _use_wal(self) -> None:
        """The switch needs the database for itself and does not wait by its own."""
        deadline = time.monotonic() + self._busy_seconds
        while True:
            try:
                self.connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                return

    def _version(self) -> int:
        return int(self.connection.execute("PRAGMA user_version").fetchone()[0])

    def _migrate(self) -> None:
        newest = len(self._migrations)
        if self._version() > newest:
            raise BadInput(str(self.path), expected=f"schema version {newest} or older", found=f"{self._version()}")
        if self._version() == newest:
            return
        with self.writing():
            for version in range(self._version(), newest):  # another process may have been first
                for statement in self._migrations[version]:
                    self.connection.execute(statement)
                self.connection.execute(f"PRAGMA user_version = {version + 1}")


@contextlib.contextmanager
def explained(path: Path, what: str, busy_seconds: float) -> Iterator[None]:
    """Turn what SQLite and the file system say into our errors. `what` the file should be, in words: `an incident store`."""
    try:
        with storage(path.parent):
            yield
    except sqlite3.DatabaseError as error:
        home = path.parent
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            raise StorageFull(f"{home}: {error}; nothing that was stored before is lost") from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise Unavailable(f"{home}: another process has held the store for {busy_seconds:.0f} s; try again") from error
        if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            raise BadInput(str(path), expected=what, found=str(error)) from error
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PERM):
            raise BadInput(str(home), expected="a place that can be written", found=str(error)) from error
        raise
