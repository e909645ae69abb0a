"""Write the generated pages of docs/, or check that the committed ones are current.

    python -m scripts.docs            write
    python -m scripts.docs --check    exit with 1 if a page differs from what its source says

A page is a function that returns its text; add yours to PAGES.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from rca.collectors.template import tables as config_tables
from rca.evaluation.tables import in_short, markdown
from rca.faults import FAULT_KINDS
from rca.features import ALERT_SIGNALS, EDGE_FEATURES, FLOOR_SIGNALS, NODE_FEATURES, Feature
from rca.incidents.bundle import ARCHIVE_SUFFIX, INCIDENT_FILE, MAX_ARCHIVE_BYTES, IncidentFile
from rca.incidents.incident import SCHEMA_VERSION
from rca.metrics import METRICS
from rca.models.files import MODEL_FILE
from rca.models.shipped import NAME
from rca.ranking import SCHEMA_VERSION as RANKING_VERSION
from rca.report import SCHEMA_VERSION as REPORT_VERSION
from rca.report import TriageReport
from rca.signals import EDGE_SIGNALS, NODE_SIGNALS, Signal
from rca.sinks.webhook.payload import schema_of
from rca.telemetry import SCHEMAS
from scripts.confidence_page import confidence_page
from scripts.dashboards import DASHBOARDS, dashboard
from scripts.explanations_page import explanations_page
from scripts.incidents_page import incidents_page
from scripts.model_card import card_page
from scripts.notifications_page import notifications_page
from scripts.postmortem_page import NAME as NAME_OF_EXAMPLE
from scripts.postmortem_page import html_page, markdown_page
from scripts.prometheus_page import prometheus_page
from scripts.robustness_page import robustness_page
from scripts.serve_rules import serve_rules
from scripts.transfer_page import transfer_page

ROOT: Final = Path(__file__).resolve().parent.parent

_FRAMES: Final = {
    "spans": "Spans of traces, one row each.",
    "metrics": "Samples of metrics, one row per entity, metric and time, at the resolution of their source.",
    "events": "Kubernetes events and changes.",
    "logs": "Counts of log lines by template, in bins of 10 s.",
    "alerts": "Alerts that fired, with or without a time.",
    "calls": "Statistics of calls that arrive already aggregated, such as service-graph metrics.",
    "topology": "Relations that are known from elsewhere than spans; they hold for the whole incident.",
    "bin_counts": "Spans summed as they arrived, in bins of 10 s: how many of what. Live incidents have no other spans.",
    "bin_durations": "Durations of the same spans, as histograms with buckets 2 % wide.",
    "bin_exemplars": "The slowest traces of every service and bin, failing ones first.",
    "bin_placement": "Which pod of a service ran on which node, as the spans said.",
}

_BUNDLE: Final = """\
# Incident bundle, version {version}

An incident travels as a *bundle*: a folder, or one `{suffix}` file of such a folder, with

- `{incident}`: what happened and when, its labels, what telemetry is missing, and a manifest of the frames. Its JSON schema is
  [incident.schema.json](incident.schema.json).
- `<frame>.parquet`, one per frame of telemetry below that is not empty.

`rca incidents export ID PATH` writes one, `rca incidents import PATH` and `rca triage PATH` read one. In Python:
`rca.incidents.bundle.write_bundle` and `read_bundle`.

## Rules

- Times are integer nanoseconds since the Unix epoch, UTC, between the years 2000 and 2100; anything else (seconds, milliseconds)
  is refused. Intervals are half-open: the start belongs to them, the end does not.
- Names and units follow OpenTelemetry's semantic conventions; importers map older names to the newer ones.
- Columns that are not required may be absent or null. Columns beside those below are ignored.
- The manifest gives every file's frame, name, rows and SHA-256. A file that does not match is refused; files that it does not
  list are ignored.
- `{incident}` takes no keys but the schema's; the message names the nearest known one.
- In an archive, the files lie at the top or in one folder, as plain files; one that unpacks to more than {limit} GiB is refused.
- Rows need no order. Duplicate span ids, cycles of parents and spans that end before they start are taken out when a bundle is
  read for ranking, and reported as gaps.
- A root cause is a label: an entity (kind and name as the telemetry has them), a fault kind, and its provenance: `injected`,
  `confirmed`, `inferred` or `disputed`. Several labels mean several causes. Disputed labels do not count.
