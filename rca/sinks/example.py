"""Notices of an incident that never was: what documentation shows, `rca.testing.check_sink` sends, and `rca sinks test`."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from rca.ranking import Evidence, RankedCandidate, Ranking
from rca.report import Map, Neighbour, Path, Side, Subject, TriageReport, confidence_of
from rca.sinks.notice import AlertLine, Links, Notice
from rca.telemetry import SECOND_NS, EntityId, Gap, Interval

_START_NS: Final = 1_768_471_800 * SECOND_NS  # 2026-01-15 10:10:00
_END_NS: Final = _START_NS + 300 * SECOND_NS
_CATALOGUE: Final = EntityId("service", "catalogue", "shop")
_CHECKOUT: Final = EntityId("service", "checkout", "shop")
_FRONTEND: Final = EntityId("service", "frontend", "shop")
_DATABASE: Final = EntityId("database", "shop-db", "shop")
_POD: Final = EntityId("pod", "catalogue-7c9d8f6b5-x2k4q", "shop")
_ID: Final = "01JHK3V0A7"
_TRACE: Final = "2eb06a0ef7a5625108038b4f8b8a7293"


def example_notices() -> tuple[Notice, Notice, Notice]:
    """A first answer, its revision, and the end of one incident."""
    ended = replace(_ALERTS[0], ends_ns=_START_NS + 1_140 * SECOND_NS, status="resolved")
    first = replace(_FIRST, report=_report((0.58, 0.31), ("collection was 30 s behind: spans of the last bins are missing",)))
    revised = replace(
        _FIRST,
        revision=2,
        news=("catalogue: 58 % became 93 %", "spans of the last bins have arrived"),
        report=_report((0.93, 0.03)),
    )
    return first, revised, replace(revised, revision=3, state="resolved", alerts=(ended,), more_alerts=0, news=())


def trial_notices(now_ns: int, page: str) -> tuple[Notice, Notice]:
    """The first answer to an incident that says of itself that it is a test, and its end. No two begin alike."""
    by_ns = now_ns - _END_NS
    name = f"test-{datetime.fromtimestamp(now_ns / SECOND_NS, UTC):%Y%m%dT%H%M%S.%fZ}"
    alerts = tuple(replace(alert, starts_ns=alert.starts_ns + by_ns) for alert in _ALERTS)
    first = replace(
        _FIRST,
        incident_id=name,
        group_key=name,
        report=_report((0.93, 0.03), start_ns=_START_NS + by_ns, incident_id=name),
        alerts=alerts,
        links=Links(page),
        model="an example",
        test=True,
    )
    ended = tuple(replace(alert, ends_ns=now_ns, status="resolved") for alert in alerts)
    return first, replace(first, revision=2, state="resolved", alerts=ended)


def unranked_notice() -> Notice:
    """An incident for which no ranking could be made."""
    return replace(
        _FIRST, report=None, trouble="Prometheus did not answer (http://prometheus:9090: connection refused)", model=""
    )


def hostile_notice() -> Notice:
    """Alerts and names that try what they can: commands of every channel, a terminal's colours, a megabyte."""
    poison = "<!channel> <@U1> @everyone <script>alert(1)</script> **x** [a](javascript:x) \x1b[31m\u202e\n# `x` "
    alerts = (AlertLine(poison + "x" * 2**20, poison, poison, poison * 100, _START_NS),) * 40
    links = Links(
        page=_FIRST.links.page,
        dashboards=(
            ("x", "javascript:alert(1)"),
            (poison, "https://grafana.example/d/1|<!here>"),
            (poison, "https://x.example/"),
        ),
        runbooks=tuple((poison, f"https://wiki.example/{'x' * 900}") for _ in range(40)),
    )
    report = _report((0.58, 0.31), (poison * 1_000,) * 40)
    candidates = tuple(
        replace(
            each,
            entity=replace(each.entity, name=poison),
            evidence=(Evidence("cpu", poison * 1_000, 1.0, 1.0, "1", 9.0),) * 4,
        )
        for each in report.ranking.candidates
    )
    ranking = replace(report.ranking, candidates=candidates)
    poisoned = replace(report, ranking=ranking, confidence=confidence_of(ranking), path=Path("alert", (), poison * 1_000))
    return replace(
        _FIRST, incident_id="01JHHOSTILE", title=poison * 1_000, report=poisoned, alerts=alerts, more_alerts=9_960, links=links
    )


