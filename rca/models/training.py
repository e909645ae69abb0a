"""Training of the graph network: listwise, regularised, seeded, resumable.

Every random draw of an epoch follows from (seed, epoch) alone, so a run that was interrupted and resumed ends with the same
weights as one that was not. On a CPU, with the same number of threads, two runs are equal to the last bit.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from rca.arrays import REVERSE, GraphArrays
from rca.errors import BadGraph, BadInput
from rca.graph import ServiceGraph
from rca.models.checkpoint import read_state, write_state
from rca.models.compiling import compile_relations, leave_uncompiled
from rca.models.engines import Engine, engine_of
from rca.models.network import Corruption, Network, Output
from rca.models.reference import Reference, reference_of
from rca.models.resident import Resident
from rca.models.updates import Updates
from rca.models.usage import Meter, Usage, device_name
from rca.tensors import GraphTensors, batch, feature_classes

Device = Literal["auto", "cpu", "cuda"]
Schedule = Literal["cosine", "plateau"]
Precision = Literal["auto", "float32", "bfloat16"]
_EVALUATION_GRAPHS: Final = 256
_WATCHED_GRAPHS: Final = 32


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """G graphs with their answers.

    `targets` are node rows of the true causes; none where nothing is wrong or the cause is no candidate, which `is_normal` says.
    `families` are names of faults.FAMILIES or faults.NO_FAULT. `weights` are the caller's own and are kept; balancing by
    system and family comes on top (`balanced`).
    """

    graphs: tuple[ServiceGraph, ...]
    targets: tuple[tuple[int, ...], ...]
    families: tuple[str, ...]
    weights: tuple[float, ...]
    systems: tuple[str, ...]
    is_normal: tuple[bool, ...]

    def __post_init__(self) -> None:
        for name in ("targets", "families", "weights", "systems", "is_normal"):
            found = len(getattr(self, name))
            if found != len(self.graphs):
                raise BadGraph(f"training set: {name}", expected=f"one per graph ({len(self.graphs)})", found=str(found))
        for i, (rows, normal) in enumerate(zip(self.targets, self.is_normal, strict=True)):
            if bool(rows) == normal:
                wanted = "no target in a normal window" if normal else "a target, or is_normal"
                raise BadGraph(f"training set: graph {i}", expected=wanted, found=f"{len(rows)} targets")

    def __add__(self, other: TrainingSet) -> TrainingSet:
        names = ("graphs", "targets", "families", "weights", "systems", "is_normal")
        return TrainingSet(*(getattr(self, name) + getattr(other, name) for name in names))

    def __len__(self) -> int:
        return len(self.graphs)

    def subset(self, rows: Sequence[int]) -> TrainingSet:
        """The graphs at these places, in this order."""
        names = ("graphs", "targets", "families", "weights", "systems", "is_normal")
        return TrainingSet(*(tuple(getattr(self, name)[row] for row in rows) for name in names))

    @classmethod
    def empty(cls) -> TrainingSet:
        return cls((), (), (), (), (), ())

    def tensors(self, weights: npt.NDArray[np.float64] | None = None) -> GraphTensors:
        """All graphs in one batch, weighted by `balanced` unless told otherwise. Raises BadGraph, BadCheckpoint."""
        return batch(
            self.graphs,
            targets=self.targets,
            families=self.families,
            weights=(balanced(self) if weights is None else weights).tolist(),
            is_normal=self.is_normal,
        )

    def digest(self) -> str:
        """SHA-256 over features, edges and answers: names the data a checkpoint was trained on."""
        digest = hashlib.sha256()
        for graph, rows, family in zip(self.graphs, self.targets, self.families, strict=True):
            digest.update(graph.features.tobytes())
            digest.update(np.packbits(graph.available).tobytes())
            for relation in sorted(graph.edges):
                digest.update(relation.encode())
                digest.update(np.ascontiguousarray(graph.edges[relation]).tobytes())
                digest.update(graph.edge_features[relation].tobytes())
            digest.update(f"{sorted(rows)}{family}".encode())
        return digest.hexdigest()


def reference_of_graphs(tensors: GraphTensors, made_of: Mapping[str, Any], seed: int = 0) -> Reference:
    """The reference of a batch in which every graph is of a system of its own. Graphs in which nothing is wrong do not count:
    it is incidents that are compared with it."""
    told = tensors.select(torch.nonzero(~tensors.is_normal).flatten())
    return reference_of(as_arrays(told), [str(row) for row in range(told.graphs)], made_of=made_of, seed=seed)


def as_arrays(tensors: GraphTensors) -> GraphArrays:
    """The same batch as numpy arrays, its answers left behind."""
    forward = [name for name in tensors.edge_index if not name.startswith(REVERSE)]
    return GraphArrays(
        tensors.schema,
        tensors.x.float().numpy(),
        tensors.available.numpy(),
        tensors.kind.numpy(),
        tensors.node_ptr.numpy(),
        {name: tensors.edge_index[name].numpy() for name in forward},
        {name: tensors.edge_attr[name].float().numpy() for name in forward},
        {name: tensors.edge_available[name].numpy() for name in forward},
        {name: tensors.edge_ptr[name].numpy() for name in forward},
        tensors.candidate.numpy(),
        tensors.candidate_ptr.numpy(),
        tensors.floor.numpy(),
    )


def balanced(training: TrainingSet) -> npt.NDArray[np.float64]:
    """Weight of every graph, mean 1: a system of n graphs counts √n, and within a system every fault family the same."""
    systems, families = np.array(training.systems), np.array(training.families)
    weights = np.array(training.weights, dtype=np.float64)
    for system in np.unique(systems):
        members = systems == system
        kinds = np.unique(families[members])
        for family in kinds:
            same = members & (families == family)
            weights[same] *= math.sqrt(members.sum()) / (len(kinds) * same.sum())
    return weights / weights.mean() if len(weights) and weights.mean() > 0 else weights


def mixed(labelled: TrainingSet, invented: TrainingSet, share: float) -> tuple[TrainingSet, npt.NDArray[np.float64]]:
    """Both sets, each balanced within itself, and weights under which the invented one counts `share` of the whole, mean 1."""
    both = labelled + invented
    if not len(labelled) or not len(invented):
        return both, balanced(both)
    parts = [balanced(part) * fraction / len(part) for part, fraction in ((labelled, 1 - share), (invented, share))]
    return both, np.concatenate(parts) * len(both)


@dataclass(frozen=True)
class TrainingConfig:
    """How to train. `patience` counts epochs without a better validation loss; without validation graphs all epochs are run.

    `precision` is that of the products inside the network while it learns; "auto" is bfloat16 on a GPU that computes in it, else
    float32. Weights, sums, heads and losses are float32 in any case. A network that is `compiled` computes its messages with
    torch.compile while it learns.
    """

    epochs: int = 60
    batch_graphs: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 0.03
    noise: float = 0.1
    class_dropout: float = 0.15
    clip: float = 1.0
    patience: int = 12
    schedule: Schedule = "cosine"
    family_weight: float = 0.2
    seed: int = 0
    device: Device = "auto"
    engine: str = "torch"
    precision: Precision = "auto"
    compiled: bool = False

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.batch_graphs < 1:
            raise BadInput(
                "epochs, batch_graphs", expected="epochs >= 0, batch_graphs >= 1", found=f"{self.epochs}, {self.batch_graphs}"
            )
        if self.schedule not in ("cosine", "plateau"):
            raise BadInput("schedule", expected="cosine or plateau", found=repr(self.schedule))
        if self.precision not in get_args(Precision):
            raise BadInput("precision", expected=" or ".join(get_args(Precision)), found=repr(self.precision))


@dataclass(frozen=True)
class Epoch:
    """What one epoch came to. `similarity` is the over-smoothing watch: mean cosine between nodes after every layer."""

    number: int
    loss: float
    validation_loss: float | None
    learning_rate: float
    gate: float
    similarity: tuple[float, ...]
    skipped_steps: int
    usage: Usage | None = field(default=None, compare=False)


@dataclass(frozen=True)
class History:
    """All epochs, and the one whose weights were kept. `compiled` says what came of compiling; empty where nobody asked."""

    epochs: tuple[Epoch, ...]
    best: int
    seconds: float
    device: str = ""  # by name
    compiled: str = ""

    @property
    def usages(self) -> list[Usage]:
        return [epoch.usage for epoch in self.epochs if epoch.usage is not None]

    @property
    def graphs_per_second(self) -> float:
        """Of the median epoch."""
        rates = sorted(usage.graphs_per_second for usage in self.usages)
        return rates[len(rates) // 2] if rates else 0.0

    @property
    def memory_bytes(self) -> int:
        return max((usage.memory_bytes for usage in self.usages), default=0)

    @property
    def utilisation(self) -> float | None:
        """Mean over the epochs that know it."""
        known = [usage.utilisation for usage in self.usages if usage.utilisation is not None]
        return sum(known) / len(known) if known else None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def device_of(name: str) -> torch.device:
    """The device by that name; "auto" is a GPU where there is one. Raises BadInput."""
    if name not in ("auto", "cpu", "cuda"):
        raise BadInput("device", expected="auto, cpu or cuda", found=repr(name))
    if name == "cuda" and not torch.cuda.is_available():
        raise BadInput("device", expected="a GPU that torch can use", found="none")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def is_halved(precision: Precision, device: torch.device) -> bool:
    """Whether products are taken in bfloat16, which has the range of float32: gradients need no scaling."""
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return precision == "bfloat16"


def listwise_loss(output: Output, tensors: GraphTensors, engine: Engine) -> Tensor:
    """Negative logarithm of the probability given to the right answer, (G,).

    The softmax runs over a graph's candidates and its null; several causes count together (logarithm of their sum).
    """
    rows = torch.arange(tensors.candidate.shape[0], device=tensors.x.device)
    everyone = engine.links(rows, tensors.candidate_graph, rows.shape[0], tensors.graphs)
    null = output.null.unsqueeze(1)
    total = torch.logaddexp(engine.log_sum_exp(output.score.unsqueeze(1), everyone), null)  # (G, 1)
    hit = tensors.causes
    right = engine.links(hit, tensors.candidate_graph[hit], rows.shape[0], tensors.graphs)
    positive = engine.log_sum_exp(output.score[hit].unsqueeze(1), right)
    answer = torch.where(tensors.is_normal.unsqueeze(1), null, positive)
    return (total - answer).squeeze(1)


def family_loss(output: Output, tensors: GraphTensors) -> Tensor:
    """Cross-entropy of the fault family at the causes, weighted per graph; 0 where no family is known."""
    family, rows = tensors.family[tensors.candidate_graph], tensors.named_causes  # (C,), (R,)
    if not rows.shape[0]:
        return output.family.sum() * 0
    weight = tensors.weight[tensors.candidate_graph[rows]]
    each = functional.cross_entropy(output.family[rows], family[rows], reduction="none")
    return (weight * each).sum() / weight.sum().clamp(min=1e-12)


def mean_loss(network: Network, graphs: Resident, engine: Engine) -> float:
    """Weighted mean listwise loss, without dropout and noise. The device is waited for once."""
    network.eval()
    sums = []
    with torch.no_grad():
        for part in graphs.batches(np.arange(graphs.graphs), _EVALUATION_GRAPHS):
            loss = (listwise_loss(network(part, engine), part, engine) * part.weight).sum()
            sums.append(torch.stack([loss, part.weight.sum()]))
    total, weight = 0.0, 0.0
    for part_loss, part_weight in torch.stack(sums).tolist():
        total, weight = total + part_loss, weight + part_weight
    return total / weight if weight else 0.0


@dataclass
class _State:
    """What an interrupted run needs to go on."""

    epoch: int = 0
    best: int = 0
    best_loss: float = math.inf
    seconds: float = 0.0
    plateau: int = 0
    rate: float = 1.0
    epochs: list[Epoch] = field(default_factory=list)


class Trainer:
    """Trains one network on one batch of graphs.

    A network that is `continued` was trained before and keeps its standardisation. `progress` is called after every epoch. With
    `state_path` the state is written after every epoch, and a run that finds the state of the same run there goes on from it.
    Raises TrainingDiverged when several steps in a row give no finite number.
    """

    def __init__(
        self,
        network: Network,
        training: GraphTensors,
        validation: GraphTensors | None,
        config: TrainingConfig,
        *,
        continued: bool = False,
        state_path: Path | None = None,
        progress: Callable[[Epoch], None] | None = None,
    ) -> None:
        self.config, self.state_path, self.progress = config, state_path, progress
        self.device = device_of(config.device)
        self._meter = Meter(self.device)
        self.engine = engine_of(config.engine)
        network.learn_in(torch.bfloat16 if is_halved(config.precision, self.device) else None)
        (network.extend_inputs if continued else network.fit_inputs)(training)
        self.network = network.to(self.device)
        self.training = Resident(training, self.device)
        self.validation = Resident(validation, self.device) if validation is not None and validation.graphs else None
        self.updates = Updates(network, weight_decay=config.weight_decay, clip=config.clip, on_device=self.device.type == "cuda")
        names = sorted({*feature_classes(network.schema.features), *feature_classes(network.schema.edge_features)})
        self._classes = len(names)
        self._node_class, self._edge_class = (
            torch.tensor([names.index(name) for name in feature_classes(columns)], dtype=torch.int64, device=self.device)
            for columns in (network.schema.features, network.schema.edge_features)
        )
        self._state = _State()
        self._best = deepcopy(self.network.state_dict())
        self._fingerprint = self._identity(training, validation)
        watched = np.arange(min(_WATCHED_GRAPHS, training.graphs))
        self._watched = next(self.training.batches(watched, _WATCHED_GRAPHS))

    def run(self) -> History:
        """Train to the end, and leave the best weights in the network (the last ones without validation graphs)."""
        if self.state_path is not None and self.state_path.exists():
            self._restore(self.state_path)
        compiled = compile_relations(self.network, self.engine, self._watched) if self.config.compiled else ""
        while not self._finished():
            self._one_epoch()
            if self.state_path is not None:
                self._save(self.state_path)
            if self.progress is not None:
                self.progress(self._state.epochs[-1])
        self.network.load_state_dict(self._best)
        self.network.eval()
        leave_uncompiled(self.network)
        return History(tuple(self._state.epochs), self._state.best, self._state.seconds, device_name(self.device), compiled)

    def _finished(self) -> bool:
        state = self._state
        waited = state.epoch - state.best
        return state.epoch >= self.config.epochs or (self.validation is not None and waited > self.config.patience)

    def _one_epoch(self) -> None:
        state, config = self._state, self.config
        rate = self._rate()
        generator = torch.Generator(self.device).manual_seed(config.seed * 1_000_003 + state.epoch)
        order = np.random.default_rng([config.seed, state.epoch]).permutation(self.training.graphs)
        self.network.train()
        self.network.seed_dropout(generator)
        noise = Corruption(config.noise, config.class_dropout, self._node_class, self._edge_class, self._classes, generator)
        self._meter.start()
        self.updates.begin(state.epoch + 1, rate)
        for part in self.training.batches(order, config.batch_graphs):
            self.updates.step(self._loss(part, noise))
            self._meter.tick()
        losses, skipped = self.updates.end()
        validation = mean_loss(self.network, self.validation, self.engine) if self.validation is not None else None
        self._keep(validation)
        state.epoch += 1
        mean = float(np.mean(losses)) if losses else math.nan
        gate, similarity = float(torch.tanh(self.network.gate.detach())), self._similarity()
        usage = self._meter.stop(self.training.graphs)
        state.seconds += usage.seconds
        state.epochs.append(Epoch(state.epoch, mean, validation, rate, gate, similarity, skipped, usage))

    def _loss(self, part: GraphTensors, noise: Corruption) -> Tensor:
        output = self.network(part, self.engine, noise=noise)
        listwise = (listwise_loss(output, part, self.engine) * part.weight).mean()
        return listwise + self.config.family_weight * family_loss(output, part)

    def _keep(self, validation: float | None) -> None:
        state = self._state
        if validation is None or validation < state.best_loss:
            state.best, state.plateau = state.epoch + 1, 0
            state.best_loss = validation if validation is not None else math.inf
            self._best = deepcopy(self.network.state_dict())
            return
        state.plateau += 1
        if self.config.schedule == "plateau" and state.plateau > self.config.patience // 3:
            state.plateau, state.rate = 0, state.rate / 2

    def _rate(self) -> float:
        """Learning rate of the next epoch: cosine from full to a hundredth, or halved on every plateau."""
        if self.config.schedule == "plateau":
            return self.config.learning_rate * self._state.rate
        share = self._state.epoch / max(1, self.config.epochs - 1)
        return self.config.learning_rate * (0.01 + 0.99 * (1 + math.cos(math.pi * min(1.0, share))) / 2)

    def _similarity(self) -> tuple[float, ...]:
        self.network.eval()
        with torch.no_grad():
            output: Output = self.network(self._watched, self.engine, watch=True)
        return output.similarity

    def _identity(self, training: GraphTensors, validation: GraphTensors | None) -> str:
        """What must be the same for a run to go on: configuration, first weights and data."""
        digest = hashlib.sha256(json.dumps([asdict(self.config), self.network.config.to_json()], sort_keys=True).encode())
        for tensors in (training, validation):
            if tensors is not None and tensors.graphs:
                for values in (tensors.x, tensors.target, tensors.weight, *tensors.edge_index.values()):
                    digest.update(values.cpu().contiguous().numpy().tobytes())
        for values in self.network.state_dict().values():
            digest.update(values.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _save(self, path: Path) -> None:
        tensors = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self._best.items()}
        for i, state in self.updates.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{name}": value for name, value in state.items()}
        facts = {**asdict(self._state), "bad_steps": self.updates.bad_steps}
        write_state(path, tensors, {"fingerprint": self._fingerprint, **facts})

    def _restore(self, path: Path) -> None:
        tensors, facts = read_state(path, self._fingerprint)
        self.network.load_state_dict(_under("network.", tensors))
        self._best = {name: value.to(self.device) for name, value in _under("best.", tensors).items()}
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in _under("optimizer.", tensors).items():
            number, moment = name.split(".", 1)
            moments.setdefault(int(number), {})[moment] = value
        optimizer = self.updates.optimizer
        optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
        self.updates.bad_steps = facts.pop("bad_steps")
        self._state = _State(**{**facts, "epochs": [_epoch_of(epoch) for epoch in facts["epochs"]]})


def _epoch_of(facts: Mapping[str, Any]) -> Epoch:
    return Epoch(**{**facts, "similarity": tuple(facts["similarity"]), "usage": Usage(**facts["usage"])})


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def calibrated_temperature(scores: Sequence[npt.NDArray[np.float64]], answers: Sequence[npt.NDArray[np.bool_]]) -> float:
    """Temperature under which the answers are most likely: each item is one graph's logits, null last, and which are right.

    Golden-section search over its logarithm; 1 without graphs.
    """
    if not scores:
        return 1.0

    def loss(log_temperature: float) -> float:
        scale = math.exp(-log_temperature)
        return float(np.mean([_surprise(values * scale, right) for values, right in zip(scores, answers, strict=True)]))

    low, high, ratio = math.log(0.1), math.log(10.0), (math.sqrt(5) - 1) / 2
    for _ in range(60):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if loss(left) < loss(right) else (left, high)
    return math.exp((low + high) / 2)


def _surprise(logits: npt.NDArray[np.float64], right: npt.NDArray[np.bool_]) -> float:
    peak = logits.max()
    return float(
        np.log(np.exp(logits - peak).sum())
        - np.log(np.exp(logits[right] - logits[right].max()).sum())
        + peak
        - logits[right].max()
    )