- `gaps` say what could not be collected. Missing telemetry is masked, never read as zero.

## Versions

`schema_version` is "{version}". Within a version, optional columns may be added, and a reader ignores columns that it does not
know. New frames, keys of `{incident}`, required columns, and other units or meanings make a new version. A reader refuses
versions that it does not know; a newer `rca` reads every older version.

## {incident}

{keys}

## Frames

{frames}
Fault kinds of labels: [faults.md](faults.md).
"""

_METRICS: Final = """\
# Canonical metrics

What importers and collectors map metric names to, and what the features read. Other metrics stay in the bundle under their own
name and count as the signal `other`, in both directions. "Deviates" says which direction counts as unusual, "scale" on which
scale the deviation is measured.

{table}
"""


def bundle_page() -> str:
    """docs/bundle.md, from the schemas."""
    frames = "\n".join(_frame_section(name) for name in SCHEMAS)
    fields = IncidentFile.model_fields
    keys = _table(
        ("key", "required", "meaning"),
        ((f"`{name}`", "yes" if field.is_required() else "", field.description or "") for name, field in fields.items()),
    )
    return _BUNDLE.format(
        keys=keys,
        version=SCHEMA_VERSION,
        suffix=ARCHIVE_SUFFIX,
        incident=INCIDENT_FILE,
        limit=MAX_ARCHIVE_BYTES // 2**30,
        frames=frames,
    )


def _frame_section(name: str) -> str:
    rows = (
        (f"`{column}`", str(spec.dtype).lower(), spec.unit, "yes" if spec.required else "", spec.meaning)
        for column, spec in SCHEMAS[name].items()
    )
    return f"### {name}\n\n{_FRAMES[name]}\n\n{_table(('column', 'type', 'unit', 'required', 'meaning'), rows)}\n"


def incident_schema() -> str:
    """docs/incident.schema.json, from the pydantic model."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **IncidentFile.model_json_schema()}
    return json.dumps(schema, indent=2) + "\n"


def report_schema() -> str:
    """docs/ranking.schema.json, from the types of the report."""
    serialised = TypeAdapter(TriageReport).json_schema(mode="serialization")
    for schema in (serialised, *serialised["$defs"].values()):
        if schema.get("type") == "object":
            schema["additionalProperties"] = False
            schema["required"] = list(schema["properties"])  # every field is written, empty or not
    for schema, version in ((serialised, REPORT_VERSION), (serialised["$defs"]["Ranking"], RANKING_VERSION)):
        schema["properties"] = {"schema_version": {"const": version}, **schema["properties"]}
        schema["required"].insert(0, "schema_version")
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **serialised}, indent=2) + "\n"


def notice_schema() -> str:
    """docs/notice.schema.json, from the types of a notice and of the report in it."""
    return json.dumps(schema_of(json.loads(report_schema())), indent=2) + "\n"


def metrics_page() -> str:
    """docs/metrics.md, from the table of canonical metrics."""
    head = ("metric", "unit", "signal", "deviates", "scale", "meaning")
    return _METRICS.format(
        table=_table(head, ((f"`{m.name}`", m.unit, m.signal, m.direction, m.scale, m.title) for m in METRICS.values()))
    )


_FEATURES: Final = """\
# Signals and features

What a ranker sees of an entity or of a call, in the order of its columns. A *signal* is measured in the telemetry: how far the
incident strays from the system's own quiet times (`rca/signals.py`, `rca/deviations`). A *feature* is what the graph carries of
it (`rca/features.py`). Every value is relative to the system itself, and none is a name. What was not observed is masked.

A signal that counts "up" is 0 where it falls; one that counts "both ways" keeps its sign. "Points to" is the fault family of a
candidate whose loudest signal it is. "Floor" marks what the label-free score listens to; signals of alerts count there only
where nothing else is known, the first of them that is.

What a service suffers is not charged to it (`rca/deviations/calls.py`, `passed_on.py`, `span_counts.py`):

- A failed call that left no span at its callee is lost. What every caller of a service loses, by the least share over those with
  calls enough to judge by, counts as `unanswered_calls` of that service, less the share that a caller loses with each of its
  callees, if it has several. The rest stays with the callers, as `own_errors`. Messages that a queue took and nobody fetched are
  `unanswered_calls` of the service that used to fetch them.
- Databases, queues and hosts that show no spans are judged by their callers, by the least that any of them sees. Where there are
  at least two, that much is taken from each of them.
- `error_lines`, `new_templates`, `vanished_templates`, `vanished_calls`, `success_residual` and `quiet_callees` are scaled by
  what failed calls do not explain: 1 - r / (r + o) · min(1, 4 r / c). r is how many calls more than usual failed at callees, at
  least 3; o how many spans more than usual failed of themselves; c by how many the lines or calls changed, how many requests
  failed, or how many calls are missing: one failed call explains four of them.

## Signals of an entity

{node_signals}

## Signals of a call

{edge_signals}

## Features of an entity

z is the signal's deviation. The part of a name before the dot is the class that training drops as a whole.

{node_features}

## Features of a call

{edge_features}
"""