def _report(
    shares: tuple[float, float],
    missing: tuple[str, ...] = (),
    *,
    start_ns: int = _START_NS,
    incident_id: str = _ID,
) -> TriageReport:
    evidence = (
        Evidence("cpu", "CPU usage 0.93 cores, baseline 0.11 cores", 0.93, 0.11, "{cpu}", 21.4),
        Evidence("self_time", "self time of ListProducts: p99 91 ms, baseline 7.7 ms", 0.091, 0.0077, "s", 17.0, (_TRACE,)),
        Evidence(
            "latency_residual", "latency 32 ms, baseline 7.1 ms; self time 28 ms, baseline 3.5 ms", 0.032, 0.0071, "s", 12.2
        ),
        Evidence(
            "warnings",
            "1 Unhealthy event, first at 10:10:20: Readiness probe failed: context deadline exceeded",
            1.0,
            0.0,
            "1",
            8.0,
        ),
    )
    slow = (
        Evidence("latency_residual", "latency 69 ms, baseline 47 ms; self time 8.2 ms, baseline 8.3 ms", 0.069, 0.047, "s", 6.1),
    )
    window = Interval(start_ns, start_ns + _END_NS - _START_NS)
    gaps = tuple(Gap("stream", text, window) for text in missing)
    candidates = (
        RankedCandidate(1, _CATALOGUE, 4.1, shares[0], "cpu", evidence),
        RankedCandidate(2, _CHECKOUT, 3.3, shares[1], "latency", slow),
        RankedCandidate(3, _DATABASE, 0.4, round(0.97 - sum(shares), 6)),
        RankedCandidate(4, _FRONTEND, 0.1, 0.01),
    )
    ranking = Ranking("general", window, candidates, 0.02, gaps)
    around = Map(
        _CATALOGUE,
        Side((Neighbour(_FRONTEND, "disturbed", 4, "server_latency"),)),
        Side((Neighbour(_DATABASE, "quiet", 3),)),
        (_POD,),
        (EntityId("node", "node-b"),),
    )
    return TriageReport(
        incident=Subject(incident_id, "p99 of checkout over 500 ms", "shop", window, start_ns, (_FRONTEND,)),
        ranking=ranking,
        confidence=confidence_of(ranking),
        path=Path("alert", (_FRONTEND, _CATALOGUE), "shop/frontend -> shop/catalogue"),
        map=around,
        missing=tuple(f"{gap.source}: {gap.reason}" for gap in gaps),
    )


_ALERTS: Final = (
    AlertLine("HighLatency", "critical", str(_FRONTEND), "p99 of checkout over 500 ms", _START_NS + 60 * SECOND_NS),
    AlertLine("PodNotReady", "warning", str(_POD), "", _START_NS + 90 * SECOND_NS),
)
_FIRST: Final = Notice(
    incident_id=_ID,
    group_key='{}/{severity="critical"}:{alertname="HighLatency"}',
    revision=1,
    state="firing",
    title="HighLatency on frontend",
    alerts=_ALERTS,
    links=Links(
        page="https://rca.example.com/incidents/01JHK3V0A7",
        traces=(("slowest request", f"https://tempo.example.com/trace/{_TRACE}"),),
        dashboards=(("dashboard of catalogue", "https://grafana.example.com/d/svc?var-service=catalogue&from=now-1h"),),
        runbooks=(("runbook of HighLatency", "https://wiki.example.com/runbooks/high-latency"),),
    ),
    model="general 2026-11",
)
