"""The shop's PostgreSQL: set up in the run folder, filled with products, and what can go wrong with it from inside."""

from __future__ import annotations

import os
import pwd
import random
import signal
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import sql

from rca.errors import Unavailable
from rca.shop import plan
from rca.shop.backing.server import Server
from rca.shop.backing.trouble import Trouble
from rca.shop.goods import CATEGORIES, NOUNS, PRODUCTS
from rca.shop.installed import binary

USER: Final = "shop"
PASSWORD: Final = "shop"
_ADMIN: Final = "postgres"
_SEED: Final = 4
_LOCKED_S: Final = 10.0

_CONFIGURATION: Final = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
shared_buffers = 24MB
work_mem = 1MB
maintenance_work_mem = 16MB
max_connections = 80
max_wal_size = 128MB
min_wal_size = 32MB
wal_level = minimal
max_wal_senders = 0
synchronous_commit = on
fsync = on
full_page_writes = off
autovacuum_naptime = 60s
jit = off
max_parallel_workers = 0
deadlock_timeout = 2s
log_min_messages = warning
log_timezone = 'UTC'
"""
_ACCESS: Final = f"""
host all {_ADMIN} 127.0.0.1/32 scram-sha-256
host all all 127.0.0.1/32 scram-sha-256
"""
_SCHEMA: Final = """
CREATE TABLE products (
    id integer PRIMARY KEY, sku text NOT NULL, name text NOT NULL, description text NOT NULL, category text NOT NULL,
    price_cents integer NOT NULL,
    document tsvector GENERATED ALWAYS AS (to_tsvector('english', name || ' ' || description || ' ' || category)) STORED
);
CREATE INDEX ON products USING gin (document);
CREATE INDEX ON products (category, price_cents, id);
CREATE TABLE stock (product integer PRIMARY KEY REFERENCES products, available integer NOT NULL) WITH (fillfactor = 60);
CREATE TABLE reservations (order_id text NOT NULL, product integer NOT NULL, quantity integer NOT NULL);
CREATE TABLE taxes (category text PRIMARY KEY, percent integer NOT NULL);
CREATE TABLE discounts (code text PRIMARY KEY, percent integer NOT NULL);
CREATE TABLE payments (order_id text PRIMARY KEY, cents bigint NOT NULL, reference text NOT NULL, at timestamptz DEFAULT now());
CREATE TABLE orders (
    id text PRIMARY KEY, customer text NOT NULL, email text NOT NULL, cents bigint NOT NULL, at timestamptz DEFAULT now()
);
CREATE TABLE order_lines (order_id text NOT NULL REFERENCES orders, product integer NOT NULL, quantity integer NOT NULL);
CREATE INDEX ON order_lines (order_id);
"""

_ADJECTIVES: Final = ("blue", "folding", "wooden", "light", "sturdy", "small", "quiet", "warm", "round", "classic")
_PHRASES: Final = (
    "made to last for many years", "easy to clean and to carry", "with a guarantee of two years", "a present for friends",
    "loved by people who travel", "fits into every home", "made of recycled material", "comes with a manual",
)  # fmt: skip


def user() -> str | None:
    """As whom PostgreSQL is to run where that is not who runs the shop: it refuses root. Raises Unavailable."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    for name in (_ADMIN, "nobody"):
        if name in known:
            return name
    raise Unavailable(f"PostgreSQL refuses root: expected a user {_ADMIN} or nobody that it can run as, found neither")