_FAULTS: Final = """\
# Faults

The vocabulary of labels (`rca incidents label <id> <who> --fault KIND`), of the simulator (`rca simulate --fault KIND`), of the
shop (`rca shop inject KIND TARGET`) and of models, which predict the family. A kind says which entities its label may name;
kinds of the family `no_fault` name nobody (`rca incidents label <id> --no-fault --fault traffic_surge`), and teach a model
when to blame nobody. A word of your own is accepted with `--force` and counts as `errors`.

{table}
"""


def faults_page() -> str:
    """docs/faults.md."""
    rows = [
        (f"`{kind.name}`", kind.title, kind.family, ", ".join(kind.label_kinds) or "nobody", kind.signature)
        for kind in FAULT_KINDS.values()
    ]
    return _FAULTS.format(table=_table(("kind", "what it is", "family", "a label names", "signature"), rows))


def features_page() -> str:
    """docs/features.md, from the tables of signals and features."""
    return _FEATURES.format(
        node_signals=_signal_table(NODE_SIGNALS, {*FLOOR_SIGNALS, *ALERT_SIGNALS}),
        edge_signals=_signal_table(EDGE_SIGNALS, set()),
        node_features=_feature_table(NODE_FEATURES, NODE_SIGNALS),
        edge_features=_feature_table(EDGE_FEATURES, EDGE_SIGNALS),
    )


def _signal_table(signals: Sequence[Signal], floor: Collection[str]) -> str:
    head = ("signal", "measured on", "points to", "counts", "floor", "meaning", "formula")
    ways = {True: "both ways", False: "up"}
    return _table(
        head,
        (
            (f"`{s.name}`", s.source, s.family, ways[s.signed], "yes" if s.name in floor else "", s.title, _cell(s.formula))
            for s in signals
        ),
    )


def _feature_table(features: Sequence[Feature], signals: Sequence[Signal]) -> str:
    """One row per feature; those that are made of every signal, or of several, in the same way share one."""
    by_name = {signal.name: signal for signal in signals}
    rows: dict[tuple[str, ...], list[str]] = {}
    for feature in features:
        start, _, end = feature.name.partition(".")
        signal = by_name.get(start)
        if signal is None:
            rows[f"`{feature.name}`", feature.unit, feature.formula, feature.reason] = []
            continue
        formula = feature.formula.replace(f", z: {signal.formula}", "")
        reason = feature.reason.replace(signal.title, "the signal")
        rows.setdefault((f"`<signal>.{end}`", feature.unit, formula, reason), []).append(signal.name)
    return _table(
        ("feature", "of", "unit", "formula", "reason"),
        (
            (name, _of(owners, signals), unit, _cell(formula), _cell(reason))
            for (name, unit, formula, reason), owners in rows.items()
        ),
    )


def _of(owners: Sequence[str], signals: Sequence[Signal]) -> str:
    return "every signal" if len(owners) == len(signals) else ", ".join(f"`{owner}`" for owner in owners)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


_ACCURACY = """# Accuracy

Generated from docs/results by `python -m scripts.docs`; docs/evaluation.md says how the numbers come about and how to read them.

"""


