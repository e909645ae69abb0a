"""The graph network as a ranker: one or several networks that differ in their seed, averaged and calibrated."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy, deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rca.contracts import Case, LabelledCase
from rca.errors import BadCheckpoint, BadInput
from rca.graph import ServiceGraph
from rca.models.augmentation import Augment, invented_incidents, labelled_incidents, normal_windows
from rca.models.checkpoint import weights_file, weights_of
from rca.models.engines import engine_of
from rca.models.files import ONNX, WEIGHTS, ModelCard, read_model, write_model
from rca.models.network import Edges, Gates, Network, NetworkConfig
from rca.models.scored import Scores, ranking_of_scores
from rca.models.strength import STRENGTHS, UNJUDGED, best_strength, earned_strength, invented_strength, transfer_strength
from rca.models.training import (
    Device,
    Epoch,
    History,
    Precision,
    Schedule,
    Trainer,
    TrainingConfig,
    TrainingSet,
    calibrated_temperature,
    mixed,
)
from rca.models.views import views_of
from rca.ranking import Ranking
from rca.tensors import GraphTensors, batch, chunks

Progress = Callable[[int, Epoch], None]
"""Called after every epoch with the number of the ensemble's member and the epoch."""

_SEED_STRIDE: Final = 7919
_RATE, _RATE_ON = 3e-3, 1e-3  # learning rate of fresh and of trained weights
_BATCH_GRAPHS: Final = 256
_SHAPE: Final = ("width", "layers", "heads", "dropout", "bound", "gates")


