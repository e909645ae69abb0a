"""Pictures of the pages for the documentation: recorded incidents that no model is tested on, in a headless Chromium.

python -m scripts.screenshots [FOLDER]    write them (default: docs/page)
"""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import polars as pl
from PIL import Image

from rca.drawing.similar import gist_of, similar_to
from rca.incidents.bundle import read_bundle
from rca.incidents.incident import Incident
from rca.models.shipped import shipped_ranker
from rca.pipeline import case_of, report_on
from rca.report import TriageReport
from rca.serve.pages.listing import Known, Query, list_view
from rca.serve.pages.rendering import render, render_list
from rca.serve.pages.view import Scene, scene_of, view_of
from rca.shop import manifest
from rca.sinks.notice import AlertLine, Links
from rca.telemetry import Telemetry
from tests.pages import ADDRESS, ENGINEER, Visit, alerts_of, large, telling, visiting
from tests.servers.browser import installed_chromium

HERE: Final = Path(__file__).resolve().parent.parent
RECORDED: Final = HERE / "incidents"
_SHOWN: Final = "shop-067-bad-rollout-checkout"
_PATH: Final = "shop-102-slow-io-shipping"
_COLOURS: Final = 128


@dataclass(frozen=True)
class Picture:
    """One picture: its file, the page, the size of the screen, the scheme of colours, and how much of the page to show."""

    name: str
    path: str
    width: int
    height: int
    scheme: str = "light"
    part: str = ""
    whole: bool = False
    open_details: bool = False


PICTURES: Final = (
    Picture("incident", f"/incidents/{_SHOWN}", 1280, 1000),
    Picture("incident-dark", f"/incidents/{_PATH}", 1280, 1000, "dark"),
    Picture("incident-phone", f"/incidents/{_SHOWN}", 360, 800),
    Picture("incident-whole", f"/incidents/{_SHOWN}", 1280, 1000, whole=True),
    Picture("incident-phone-dark", f"/incidents/{_PATH}", 360, 800, "dark", whole=True),
    Picture("map", f"/incidents/{_PATH}", 1280, 900, part="section:has(#map)"),
    Picture("map-60", "/incidents/large", 1280, 900, part="section:has(#map)"),
    Picture("correct", f"/incidents/{_PATH}", 1280, 900, part="section.verdict", open_details=True),
    Picture("pending", "/incidents/pending", 1280, 500),
    Picture("failed", "/incidents/failed", 1280, 900),
    Picture("quiet", "/incidents/quiet", 1280, 900),
    Picture("list", "/incidents", 1280, 800),
    Picture("list-phone", "/incidents-found", 360, 800, "dark"),
)
IN_DOCS: Final = ("incident", "incident-dark", "incident-phone", "map", "map-60", "list", "list-phone")


def pages() -> dict[str, str]:
    """Every page by its path."""
    known = _known()
    by_id = {one.incident.id: one for one in known}
    links = Links(
        dashboards=(("Shop, services", "https://grafana.example/d/shop"),),
        runbooks=(("SlowRequests", "https://runbooks.example/slow-requests"),),
    )
    made = {}
    for name in (_SHOWN, _PATH):
        incident, report, telemetry = _ranked(RECORDED / f"{name}.tar.zst")
        fired = (
            telemetry.alerts.filter(pl.col("time_unix_nano") >= incident.window.start_ns)
            .sort("time_unix_nano")
            .select("name", "entity", "time_unix_nano")
        )
        alerts = tuple(AlertLine(alert, entity=entity, starts_ns=at) for alert, entity, at in fired.iter_rows())
        past = [(other.incident, other.gist) for other in known]
        told = telling(report, state="firing" if alerts else "resolved", alerts=alerts, links=links if alerts else Links())
        similar = similar_to(incident, gist_of(report), past)
        unlabelled = incident.model_copy(update={"labels": ()})
        made[name] = render(view_of(unlabelled, told, _scene(incident, telemetry, report), similar=similar, looker=ENGINEER))
    incident = by_id[_SHOWN].incident
    why = "Prometheus at prometheus.example did not answer within 10 s, and no telemetry was stored of that time."
    trouble = telling(None, trouble=why, alerts=alerts_of(incident, "HighErrorRatio"))
    unjudged = incident.model_copy(update={"labels": ()})
    other = large()
    quiet, report, telemetry = _ranked(RECORDED / "shop-099-no-fault.tar.zst")
    return {
        **{f"/incidents/{name}": text for name, text in made.items()},
        "/incidents/large": render(other.view()),
        "/incidents/pending": render(view_of(unjudged, None, None)),
        "/incidents/failed": render(view_of(unjudged, trouble, None, looker=ENGINEER)),
        "/incidents/quiet": render(view_of(quiet, telling(report, state="resolved"), _scene(quiet, telemetry, report))),
        "/incidents": render_list(list_view(known, Query(), ENGINEER)),
        "/incidents-found": render_list(list_view(known, Query("network"), ENGINEER)),
    }


def _ranked(path: Path) -> tuple[Incident, TriageReport, Telemetry]:
    incident, telemetry = read_bundle(path)
    report = report_on(incident, telemetry, shipped_ranker())
    return incident, report, telemetry


def _scene(incident: Incident, telemetry: Telemetry, report: TriageReport) -> Scene:
    return scene_of(incident, case_of(incident, telemetry, report.ranking.window), report)


def _known() -> list[Known]:
    """The training part of the recordings, as a store would list it: half of it labelled."""
    known = []
    for i, path in enumerate(manifest.files_of(RECORDED, "train")):
        incident, report, _ = _ranked(path)
        labels = [label.model_copy(update={"provenance": "confirmed", "author": "oncall"}) for label in incident.labels]
        incident = incident.model_copy(update={"labels": tuple(labels) if i % 2 else ()})
        known.append(Known(incident, gist_of(report), state="firing" if "093" in incident.id else "resolved"))
    return known


def take(visit: Visit, picture: Picture) -> bytes:
    """A picture as a small PNG."""
    size = {"width": picture.width, "height": picture.height}
    context = visit.context(viewport=size, color_scheme=picture.scheme)
    page = context.new_page()
    page.goto(f"{ADDRESS}{picture.path}")
    if picture.open_details:
        page.locator(".judge summary").click()
    shot = page.locator(picture.part).screenshot() if picture.part else page.screenshot(full_page=picture.whole)
    context.close()
    return small_png(shot)


def small_png(shot: bytes) -> bytes:
    """The same picture in few colours."""
    small = io.BytesIO()
    Image.open(io.BytesIO(shot)).convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return small.getvalue()


def chromium_here() -> str:
    """Path of a Chromium; ends the script where there is none."""
    return installed_chromium() or sys.exit("expected chromium on the path, found none")


def main() -> None:
    """Write the pictures of the documentation, or every picture where a folder is named."""
    program = chromium_here()
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "docs" / "page"
    folder.mkdir(parents=True, exist_ok=True)
    with visiting(program, pages()) as visit:
        for picture in PICTURES:
            if len(sys.argv) > 1 or picture.name in IN_DOCS:
                (folder / f"{picture.name}.png").write_bytes(take(visit, picture))
    for complaint in (*visit.complaints, *visit.elsewhere):
        print(complaint)


if __name__ == "__main__":
    main()
