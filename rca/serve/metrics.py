"""What `rca serve` counts about itself: in Prometheus' text form, and reported to OpenTelemetry where that is on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from rca.observe import Observer

_LOG: Final = logging.getLogger(__name__)
_PREFIX: Final = "rca_serve"
_FAST: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_SLOW: Final = (0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 300.0)


class Counter:
    """A number that grows, by the value of one label."""

    def __init__(self, name: str, label: str, meaning: str, known: tuple[str, ...]) -> None:
        self.name, self.label, self.meaning = f"{_PREFIX}_{name}_total", label, meaning
        self._values = dict.fromkeys(known, 0)
        self._lock = threading.Lock()

    def add(self, value: str, amount: int = 1) -> None:
        with self._lock:
            self._values[value] = self._values.get(value, 0) + amount

    def value(self, value: str) -> int:
        return self.values().get(value, 0)

    def values(self) -> dict[str, int]:
        with self._lock:
            return dict(self._values)

    def lines(self) -> Iterator[str]:
        yield from _head(self.name, "counter", self.meaning)
        for value, amount in self.values().items():
            yield f'{self.name}{{{self.label}="{_escaped(value)}"}} {amount}'


class Histogram:
    """How long something takes, in seconds."""

    def __init__(self, name: str, meaning: str, bounds: tuple[float, ...]) -> None:
        self.name, self.meaning, self.bounds = f"{_PREFIX}_{name}_seconds", meaning, bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._lock = threading.Lock()
        self._report: Callable[[float], None] = lambda _seconds: None

    def observe(self, seconds: float) -> None:
        row = next((i for i, bound in enumerate(self.bounds) if seconds <= bound), len(self.bounds))
        with self._lock:
            self._counts[row] += 1
            self._sum += seconds
        self._report(seconds)

    def report_to(self, observer: Observer) -> None:
        self._report = observer.histogram(self.name, self.meaning, self.bounds)

    def lines(self) -> Iterator[str]:
        yield from _head(self.name, "histogram", self.meaning)
        with self._lock:
            counts, total = list(self._counts), self._sum
        so_far = 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), counts, strict=True):
            so_far += count
            yield f'{self.name}_bucket{{le="{bound}"}} {so_far}'
        yield f"{self.name}_sum {total:.6f}"
        yield f"{self.name}_count {so_far}"


@dataclass(frozen=True)
class Gauge:
    """A value of the moment, or one for every value of a label; None while there is none. `name` ends in its unit."""

    short: str
    meaning: str
    read: Callable[[], float | Mapping[str, float] | None]
    label: str = ""

    @property
    def name(self) -> str:
        return f"{_PREFIX}_{self.short}"

    def values(self) -> dict[str, float]:
        try:
            value = self.read()
        except Exception as error:  # one figure that cannot be told must not keep the others, least of all when the disk fails
            _LOG.warning("%s: %s", self.name, error)
            value = None
        if value is None:
            return {}
        return {of: float(each) for of, each in value.items()} if isinstance(value, Mapping) else {"": float(value)}

    def lines(self) -> Iterator[str]:
        yield from _head(self.name, "gauge", self.meaning)
        for of, value in self.values().items():
            labels = f'{{{self.label}="{_escaped(of)}"}}' if self.label else ""
            yield f"{self.name}{labels} {value:g}"


class Metrics:
    """Every counter, histogram and gauge of a server."""

    def __init__(self) -> None:
        self.gauges: list[Gauge] = []
        self.alerts = Counter(
            "alerts", "outcome", "alerts received: new ones or changes, and those that were known", ("new", "known")
        )
        self.notifications = Counter(
            "notifications",
            "outcome",
            "notifications received, by what became of them",
            ("stored", "refused", "unauthorized", "told to wait"),
        )
        self.acknowledgement_seconds = Histogram("acknowledgement", "from a notification's arrival to its answer", _FAST)
        self.rankings = Counter("rankings", "outcome", "rankings that were asked for", ("ranked", "failed"))
        self.ranking_seconds = Histogram("ranking", "from a question to its ranking", _SLOW)
        self.first_answer_seconds = Histogram("first_answer", "from a group's first alert to its first answer", _SLOW)
        self.notices = Counter("notices", "state", "answers that were handed to the sinks", ("firing", "resolved"))
        self.deliveries = Counter(
            "deliveries", "outcome", "messages by what became of them", ("sent", "to be tried again", "given up")
        )
        self.ranked_by = Counter("ranked_by", "model", "rankings by what made them", ())
        self.shadow_answers = Counter(
            "shadow_answers",
            "outcome",
            "questions that the version in shadow was asked: it blames whom the answer blames, or another, or said nothing",
            ("agrees", "differs", "failed"),
        )
        self.gaps = Counter("gaps", "source", "what was missing when it was ranked, by the source that missed it", ())
        self.graph_age_seconds = Histogram("graph_age", "age of the newest telemetry that a ranking was made from", _SLOW)
        self.labels = Counter("labels", "verdict", "labels that people gave", ("confirm", "correct", "no_fault", "withdraw"))
        self.agreement = Counter(
            "agreement", "outcome", "labels by whether the answer had named that cause first", ("agrees", "differs")
        )

    def counted(self) -> list[Counter]:
        return [each for each in vars(self).values() if isinstance(each, Counter)]

    def timed(self) -> list[Histogram]:
        return [each for each in vars(self).values() if isinstance(each, Histogram)]

    def text(self) -> str:
        """The whole page."""
        lines = [line for counter in self.counted() for line in counter.lines()]
        lines += [line for histogram in self.timed() for line in histogram.lines()]
        lines += [line for gauge in self.gauges for line in gauge.lines()]
        return "\n".join(lines) + "\n"

    def report_to(self, observer: Observer) -> None:
        """The same figures under the same names, once they are in Prometheus."""
        for counter in self.counted():
            observer.count(counter.name, counter.meaning, counter.label, counter.values)
        for histogram in self.timed():
            histogram.report_to(observer)
        for gauge in self.gauges:
            observer.gauge(gauge.name, gauge.meaning, gauge.values, gauge.label)


def _head(name: str, kind: str, meaning: str) -> Iterator[str]:
    yield f"# HELP {name} {meaning}"
    yield f"# TYPE {name} {kind}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