class NetworkRanker:
    """Ranks with the heterogeneous graph network of docs/model.md.

    `invented` incidents are made on the quiet stretches of the training cases and count `invented_share` of the training;
    `normals` quiet stretches per case teach it to say that nothing is wrong. `ensemble` networks of different seeds are
    averaged; `workers` of them learn at the same time, each in a process of its own. The correction is scaled by `strength`,
    which is found inside the training data unless given (rca.models.strength),
    and by how much of what is loud in a graph the training graphs report at all. `start` is the folder of a model whose weights,
    shape and standardisation the training goes on from, at a third of the usual learning rate unless told otherwise. A model
    meant for `transfer` to systems that it never saw is judged on held-out systems alone: where there is one system, by how
    `start` as it stands ranks it, which gives the temperature too. Ranking computes in float64 on the CPU, so that neither the
    order of nodes nor the engine shows in the scores. `threads` are used while fitting and ranking; results are repeatable for
    the same number.
    """

    name: ClassVar[str] = "gnn"
    uses_names: ClassVar[bool] = False
    learned: ClassVar[bool] = True
    _engine: ClassVar[str] = "torch"
    _edges: ClassVar[Edges] = "real"

    def __init__(
        self,
        *,
        engine: str | None = None,
        width: int = 32,
        layers: int = 2,
        heads: int = 4,
        dropout: float = 0.3,
        bound: float = 4.0,
        edges: Edges | None = None,
        gates: Gates = "sigmoid",
        epochs: int = 40,
        batch_graphs: int = 64,
        learning_rate: float | None = None,
        weight_decay: float = 0.03,
        noise: float = 0.1,
        class_dropout: float = 0.15,
        patience: int = 12,
        schedule: Schedule = "cosine",
        family_weight: float = 0.2,
        seed: int = 0,
        device: Device = "cpu",
        precision: Precision = "auto",
        compiled: bool = False,
        workers: int = 1,
        threads: int = 1,
        invented: int = 0,
        invented_share: float = 0.5,
        normals: int = 2,
        ensemble: int = 1,
        strength: float | None = None,
        augment: Augment = invented_incidents,
        start: str | Path | None = None,
        transfer: bool = False,
    ) -> None:
        self.engine, self.width, self.layers, self.heads = engine or self._engine, width, layers, heads
        self.dropout, self.bound, self.edges, self.gates = dropout, bound, edges or self._edges, gates
        self.epochs, self.batch_graphs = epochs, batch_graphs
        self.learning_rate = learning_rate or (_RATE if start is None else _RATE_ON)
        self.weight_decay, self.noise, self.class_dropout = weight_decay, noise, class_dropout
        self.patience, self.schedule, self.family_weight = patience, schedule, family_weight
        self.seed, self.device, self.threads = seed, device, threads
        self.precision, self.compiled, self.workers = precision, compiled, workers
        self.invented, self.invented_share, self.normals = invented, invented_share, normals
        self.ensemble, self.strength, self.augment = ensemble, strength, augment
        self.start = Path(start) if start is not None else None
        self.transfer = transfer
        self.temperature = 1.0
        self.histories: tuple[History, ...] = ()
        self.data: dict[str, Any] = {}
        self._networks: tuple[Network, ...] = ()
        self._before: NetworkRanker | None = None

    def network_config(self) -> NetworkConfig:
        """Raises BadInput for options that contradict each other."""
        return NetworkConfig(
            width=self.width,
            layers=self.layers,
            heads=self.heads,
            dropout=self.dropout,
            bound=self.bound,
            edges=self.edges,
            gates=self.gates,
            shuffle_seed=self.seed,
        )

    def training_config(self, member: int) -> TrainingConfig:
        return TrainingConfig(
            epochs=self.epochs,
            batch_graphs=self.batch_graphs,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            noise=self.noise,
            class_dropout=self.class_dropout,
            patience=self.patience,
            schedule=self.schedule,
            family_weight=self.family_weight,
            seed=self.seed + _SEED_STRIDE * member,
            device=self.device,
            engine=self.engine,
            precision=self.precision,
            compiled=self.compiled,
        )

    def fit(self, cases: Sequence[LabelledCase], validation: Sequence[LabelledCase] | None = None) -> Self:
        """Train on labelled cases, and stop early and calibrate on the validation cases if there are any.

        Cases without a cause give their quiet stretches only. Raises BadInput if nothing is left to learn from.
        """
        return self.train(cases, validation)

    def train(
        self,
        cases: Sequence[LabelledCase],
        validation: Sequence[LabelledCase] | None = None,
        *,
        state_folder: Path | None = None,
        progress: Progress | None = None,
        judging: Callable[[], None] | None = None,
    ) -> Self:
        """As `fit`; a run that was interrupted goes on from the states in `state_folder`.

        `judging` is called before every part of the cross-validation that finds the strength. Raises BadCheckpoint if the model
        to start from has other features.
        """
        self._go_on()
        training, weights, invented = self._training_set(cases)
        checked = labelled_incidents(validation or ()) if validation else TrainingSet.empty()
        self.data = {"training": training.digest(), "validation": checked.digest(), "graphs": len(training)}
        if self._before is not None:
            self.data["start"] = {"weights": self._before.digest(), **self._before.data}
        with _threads(self.threads):
            strength = self._strength([*cases, *(validation or ())], invented, state_folder, judging or (lambda: None))
            tensors = training.tensors(weights)
            held_out = checked.tensors() if len(checked) else None
            self._train_members(tensors, held_out, state_folder, progress)
            self._set_strength(strength)
            self.temperature = self._temperature(cases, validation or (), checked)
        return self

    def pretrain(
        self,
        training: GraphTensors,
        validation: GraphTensors,
        data: Mapping[str, Any],
        *,
        floor_right: float | None = None,
        state_folder: Path | None = None,
        progress: Progress | None = None,
    ) -> Self:
        """Train on graphs that are at hand, such as simulated ones, and choose epoch, strength and temperature on held-out ones.

        Held-out systems of the same making are kinder than real ones: however well it does on them, the correction counts half at
        most. `floor_right` is how often the label-free score names the cause first on recorded incidents: graphs are weighted so
        that it does here too, because a network learns from simulated incidents how far to trust the score that it corrects.
        `data` says where the graphs come from; the model keeps it. An interrupted run goes on from the states in `state_folder`.
        """
        self._go_on()
        if floor_right is not None:
            training, validation = (_weighted(tensors, floor_right) for tensors in (training, validation))
            data = {**data, "floor_right": floor_right}
        self.data = {"graphs": training.graphs, "validation_graphs": validation.graphs, **data}
        with _threads(self.threads):
            self._train_members(training, validation, state_folder, progress)
            told = (~validation.is_normal).numpy()
            ranks, weights = self._reciprocal_ranks(validation)[told], validation.weight.numpy()[told]
            found = min(UNJUDGED, best_strength(ranks, weights)) if len(ranks) else UNJUDGED
            self._set_strength(found if self.strength is None else self.strength)
            means = np.round(np.average(ranks, axis=0, weights=weights), 6).tolist() if len(ranks) else []
            self.data["reciprocal_rank"] = dict(zip(map(str, STRENGTHS), means, strict=False))
            self.temperature = self._batch_temperature(validation)
        return self

    def _go_on(self) -> None:
        """Take over the shape of the networks to start from, if any. Raises BadCheckpoint."""
        if self.start is None:
            return
        self._before = NetworkRanker.load(self.start)
        for name in (*_SHAPE, "edges"):
            setattr(self, name, getattr(self._before, name))
        self.ensemble = max(self.ensemble, len(self._before._networks))

    def _set_strength(self, strength: float) -> None:
        for network in self._networks:
            network.get_buffer("strength").fill_(strength)

    def _strength(
        self, cases: Sequence[LabelledCase], invented: TrainingSet, state_folder: Path | None, judging: Callable[[], None]
    ) -> float:
        """The given strength, or the one that held-out incidents justify; an interrupted run keeps it."""
        if self.strength is not None:
            return self.strength
        kept = state_folder / "strength.json" if state_folder else None
        if kept and kept.exists():
            stored = json.loads(kept.read_text())
            # The state of a run on other data is refused by the trainer, with a message.
            if stored["data"] == self.data and stored["transfer"] == self.transfer:
                return float(stored["strength"])

        def judge(training: TrainingSet, held: TrainingSet) -> npt.NDArray[np.float64]:
            judging()
            probe = self._probe()
            probe._train_members(training.tensors(), None, None, None)
            return probe._reciprocal_ranks(held.tensors())

        def judge_cases(training: list[LabelledCase], held: list[LabelledCase]) -> npt.NDArray[np.float64]:
            judging()
            return self._probe().train(training)._reciprocal_ranks(labelled_incidents(held).tensors())

        def judge_before(held: list[LabelledCase]) -> npt.NDArray[np.float64]:
            assert self._before is not None
            return self._before._reciprocal_ranks(labelled_incidents(held).tensors())

        if any(set(case.causes) & set(case.case.graph.candidates) for case in cases):
            if self.transfer:
                found = transfer_strength(cases, judge_cases, self.seed, judge_before if self._before else None, views_of)
            elif self._before is None:
                found = earned_strength(cases, judge_cases, self.seed)
            else:
                found = earned_strength(cases, judge_cases, self.seed, judge_before, self._before.earned)
        else:
            found = invented_strength(invented, judge, self.seed)
        if kept:
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps({"strength": found, "data": self.data, "transfer": self.transfer}))
        return found

    def _probe(self) -> Self:
        """A ranker like this one for judging: a single network, at full strength."""
        probe = copy(self)
        probe.ensemble, probe.strength = 1, 1.0
        probe.epochs = max(1, self.epochs // 2)  # half is enough to tell harm from help, and this is done for every part
        return probe

    def _reciprocal_ranks(self, tensors: GraphTensors) -> npt.NDArray[np.float64]:
        """Reciprocal rank of the best-ranked cause for every graph and strength, (G, strengths); 0 without a cause."""
        before = self.earned
        ranks = np.zeros((tensors.graphs, len(STRENGTHS)))
        for column, strength in enumerate(STRENGTHS):
            self._set_strength(strength)
            ranks[:, column] = np.concatenate([_reciprocal_ranks(part, score) for part, score in self._batch_scores(tensors)])
        self._set_strength(before)
        return ranks

    def _batch_scores(self, tensors: GraphTensors) -> Iterator[tuple[GraphTensors, Tensor]]:
        """Parts of a batch with the mean logits of their candidates, (C,)."""
        engine = engine_of(self.engine)
        with torch.no_grad():
            for part in chunks(tensors, _BATCH_GRAPHS):
                exact = part.to("cpu", torch.float64)
                yield exact, torch.stack([network(exact, engine).score for network in self._networks]).mean(0)

    def _batch_temperature(self, tensors: GraphTensors) -> float:
        """Temperature under which the causes are most likely among the candidates. The null takes no part: simulated systems
        have quiet stretches, which tell better whether anything is wrong."""
        scores, answers = [], []
        for part, score in self._batch_scores(tensors):
            bounds = part.candidate_ptr[1:-1].tolist()
            scores += np.split(score.numpy(), bounds)
            answers += np.split(part.target.numpy(), bounds)
        told = [i for i, right in enumerate(answers) if right.any()]
        return calibrated_temperature([scores[i] for i in told], [answers[i] for i in told])

    def _training_set(self, cases: Sequence[LabelledCase]) -> tuple[TrainingSet, npt.NDArray[np.float64], TrainingSet]:
        """Everything to learn from, its weights, and the invented part of it."""
        labelled = labelled_incidents(cases)
        invented = self.augment(cases, self.invented, self.seed) if self.invented else TrainingSet.empty()
        if all(labelled.is_normal) and not len(invented):
            expected = "labelled cases whose cause is a candidate, or quiet stretches to invent incidents on"
            raise BadInput(f"training {self.name}", expected=expected, found="none")
        normal = normal_windows(cases, self.normals, self.seed)
        return *mixed(labelled + normal, invented, self.invented_share), invented

    def _train_members(
        self, training: GraphTensors, validation: GraphTensors | None, state_folder: Path | None, progress: Progress | None
    ) -> None:
        if min(self.ensemble, self.workers) > 1:
            trained = self._train_apart(training, validation, state_folder, progress)
        else:
            trained = [self._train_member(i, training, validation, state_folder, progress) for i in range(self.ensemble)]
        self._networks, self.histories = tuple(network for network, _ in trained), tuple(history for _, history in trained)

    def _train_apart(
        self, training: GraphTensors, validation: GraphTensors | None, state_folder: Path | None, progress: Progress | None
    ) -> list[tuple[Network, History]]:
        from rca.models.apart import learn_apart

        learn = _Apart(self._plain(), state_folder)
        show = progress or (lambda *_: None)
        trained = []
        for weights, history in learn_apart(learn, training, validation, self.ensemble, self.workers, show):
            network = Network(training.schema, self.network_config())
            network.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
            trained.append((_for_ranking(network), history))
        return trained

    def _plain(self) -> Self:
        """A ranker of the same options without networks, which another process can be given."""
        plain = copy(self)
        plain._networks, plain._before, plain.histories, plain.augment = (), None, (), invented_incidents
        return plain

    def _train_member(
        self,
        member: int,
        training: GraphTensors,
        validation: GraphTensors | None,
        state_folder: Path | None,
        progress: Progress | None,
    ) -> tuple[Network, History]:
        config = self.training_config(member)
        network = Network(training.schema, self.network_config(), seed=config.seed)
        if self._before is not None:
            before = self._before._networks[member % len(self._before._networks)]
            before.schema.check(training.schema, f"model {self.start}")
            network.load_state_dict(before.state_dict())
            network.get_buffer("strength").fill_(1.0)  # what counts of the correction is judged anew
        trainer = Trainer(
            network,
            training,
            validation,
            config,
            continued=self._before is not None,
            state_path=state_folder / f"member-{member}.safetensors" if state_folder else None,
            progress=(lambda epoch: progress(member, epoch)) if progress else None,
        )
        history = trainer.run()
        return _for_ranking(network), history

    def _temperature(self, cases: Sequence[LabelledCase], validation: Sequence[LabelledCase], checked: TrainingSet) -> float:
        everything = [*cases, *validation]
        if self.transfer and self._before is not None and len({case.system for case in everything}) == 1:
            self._before._set_strength(self.earned)
            return self._before._batch_temperature(labelled_incidents(everything).tensors())
        return self._calibrate(checked, with_null=not any(case.case.quiet for case in validation))

    def _calibrate(self, validation: TrainingSet, *, with_null: bool) -> float:
        """Temperature fitted on held-out incidents; the null takes part where no quiet stretch knows better."""
        scores, answers = [], []
        for graph, rows in zip(validation.graphs, validation.targets, strict=True):
            found = self.scores(graph)
            candidates = found.score
            right = np.isin(graph.candidate_rows, np.array(rows, dtype=np.int64))
            if with_null:
                candidates, right = np.append(candidates, found.null), np.append(right, not rows)
            if right.any():
                scores.append(candidates)
                answers.append(right)
        return calibrated_temperature(scores, answers)

    def rank(self, case: Case) -> Ranking:
        """Raises BadInput before training, BadCheckpoint for a graph with other features."""
        if not self._networks:
            raise BadInput(f"ranker {self.name}", expected="training before ranking", found="none")
        with _threads(self.threads):
            return ranking_of_scores(self.name, self._networks[0].schema, case, self.scores)

    def scores(self, graph: ServiceGraph) -> Scores:
        """What the networks say on average."""
        tensors = batch([graph]).to("cpu", torch.float64)
        engine = engine_of(self.engine)
        with torch.no_grad():
            outputs = [network(tensors, engine) for network in self._networks]
        score = torch.stack([output.score for output in outputs]).mean(0)
        null = torch.stack([output.null for output in outputs]).mean()
        family = torch.stack([output.family.softmax(1) for output in outputs]).mean(0)
        return Scores(score.numpy(), float(null), family.numpy())

    def digest(self) -> str:
        """SHA-256 of the trained weights."""
        found = hashlib.sha256()
        for network in self._networks:
            for value in network.state_dict().values():
                found.update(value.float().contiguous().numpy().tobytes())
        return found.hexdigest()

    @property
    def earned(self) -> float:
        """Share of the correction that counts. Raises BadInput before training."""
        if not self._networks:
            raise BadInput(f"ranker {self.name}", expected="training before asking what it earned", found="none")
        return float(self._networks[0].get_buffer("strength"))

    def save(self, folder: Path, *, onnx: bool = False) -> None:
        """Write the trained networks as a model folder, with the exported ranking if wanted (rca.models.onnx_export).

        Raises BadInput before training, or where the export lacks a library; StorageFull.
        """
        if not self._networks:
            raise BadInput(f"ranker {self.name}", expected="training before saving", found="none")
        schema = self._networks[0].schema
        card = ModelCard(
            ranker=type(self).name,
            name=folder.resolve().name,
            features=schema.features,
            edge_features=schema.edge_features,
            network=self.network_config().to_json(),
            training={
                **asdict(self.training_config(0)),
                "invented": self.invented,
                "invented_share": self.invented_share,
                "start": self.start.name if self.start else None,
                "normals": self.normals,
                "strength": self.earned,
                "transfer": self.transfer,
            },
            members=len(self._networks),
            temperature=self.temperature,
            data=self.data,
            metrics={"members": [_summary(history) for history in self.histories]},
        )
        states = [(i, name, value) for i, network in enumerate(self._networks) for name, value in network.state_dict().items()]
        weights = weights_file({f"{i}.{name}": value.float() for i, name, value in states})
        files = {WEIGHTS: weights}
        if onnx:
            from rca.models.onnx_export import exported

            files[ONNX] = exported(self._networks, self.temperature)
        write_model(folder, card, files)

    @classmethod
    def load(cls, folder: Path, *, engine: str = "torch", threads: int = 1) -> NetworkRanker:
        """A trained ranker from a checkpoint. Raises BadCheckpoint."""
        model = read_model(folder)
        card, weights = model.card, weights_of(model)
        try:
            config = NetworkConfig(**card.network)
            networks = []
            for i in range(card.members):
                network = Network(card.schema, config)
                prefix = f"{i}."
                network.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})
                networks.append(_for_ranking(network))
        except (TypeError, RuntimeError, BadInput) as error:
            raise BadCheckpoint(str(folder), expected="weights that fit the network", found=str(error).splitlines()[0]) from error
        kind = {"none": MlpRanker, "shuffled": ShuffledNetworkRanker}.get(config.edges, cls)
        ranker = kind(engine=engine, threads=threads, ensemble=card.members, seed=int(card.training.get("seed", 0)))
        for name in (*_SHAPE, "edges"):
            setattr(ranker, name, getattr(config, name))
        ranker.temperature, ranker.data = card.temperature, dict(card.data)
        ranker._networks = tuple(networks)
        return ranker


