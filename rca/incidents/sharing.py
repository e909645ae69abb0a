"""Make an incident fit to be shared: smaller, and without names."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import polars as pl

from rca.bins import joined_key, split_key
from rca.errors import BadInput
from rca.incidents.bundle import bundle_files
from rca.incidents.incident import EntityModel, GapModel, Incident, Label
from rca.metrics import METRICS
from rca.telemetry import EntityId, Gap, Telemetry

# --- names -----------------------------------------------------------------------------------------------------------

_NAME_COLUMNS: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "spans": (
        ("service", "service.name"),
        ("service", "service.peer.name"),
        ("database", "db.namespace"),
        ("queue", "messaging.destination.name"),
        ("node", "k8s.node.name"),
        ("host", "server.address"),
        ("namespace", "service.namespace"),
        ("operation", "name"),
        ("pod", "k8s.pod.name"),
    ),
    "logs": (("operation", "operation"),),
    "alerts": (("service", "peer"),),
    "bin_counts": (("operation", "operation"), ("operation", "target_operation")),
    "bin_durations": (("operation", "operation"),),
    "bin_exemplars": (("operation", "operation"),),
    "bin_placement": (("pod", "pod"), ("node", "node")),
}
"""(kind of name, column). A name that is of several kinds, as an address often is, goes by the first."""
_KEY_COLUMNS: Final = (
    ("bin_counts", "source"),
    ("bin_counts", "target"),
    ("bin_durations", "source"),
    ("bin_durations", "target"),
    ("bin_exemplars", "service"),
    ("bin_placement", "service"),
    ("calls", "caller"),
    ("calls", "callee"),
    ("topology", "source"),
    ("topology", "target"),
)
"""Columns that hold a name, after its namespace and a separator where it has one."""
_PRODUCT_COLUMNS: Final = ("db.system.name", "messaging.system")
_ENTITY_FRAMES: Final = ("metrics", "events", "logs", "alerts")
_TEXT_COLUMNS: Final = (("logs", "template"), ("events", "reason"), ("alerts", "name"), ("metrics", "metric"))
_KINDS: Final = ("service", "database", "queue", "node", "host", "external", "namespace", "operation", "pod")
_KIND_ORDER: Final = {kind: i for i, kind in enumerate(_KINDS)}
_PREFIX: Final = {"service": "svc", "database": "db", "external": "host", "operation": "op", "namespace": "ns"}


@dataclass(frozen=True, eq=False)
class Redaction:
    """An incident and its telemetry without names, and what replaces names in what else belongs to them."""

    incident: Incident
    telemetry: Telemetry
    text: Callable[[str], str]
    """A text with the names in it replaced; only those that the telemetry and the incident have are known."""
    pseudonyms: Mapping[str, str]

    def entity(self, entity: EntityId) -> EntityId | None:
        """The entity under its pseudonym; None where telemetry and incident do not have it, so that it has none."""
        name, namespace = (self.pseudonyms.get(part, "") for part in (entity.name, entity.namespace))
        return EntityId(entity.kind, name, namespace) if name and bool(namespace) == bool(entity.namespace) else None


def redacted(incident: Incident, telemetry: Telemetry, salt: bytes | None = None) -> tuple[Incident, Telemetry]:
    """Both with every name replaced by a pseudonym, the same one wherever it stands, in labels and log lines too.

    Pseudonyms are keyed hashes; without a given `salt` nobody can compute them again. Numbers, times, the shape of the call
    graph, trace ids, products ("postgresql"), canonical metrics and the remaining words of log templates stay.
    Title, links, authors, notes and the messages of events are dropped: people write what they like there.
    """
    found = redaction_of(incident, telemetry, salt)
    return found.incident, found.telemetry


def redaction_of(incident: Incident, telemetry: Telemetry, salt: bytes | None = None) -> Redaction:
    """What `redacted` makes, with the pseudonyms that it made it with."""
    names = _names(incident, telemetry)
    pseudonyms = _pseudonyms(names, _queues(telemetry), salt or secrets.token_bytes(32))
    in_text = _replacer(pseudonyms)
    frames = {name: _renamed(name, frame, pseudonyms, in_text) for name, frame in telemetry.frames().items()}
    gaps = tuple(Gap(in_text(gap.source), in_text(gap.reason), gap.interval) for gap in telemetry.gaps)
    shared = replace(telemetry, gaps=gaps, **frames)
    return Redaction(_renamed_incident(incident, pseudonyms, in_text), shared, in_text, pseudonyms)


def _names(incident: Incident, telemetry: Telemetry) -> dict[str, str]:
    """Every name with its kind. Products are no secret, and stay what they are."""
    found: list[tuple[str, str]] = [(model.kind, model.name) for model in _entities_of(incident)]
    found += [("namespace", model.namespace) for model in _entities_of(incident)]
    frames = telemetry.frames()
    for frame, columns in _NAME_COLUMNS.items():
        for kind, column in columns:
            found += [(kind, name) for name in frames[frame][column].unique()]
    for frame in _ENTITY_FRAMES:
        found += frames[frame].select("entity_kind", "entity").unique().iter_rows()
        found += [("namespace", name) for name in frames[frame]["namespace"].unique()]
    for frame, column in _KEY_COLUMNS:
        has_kind = f"{column}_kind" in frames[frame].columns
        of_kind = pl.col(f"{column}_kind") if has_kind else pl.lit("service")
        keys = frames[frame].select(column, of_kind.alias("kind")).unique().drop_nulls()
        for text, kind in keys.iter_rows():
            namespace, name = split_key(text)
            found += [("namespace", namespace), (kind.removeprefix("consumed_"), name)]
    found += [("system", incident.system), ("incident", incident.id)]
    products = {name for column in _PRODUCT_COLUMNS for name in telemetry.spans[column].unique()}
    names: dict[str, str] = {}
    for kind, name in sorted(found, key=lambda pair: _KIND_ORDER.get(pair[0], len(_KIND_ORDER))):
        if name and name not in products:
            names.setdefault(name, kind)
    return names


def _queues(telemetry: Telemetry) -> list[str]:
    """Names of all queues; those of spans that send to one and take from it hold its name, which is how they are known."""
    to_queue = telemetry.bin_counts.filter(pl.col("target_kind").is_in(["queue", "consumed_queue"]))["target"]
    keys = pl.concat([to_queue, telemetry.topology.filter(pl.col("target_kind") == "queue")["target"]])
    found = {split_key(text)[1] for text in _distinct(keys)} | set(_distinct(telemetry.spans["messaging.destination.name"]))
    return sorted(found)


def _pseudonyms(names: dict[str, str], queues: Iterable[str], salt: bytes) -> dict[str, str]:
    def digest(text: str) -> str:
        return hmac.new(salt, text.encode(), hashlib.sha256).hexdigest()

    result = {name: f"{_PREFIX.get(kind, kind)}-{digest(name)[:10]}" for name, kind in names.items() if kind != "pod"}
    operations = [name for name, kind in names.items() if kind == "operation"]
    for queue in queues:
        for operation in operations:
            if queue and queue in operation and queue != operation:
                result[operation] += f" {result[queue]}" if queue in result else ""
    services = sorted((name for name, kind in names.items() if kind == "service"), key=len, reverse=True)
    for pod in (name for name, kind in names.items() if kind == "pod"):
        # a pod keeps the shape "<owner>-<replica set>-<suffix>", which is how its owner is found where nothing else says it
        owner = next((service for service in services if pod.startswith(f"{service}-")), None)
        if owner is None:
            result[pod] = f"pod-{digest(pod)[:10]}"
        else:
            parts = pod[len(owner) + 1 :].split("-")
            result[pod] = "-".join((result[owner], *(digest(f"{pod} {i}")[: len(part)] for i, part in enumerate(parts))))
    return result


def _replacer(pseudonyms: dict[str, str]) -> Callable[[str], str]:
    """A function that replaces the names that stand as words of their own in a text, the longest first."""
    ordered = sorted(pseudonyms, key=len, reverse=True)

    def replaced(text: str) -> str:
        words = "|".join(re.escape(name) for name in ordered if name in text)  # one pattern of all names would be slow
        if not words:
            return text
        return re.sub(rf"(?<![A-Za-z0-9])(?:{words})(?![A-Za-z0-9])", lambda match: pseudonyms[match[0]], text)

    return replaced


def _renamed(name: str, frame: pl.DataFrame, pseudonyms: dict[str, str], in_text: Callable[[str], str]) -> pl.DataFrame:
    columns = [column for _, column in _NAME_COLUMNS.get(name, ())]
    columns += ["entity", "namespace"] if name in _ENTITY_FRAMES else []
    frame = frame.with_columns(_mapped(frame[column], pseudonyms) for column in columns)
    for column in (column for key_frame, column in _KEY_COLUMNS if key_frame == name):
        keys = {text: _renamed_key(text, pseudonyms) for text in _distinct(frame[column])}
        frame = frame.with_columns(_mapped(frame[column], keys))
    for column in (column for text_frame, column in _TEXT_COLUMNS if text_frame == name):
        texts = {text: in_text(text) for text in _distinct(frame[column]) if text not in METRICS}
        frame = frame.with_columns(_mapped(frame[column], texts))
    return frame.with_columns(message=pl.lit(None, pl.String)) if name == "events" else frame


def _renamed_key(text: str, pseudonyms: dict[str, str]) -> str:
    namespace, name = split_key(text)
    return joined_key(pseudonyms.get(name, name), pseudonyms.get(namespace, namespace))


def _mapped(column: pl.Series, mapping: dict[str, str]) -> pl.Series:
    known = {name: mapping[name] for name in _distinct(column) if name in mapping}
    return column.replace(list(known), list(known.values())) if known else column


def _distinct(column: pl.Series) -> list[str]:
    return column.drop_nulls().unique().to_list()


def _entities_of(incident: Incident) -> Iterable[EntityModel]:
    return (*incident.alerting, *(label.entity for label in incident.labels if label.entity))


def _renamed_incident(incident: Incident, pseudonyms: dict[str, str], in_text: Callable[[str], str]) -> Incident:
    def entity(model: EntityModel) -> EntityModel:
        namespace = pseudonyms.get(model.namespace, model.namespace)
        return EntityModel(kind=model.kind, name=pseudonyms.get(model.name, model.name), namespace=namespace)

    def label(model: Label) -> Label:
        return model.model_copy(update={"entity": model.entity and entity(model.entity), "author": "", "note": ""})

    def gap(model: GapModel) -> GapModel:
        return model.model_copy(update={"source": in_text(model.source), "reason": in_text(model.reason)})

    changed = {
        "id": pseudonyms.get(incident.id, incident.id),
        "system": pseudonyms.get(incident.system, incident.system),
        "title": "",
        "labels": tuple(map(label, incident.labels)),
        "alerting": tuple(map(entity, incident.alerting)),
        "gaps": tuple(map(gap, incident.gaps)),
        "links": (),
    }
    return incident.model_copy(update=changed)


# --- size ------------------------------------------------------------------------------------------------------------


def capped(incident: Incident, telemetry: Telemetry, max_bytes: int) -> Telemetry:
    """Telemetry that fits into a bundle of `max_bytes`, at the cost of whole traces of the baseline, recorded as a gap.

    Which traces stay depends on their ids alone. Raises BadInput if dropping all of the baseline's traces is not enough.
    """
    if _size(incident, telemetry) <= max_bytes:
        return telemetry
    spans = telemetry.spans
    window = incident.window
    touching = pl.col("start_time_unix_nano").is_between(window.start_ns, window.end_ns, closed="left")
    in_incident = spans.filter(touching)["trace_id"].unique()
    baseline = spans.filter(~pl.col("trace_id").is_in(in_incident.implode()))["trace_id"].unique()
    ranked = sorted(baseline.to_list(), key=lambda trace_id: hashlib.sha256(trace_id.encode()).digest())

    def keeping(n: int) -> Telemetry:
        dropped = pl.Series(ranked[n:], dtype=pl.String)
        kept = spans.filter(~pl.col("trace_id").is_in(dropped.implode()))
        reason = f"{n} of {len(ranked)} baseline traces kept to limit the size; rates of the baseline are that much too low"
        return replace(telemetry, spans=kept, gaps=(*telemetry.gaps, Gap("spans", reason)))

    smallest = _size(incident, keeping(0))
    if smallest > max_bytes:
        raise BadInput(
            f"size of incident {incident.id}",
            expected=f"a limit of at least {smallest / 2**20:.2f} MiB (without any trace of the baseline)",
            found=f"{max_bytes / 2**20:.2f} MiB",
        )
    low, high = 0, len(ranked)  # `low` fits, `high` does not
    while high - low > max(1, len(ranked) // 100):
        middle = int(np.ceil((low + high) / 2))
        low, high = (middle, high) if _size(incident, keeping(middle)) <= max_bytes else (low, middle)
    return keeping(low)


def _size(incident: Incident, telemetry: Telemetry) -> int:
    """Bytes of the bundle's files. An archive is smaller still, but for a few bytes of padding."""
    return sum(len(data) + 1024 for data in bundle_files(incident, telemetry).values())
