"""What the usual exporters say of PostgreSQL and Redis, asked over connections that are kept."""

from __future__ import annotations

import contextlib
from typing import Any

from rca.shop import plan
from rca.shop.supervisor.exporters import Page
from rca.shop.supervisor.pods import Pod


class ServerMetrics:
    """Asks the backing servers; one that does not answer is `up` 0. Not safe for several threads at once."""

    def __init__(self) -> None:
        self._connection: Any = None
        self._clients: dict[tuple[str, int], Any] = {}

    def page(self, pods: list[Pod]) -> str:
        """Metrics of the pods' servers."""
        page = Page()
        for pod in pods:
            who = {"namespace": plan.NAMESPACE, "pod": pod.name, "app": pod.owner, "node": pod.node}
            prefix = "pg" if pod.owner == plan.DATABASE else "redis"
            up = pod.is_running and not pod.is_paused and self._asked(page, pod, who)
            if not up:
                self._forget(pod)
            page.add(f"{prefix}_up", int(up), **who)
        return page.text()

    def _asked(self, page: Page, pod: Pod, who: dict[str, str]) -> bool:
        """Whether the server answered; what it said is on the page."""
        try:
            if pod.owner == plan.DATABASE:
                self._postgres(page, pod, who)
            else:
                self._redis(page, pod, who)
        except Exception:  # whatever the drivers raise, the exporter says that the server is down
            return False
        return True

    def _postgres(self, page: Page, pod: Pod, who: dict[str, str]) -> None:
        if self._connection is None:
            import psycopg

            from rca.shop.backing.postgres import PASSWORD

            self._connection = psycopg.connect(
                host="127.0.0.1",
                port=pod.port,
                dbname=plan.DATABASE,
                user="postgres",
                password=PASSWORD,
                autocommit=True,
                connect_timeout=2,
                options="-c statement_timeout=1500",
                application_name="exporter",
            )
        rows = self._connection.execute(
            "SELECT coalesce(state, 'background'), count(*) FROM pg_stat_activity "
            "WHERE datname = %s AND application_name <> 'exporter' GROUP BY 1",
            (plan.DATABASE,),
        ).fetchall()
        for state, count in rows:
            page.add("pg_stat_activity_count", count, **who, datname=plan.DATABASE, state=state)
        row = self._connection.execute(
            "SELECT current_setting('max_connections')::int, (SELECT count(*) FROM pg_locks WHERE NOT granted), xact_commit, "
            "xact_rollback, blks_read, blks_hit, deadlocks FROM pg_stat_database WHERE datname = %s",
            (plan.DATABASE,),
        ).fetchone()
        page.add("pg_settings_max_connections", row[0], **who)
        page.add("pg_locks_waiting", row[1], **who, datname=plan.DATABASE)
        names = ("xact_commit", "xact_rollback", "blks_read", "blks_hit", "deadlocks")
        for name, value in zip(names, row[2:], strict=True):
            page.add(f"pg_stat_database_{name}_total", value, **who, datname=plan.DATABASE)

    def _redis(self, page: Page, pod: Pod, who: dict[str, str]) -> None:
        import redis

        key = (pod.name, pod.port)
        if key not in self._clients:
            self._clients[key] = redis.Redis(
                host="127.0.0.1", port=pod.port, socket_timeout=1.5, socket_connect_timeout=1.5, decode_responses=True
            )
        client = self._clients[key]
        info = client.info()
        page.add("redis_memory_used_bytes", info["used_memory"], **who)
        page.add("redis_connected_clients", info["connected_clients"], **who)
        page.add("redis_commands_processed_total", info["total_commands_processed"], **who)
        page.add("redis_keyspace_hits_total", info["keyspace_hits"], **who)
        page.add("redis_keyspace_misses_total", info["keyspace_misses"], **who)
        page.add("redis_evicted_keys_total", info["evicted_keys"], **who)
        if pod.owner == plan.QUEUE and client.exists(plan.QUEUE):
            page.add("redis_stream_length", client.xlen(plan.QUEUE), **who, stream=plan.QUEUE)
            for group in client.xinfo_groups(plan.QUEUE):
                labels = {**who, "stream": plan.QUEUE, "group": group["name"]}
                page.add("redis_stream_group_lag", group.get("lag") or 0, **labels)
                page.add("redis_stream_group_messages_pending", group["pending"], **labels)

    def _forget(self, pod: Pod) -> None:
        """Connect anew the next time."""
        if pod.owner == plan.DATABASE:
            connection, self._connection = self._connection, None
            if connection is not None:
                with contextlib.suppress(Exception):
                    connection.close()
        for key in [key for key in self._clients if key[0] == pod.name]:
            with contextlib.suppress(Exception):
                self._clients.pop(key).close()