@dataclass(frozen=True)
class _Apart:
    """Trains one network in a process of its own: (weights as arrays, history)."""

    ranker: NetworkRanker
    state_folder: Path | None

    def __call__(
        self, member: int, training: GraphTensors, validation: GraphTensors | None, told: Callable[[Epoch], None]
    ) -> tuple[dict[str, npt.NDArray[Any]], History]:
        self.ranker._go_on()

        def show(_: int, epoch: Epoch) -> None:
            told(epoch)

        network, history = self.ranker._train_member(member, training, validation, self.state_folder, show)
        return {name: value.numpy() for name, value in network.state_dict().items()}, history


class DglNetworkRanker(NetworkRanker):
    """The same network on the dgl engine."""

    name = "gnn-dgl"
    _engine = "dgl"


class MlpRanker(NetworkRanker):
    """Ablation: the same network without any message."""

    name = "mlp"
    _edges = "none"


class ShuffledNetworkRanker(NetworkRanker):
    """Ablation: the same network on edges whose ends were exchanged at random."""

    name = "gnn-shuffled"
    _edges = "shuffled"


def _reciprocal_ranks(tensors: GraphTensors, score: Tensor) -> npt.NDArray[np.float64]:
    """1 over the worst-case rank of the best-ranked cause, (G,). Scores are compared as they are printed, to six decimals."""
    score, owner = score.round(decimals=6), tensors.candidate_graph
    hits = tensors.target.nonzero().flatten()
    best = torch.full((tensors.graphs,), -torch.inf, dtype=score.dtype)
    best = best.scatter_reduce(0, owner[hits], score[hits], "amax")
    ranks = torch.zeros_like(best).index_add(0, owner, (score >= best[owner]).to(score.dtype))
    found: npt.NDArray[np.float64] = torch.where(best.isfinite(), 1 / ranks, torch.zeros_like(ranks)).numpy()
    return found


