"""The service map of that time and the cause's signals, drawn."""

from __future__ import annotations

from rca.documents.model import Block, Figure, Figures, Section, Table, Text
from rca.drawing import svg
from rca.drawing.charts import charts_of
from rca.drawing.foreign import name_of
from rca.drawing.servicemap import Call, ServiceMap, map_of
from rca.postmortem import sources
from rca.postmortem.account import Account
from rca.report import path_of
from rca.wording import count

_MOST_CALLS = 12
_LEGEND = (
    "! strays from quiet times, a circle does not, ? was not observed; red leads to the cause, brown suffers with it, "
    "a dashed call fails more than before."
)


def evidence_section(account: Account) -> Section:
    blocks = (*_map(account), *_charts(account))
    if not blocks:
        words = "The telemetry of the window names no call and no signal of a cause, so there is nothing to draw."
        blocks = (Text(words, (sources.GAPS,)),)
    return Section("Service map and signals", blocks, "evidence")


def _map(account: Account) -> tuple[Block, ...]:
    cause = account.cause if account.cause in account.case.graph.rows else None
    alerting = [entity.entity() for entity in account.incident.alerting]
    path = path_of(account.case.graph, alerting, cause).entities if cause is not None else ()
    drawn = map_of(account.case, account.report.ranking, cause, path, alerting)
    if drawn is None:
        return ()
    told = [part[:1].upper() + part[1:] for part in drawn.description.split(". ")]
    words = [". ".join(told), _LEGEND, drawn.left_out]
    figure = Figure(svg.map_svg(drawn), " ".join(word for word in words if word), "Service map", (sources.MAP,))
    blast = (Text(drawn.blast, (sources.MAP,)),) if drawn.blast else ()
    return (figure, *blast, *_calls(drawn))


def _calls(drawn: ServiceMap) -> tuple[Block, ...]:
    """Calls of the path, and those that fail more than before."""
    telling = [call for call in drawn.table if (call.part == "path" or call.failing) and call.rate[0]]
    if not telling:
        return ()
    left = len(telling) - _MOST_CALLS
    more = f"; {count(left, 'more call')} left out" if left > 0 else ""
    return (
        Table(
            ("Caller", "Callee", "Calls", "before", "Failed", "before", "Median", "before"),
            tuple(map(_call, telling[:_MOST_CALLS])),
            f"Calls on the way to the cause, and calls that failed more than before{more}",
            ("left", "left", *("right" for _ in range(6))),  # type: ignore[arg-type]
            (sources.MAP,),
        ),
    )


def _call(call: Call) -> tuple[str, ...]:
    return (call.caller, call.callee, *call.rate, *call.failed, *(value or "?" for value in call.latency))


def _charts(account: Account) -> tuple[Block, ...]:
    cause = account.cause
    if cause is None:
        return ()
    evidence = sources.evidence_of(account)
    charts = charts_of(account.case, cause, evidence, account.incident.detected_ns)
    if not charts:
        return ()
    intro = f"Signals of {name_of(cause)}; the band holds 90 % of the baseline, the incident is shaded, times in UTC."
    figures = tuple(
        Figure(svg.chart_svg(chart, f"chart-{i}"), chart.description, chart.title, (sources.SIGNALS,))
        for i, chart in enumerate(charts, 1)
    )
    return (Text(intro, (sources.SIGNALS,)), Figures(figures))