def accuracy_page() -> str:
    """docs/accuracy.md, from the summaries in docs/results."""
    parts = []
    every = []
    for file in sorted((ROOT / "docs" / "results").glob("*.json")):
        body = json.loads(file.read_text(encoding="utf-8"))
        if "dataset" not in body:  # speed, not accuracy
            continue
        every += body["runs"]
        parts.append(f"## {body['dataset']}\n\n{markdown(body['runs'])}")
        if "runs_per_service" in body:
            parts.append(f"## {body['dataset']}, instances counted as their service\n\n{markdown(body['runs_per_service'])}")
    if not parts:
        return _ACCURACY + "No results are kept yet.\n"
    return f"{_ACCURACY}## In short\n\nAC@1 / AC@3.\n\n{in_short(every)}\n\n" + "\n".join(parts)


_PERFORMANCE = """\
# Speed and memory

`make bench` (`python -m benchmarks`) times everything below and writes `docs/results/performance.json`, from which this page is
made. Figures are medians of {repeat} runs, with the slowest and the fastest beside them; a bar is what is asked for. The
machine may have had other work to do: `load` is its load average at the end. Nothing fails on a slow day.

Machine: {machine}.

"""


def performance_page() -> str:
    """What `python -m benchmarks` measured last."""
    body = json.loads((ROOT / "docs/results/performance.json").read_text(encoding="utf-8"))
    rows = []
    for result in body["results"]:
        peer = f"{result['peer_median']:,.0f} ({result['peer']})" if result.get("peer") else ""
        bar = "" if result["bar"] is None else f"{result['bar']:,.0f}"
        spread = f"{result['slowest']:,.0f} to {result['fastest']:,.0f}"
        rows.append((result["what"], f"{result['median']:,.0f} {result['unit']}", bar, spread, peer, result["workload"]))
    machine = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in body["machine"].items())
    head = ("what", "figure", "bar", "slowest to fastest", "beside it", "workload")
    return _PERFORMANCE.format(repeat=body["repeat"], machine=machine) + _table(head, rows) + "\n" + _training() + _soak()


_TRAINING: Final = """
## Training, by device

`python -m benchmarks.training` (part of `make bench`) trains on simulated incidents and writes `docs/results/training.json`. It
keeps the figures of every device that it was run on. Graphs a second are those of a second of processor time on a CPU, and of the
clock on a GPU. [training.md](training.md) says what is compared. {missing}
"""
_NO_GPU: Final = "It has not been run on a GPU yet: what pays there is not known."


def _training() -> str:
    """What `python -m benchmarks.training` measured last on every device, if it was run."""
    path = ROOT / "docs/results/training.json"
    if not path.exists():
        return ""
    devices = json.loads(path.read_text(encoding="utf-8"))
    rows = []
    for body in devices:
        machine = body["machine"]
        for result in body["results"]:
            peer = f"{result['peer_median']:,.0f} ({result['peer']})" if result["peer"] else ""
            spread = f"{result['slowest']:,.0f} to {result['fastest']:,.0f}"
            where = f"{machine['device']}, {machine['cores']} cores, load {machine['load']}"
            rows.append((where, result["what"], f"{result['median']:,.0f} {result['unit']}", spread, peer, result["workload"]))
    missing = "" if any(body["machine"]["is_gpu"] for body in devices) else _NO_GPU
    head = ("device", "what", "figure", "slowest to fastest", "beside it", "workload")
    return _TRAINING.format(missing=missing) + "\n" + _table(head, rows) + "\n"


_SOAK: Final = """
## A steady stream for minutes

`make soak` (`python -m benchmarks.soak`) sends exporter-shaped requests over gRPC into a running `rca collect`, repeats one in
200 and delays one in 500 beyond the join, and writes `docs/results/soak.json`. The accounts are exact where every span that was
sent is stored once, or was counted as a duplicate. Memory grows with the spans that are remembered for five minutes, and stays.

"""


def _soak() -> str:
    """What `python -m benchmarks.soak` measured last, if it was run."""
    path = ROOT / "docs/results/soak.json"
    if not path.exists():
        return ""
    body = json.loads(path.read_text(encoding="utf-8"))
    memory, accounts, machine = body["memory_mib"], body["accounts"], body["machine"]
    rows = [
        ("stream", f"{body['spans_per_second']:,} spans/s for {body['seconds']:,.0f} s"),
        ("machine", f"{machine['cores']} cores, Python {machine['python']}, load {machine['load']} at the end"),
        ("processor", f"{body['cpu_cores']:.2f} cores"),
        ("memory, first third of the time", f"{memory['first']:,.0f} MiB"),
        ("memory, last third", f"{memory['last']:,.0f} MiB"),
        ("memory, peak", f"{memory['peak']:,.0f} MiB"),
        ("slope over the last half", f"{memory['slope_per_hour']:,.0f} MiB an hour"),
        ("accounts", "exact" if accounts["exact"] else "NOT EXACT"),
        *((f"spans {name}", f"{accounts[name]:,}") for name in ("sent", "binned", "duplicates", "late", "unpaired", "open")),
        ("requests told to wait", f"{accounts['requests_told_to_wait']:,}"),
    ]
    return _SOAK + _table(("what", "figure"), rows) + "\n"