def _weighted(tensors: GraphTensors, floor_right: float) -> GraphTensors:
    """The graphs, weighted so that the label-free score names the cause first in this share of the incidents.

    They stay as they are where it is always right, or never. Quiet stretches do.
    """
    told = ~tensors.is_normal
    right = told & torch.from_numpy(_reciprocal_ranks(tensors, tensors.floor.double()) == 1)
    share = float(tensors.weight[right].sum() / tensors.weight[told].sum().clamp(min=1e-12))
    if not 0 < share < 1:
        return tensors
    factor = torch.where(right, floor_right / share, (1 - floor_right) / (1 - share))
    return replace(tensors, weight=torch.where(told, tensors.weight * factor, tensors.weight).to(tensors.weight.dtype))


def _for_ranking(network: Network) -> Network:
    return deepcopy(network).to("cpu", torch.float64).eval()


def _summary(history: History) -> dict[str, Any]:
    kept = history.epochs[history.best - 1] if history.best else None
    return {
        "epochs": len(history.epochs),
        "best_epoch": history.best,
        "loss": kept.loss if kept else None,
        "validation_loss": kept.validation_loss if kept else None,
        "similarity": list(kept.similarity) if kept else [],
        "seconds": round(history.seconds, 3),
        "device": history.device,
        "graphs_per_second": round(history.graphs_per_second, 1),
        "memory_bytes": history.memory_bytes,
        "utilisation": None if history.utilisation is None else round(history.utilisation, 3),
        "compiled": history.compiled,
    }


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """Compute with this many threads for a while; small graphs are slower, and less repeatable, with more."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