class Postgres(Server):
    """PostgreSQL on loopback with the database of the shop.

    Its files go to `home`, by default the folder that it is started with. Whom it runs as (`user`) must be able to enter that.
    """

    def __init__(self, home: Path | None = None) -> None:
        super().__init__()
        self._home = home

    def connect(self, database: str = plan.DATABASE, **options: Any) -> psycopg.Connection[Any]:
        """A connection as administrator, autocommitting. Raises psycopg.OperationalError."""
        return psycopg.connect(
            host="127.0.0.1", port=self.port, dbname=database, user=_ADMIN, password=PASSWORD, autocommit=True, **options
        )

    @property
    def data(self) -> Path:
        """Its cluster."""
        return self._cwd() / "data"

    def _command(self) -> Sequence[str]:
        return [binary("postgres"), "-D", str(self.data), "-p", str(self.port)]

    def _prepare(self) -> None:
        if (self.data / "PG_VERSION").exists():
            (self.data / "postmaster.pid").unlink(missing_ok=True)  # of a process that was killed
            return
        secret = self._cwd() / "password.txt"
        secret.write_text(PASSWORD)
        command = [binary("initdb"), "-D", str(self.data), "-U", _ADMIN, "--pwfile", str(secret), "-A", "scram-sha-256"]
        options = ["-E", "UTF8", "--locale", "C", "--no-sync"]
        who = self._user()
        group = pwd.getpwnam(who).pw_gid if who else None
        made = subprocess.run(
            [*command, *options], capture_output=True, text=True, check=False, cwd=self._cwd(), user=who, group=group
        )
        if made.returncode:
            raise Unavailable(f"PostgreSQL could not be set up in {self.data}: {made.stderr.strip()}")
        with (self.data / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.write(_CONFIGURATION)
        (self.data / "pg_hba.conf").write_text(_ACCESS, encoding="utf-8")

    def _cwd(self) -> Path:
        return self._home or self.folder

    def _user(self) -> str | None:
        return user()

    def _stop_signal(self) -> signal.Signals:
        return signal.SIGINT  # "fast": it does not wait for clients

    def _answers(self) -> bool:
        try:
            self.connect("postgres", connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def initialise(self) -> None:
        """Schema and products, where they are not there yet."""
        with self.connect("postgres") as connection:
            found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (plan.DATABASE,)).fetchone()
            if found:
                return
            connection.execute(f"CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'".encode())
            connection.execute(f'CREATE DATABASE "{plan.DATABASE}" OWNER {USER}'.encode())
        with self.connect() as connection, connection.transaction():
            connection.execute(f"SET ROLE {USER}".encode())
            connection.execute(_SCHEMA.encode())
            _fill(connection)
        with self.connect() as connection:
            connection.execute("ANALYZE")


def _fill(connection: psycopg.Connection[Any]) -> None:
    chosen = random.Random(_SEED)
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO products (id, sku, name, description, category, price_cents) VALUES (%s, %s, %s, %s, %s, %s)",
            [_product(number, chosen) for number in range(1, PRODUCTS + 1)],
        )
        cursor.execute("INSERT INTO stock SELECT id, 1000 FROM products")
        cursor.executemany("INSERT INTO taxes VALUES (%s, %s)", [("standard", 19), ("books", 7), ("garden", 7)])
        cursor.executemany("INSERT INTO discounts VALUES (%s, %s)", [("SPRING", 10), ("FRIENDS", 15), ("STAFF", 30)])


def _product(number: int, chosen: random.Random) -> tuple[int, str, str, str, str, int]:
    name = f"{chosen.choice(_ADJECTIVES)} {chosen.choice(_ADJECTIVES)} {chosen.choice(NOUNS)}"
    text = ". ".join(chosen.sample(_PHRASES, 4))
    return number, f"SKU-{number:05}", name, text, chosen.choice(CATEGORIES), chosen.randrange(199, 19_900)


def lock(server: Postgres, table: str = "stock", *, rows: bool = False) -> Trouble:
    """A transaction that stays open: it holds a lock on a whole table, or on all of its rows (readers go on).

    Returns when it has the lock, or after ten seconds of waiting behind others.
    """

    held = threading.Event()

    def work(end: threading.Event) -> None:
        with server.connect() as connection, connection.transaction():
            name = sql.Identifier(table)
            how = "SELECT 1 FROM {} FOR UPDATE" if rows else "LOCK TABLE {} IN ACCESS EXCLUSIVE MODE"
            connection.execute(sql.SQL(how).format(name))
            held.set()
            end.wait()

    trouble = Trouble([work])
    held.wait(_LOCKED_S)
    return trouble


def heavy_queries(server: Postgres, workers: int = 2, duty: float = 1.0) -> Trouble:
    """A report that somebody runs over and over: each query takes CPU of the server for about a second of `duty`."""
    query = b"""
    SELECT count(*) FROM (
        SELECT md5(a.description || b.name || n::text) AS x FROM products a, products b, generate_series(1, 2) n
        ORDER BY 1 LIMIT 100000
    ) AS report
    """

    def work(end: threading.Event) -> None:
        from time import perf_counter

        with server.connect() as connection:
            while not end.is_set():
                started = perf_counter()
                connection.execute(query).fetchall()
                end.wait((perf_counter() - started) * (1 / duty - 1))

    return Trouble([work] * workers)


def slow_statements(
    server: Postgres, ms: float, tables: Sequence[str] = ("stock", "orders", "payments", "reservations")
) -> Trouble:
    """Writes to some tables each take `ms` longer, as with a bad trigger. Reads are left as they are."""
    with server.connect() as connection:
        connection.execute(
            f"""CREATE OR REPLACE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM pg_sleep({ms / 1000:f}); RETURN NEW; END $$""".encode()
        )
        for table in tables:
            connection.execute(
                f"CREATE OR REPLACE TRIGGER audit BEFORE INSERT OR UPDATE ON {table} EXECUTE FUNCTION audit()".encode()
            )

    def work(end: threading.Event) -> None:
        end.wait()
        with server.connect() as connection:
            connection.execute(b"DROP FUNCTION IF EXISTS audit() CASCADE")

    return Trouble([work])


def hog_connections(server: Postgres, n: int) -> Trouble:
    """Somebody who opens `n` connections and keeps them."""

    def work(end: threading.Event) -> None:
        held: list[psycopg.Connection[Any]] = []
        while not end.wait(0.05 if len(held) < n else 3600):
            try:
                held.append(server.connect(connect_timeout=2))
            except psycopg.OperationalError:
                continue
        for connection in held:
            connection.close()

    return Trouble([work])
