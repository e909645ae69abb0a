"""Incidents as pages show them: notices, scenes and views of synthetic and recorded incidents, and a browser that opens them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from playwright.sync_api import Browser, BrowserContext, Request, Route, sync_playwright

from rca.incidents.example import example_incident
from rca.incidents.incident import Incident
from rca.models import registry
from rca.pipeline import case_of, report_on
from rca.report import TriageReport
from rca.serve.pages.rendering import HEADERS
from rca.serve.pages.view import ANYBODY, IncidentView, Looker, Scene, scene_of, view_of
from rca.simulator.simulating import simulate
from rca.sinks.notice import AlertLine, Notice, State
from rca.telemetry import SECOND_NS, Telemetry

ADDRESS: Final = "http://rca.example"
ENGINEER: Final = Looker("label", "oncall", "7f3a-token")
LONG: Final = 1 << 20
HOSTILE: Final = (
    "<script>alert(1)</script>\"'><img src=//evil.example/x onerror=alert(2)> {{ 7 * 7 }} "
    "\x1b[31mred\x1b[0m \u202egnp.exe\u202c \x00\ufeff]]>"
)


def telling(report: TriageReport | None = None, revision: int = 1, state: State = "firing", **more: Any) -> Notice:
    """A notice; without a title, a page shows the incident's."""
    return Notice(incident_id="shop-1", group_key="g", revision=revision, state=state, report=report, **{"title": "", **more})


@dataclass(frozen=True, eq=False)
class Ranked:
    """An incident with everything that its page is made of."""

    incident: Incident
    report: TriageReport
    scene: Scene

    def view(self, looker: Looker = ANYBODY, told: Notice | None = None, **given: Any) -> IncidentView:
        """Its page; `told` stands in for a notice that tells the report."""
        return view_of(self.incident, told or telling(self.report), self.scene, looker=looker, **given)


def ranked(incident: Incident, telemetry: Telemetry) -> Ranked:
    """Ranked by the label-free score: it needs no model."""
    report = report_on(incident, telemetry, registry.create("floor"))
    return Ranked(incident, report, scene_of(incident, case_of(incident, telemetry, report.ranking.window), report))


@cache
def example(fault_kind: str = "cpu_contention", culprit: str = "catalogue", seed: int = 7) -> Ranked:
    """A small shop's incident."""
    return ranked(*example_incident(seed, fault_kind, culprit, requests_per_second=1.5))


@cache
def large(services: int = 60, seed: int = 3) -> Ranked:
    """A simulated incident in a system of this many services."""
    return ranked(*simulate(seed, 0, kind="exception", services=(services, services)))


def alerts_of(incident: Incident, *names: str) -> tuple[AlertLine, ...]:
    """Alerts on what alerted, as Alertmanager would have told them."""
    at = incident.detected_ns or incident.window.start_ns
    entities = [entity.name for entity in incident.alerting] or [""]
    levels = ("critical", *("warning" for _ in names))
    return tuple(
        AlertLine(name, levels[i], entities[i % len(entities)], f"{name} for more than 20 s", at + i * 10 * SECOND_NS)
        for i, name in enumerate(names)
    )


@dataclass
class Visit:
    """What a browser asked for and complained about."""

    browser: Browser
    pages: dict[str, str]
    asked: list[Request] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def context(self, **settings: Any) -> BrowserContext:
        """A fresh context that knows nothing but the pages, answered with the headers that they are served with."""
        context = self.browser.new_context(**settings)
        context.route("**/*", self._answer)
        context.on("console", lambda message: self.complaints.append(message.text))
        return context

    def _answer(self, route: Route) -> None:
        request = route.request
        self.asked.append(request)
        path = request.url.removeprefix(ADDRESS).partition("?")[0]
        if not request.url.startswith(ADDRESS) or path not in self.pages:
            self.elsewhere.append(request.url)
            route.abort()
        else:
            route.fulfill(status=200, headers=HEADERS, body=self.pages[path])


@contextmanager
def visiting(program: str, pages: dict[str, str]) -> Iterator[Visit]:
    """A headless Chromium that finds these pages, by path, at ADDRESS, and nothing else anywhere."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])  # CI runs as root
        try:
            yield Visit(browser, pages)
        finally:
            browser.close()