_CONFIGURATION: Final = """\
# Configuration

`rca.toml` says where telemetry is. It is looked for at `--config`, `$RCA_CONFIG`, `./rca.toml` and `~/.config/rca/rca.toml`,
in this order. `rca init` writes one with every setting explained, `rca doctor` tests every source that it names. A table that is
absent is a source that is not used. A key that is not known is refused, with the nearest known one.

Durations are written as `90s`, `15m` or `1h30m`, sizes as `64MiB` or `10GB`. Secrets belong in files (`..._file`), which are read
anew for every collection, so that they can rotate; they never show in logs or messages.

{tables}
"""


def configuration_page() -> str:
    """docs/configuration.md, from the sections' own descriptions."""
    parts = []
    first = ""
    for table in config_tables():
        settings = [setting for setting in table.settings if not (setting.shared and first)]
        if table.shared and first != table.name.partition(".")[0]:
            continue
        rows = ((f"`{s.key}`", "required" if s.required else f"`{s.default}`" if s.default else "", s.meaning) for s in settings)
        also = f"\n\nIdentity, TLS, time-outs and limits as in `[{first}]`." if len(settings) < len(table.settings) else ""
        listed = f"\n\n{_table(('setting', 'default', 'meaning'), rows)}" if settings else ""
        parts.append(f"## [{table.name}]\n\n{table.meaning}{listed}{also}")
        if not first and any(setting.shared for setting in table.settings):
            first = table.name
    return _CONFIGURATION.format(tables="\n\n".join(parts))


PAGES: Final[dict[str, Callable[[], str]]] = {
    **{f"collectors/grafana/{name}.json": partial(dashboard, name) for name in DASHBOARDS},
    "collectors/prometheus/serve.rules.yml": serve_rules,
    "docs/performance.md": performance_page,
    "docs/accuracy.md": accuracy_page,
    "docs/bundle.md": bundle_page,
    "docs/confidence.md": confidence_page,
    "docs/configuration.md": configuration_page,
    "docs/explanations.md": explanations_page,
    "docs/faults.md": faults_page,
    "docs/features.md": features_page,
    "docs/incident.schema.json": incident_schema,
    "docs/metrics.md": metrics_page,
    "docs/notice.schema.json": notice_schema,
    "docs/notifications.md": notifications_page,
    f"docs/postmortem/{NAME_OF_EXAMPLE}.md": markdown_page,
    f"docs/postmortem/{NAME_OF_EXAMPLE}.html": html_page,
    "docs/prometheus.md": prometheus_page,
    "docs/ranking.schema.json": report_schema,
    "docs/robustness.md": robustness_page,
    "docs/transfer.md": transfer_page,
    "incidents/README.md": incidents_page,
}
"""Every generated page by path, and what writes it."""

if (ROOT / "models" / NAME / MODEL_FILE).is_file():
    PAGES[f"models/{NAME}/README.md"] = lambda: card_page(ROOT / "models" / NAME, f"models/{NAME}")


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def stale(root: Path = ROOT) -> list[str]:
    """Pages whose committed text differs from what their source says, or that are absent."""
    return [
        page
        for page, write in PAGES.items()
        if not (root / page).is_file() or (root / page).read_text(encoding="utf-8") != write()
    ]


def main() -> None:
    """Write all pages, or check them."""
    if "--check" in sys.argv[1:]:
        pages = stale()
        for page in pages:
            print(f"{page}: differs from its source; run `make docs`", file=sys.stderr)
        sys.exit(bool(pages))
    for page, write in PAGES.items():
        (ROOT / page).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / page).write_text(write(), encoding="utf-8")
        print(page)


if __name__ == "__main__":
    main()
