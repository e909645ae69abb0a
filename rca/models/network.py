"""The heterogeneous graph network: a bounded, learned correction of the label-free score.

It knows kinds of entities and relations, features and masks; it knows no names and no ids, so that one set of weights ranks
any system. docs/model.md explains the architecture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from rca.arrays import RELATION_NAMES, Schema
from rca.errors import BadInput
from rca.faults import FAMILIES
from rca.models.engines import Engine, Links
from rca.telemetry import ENTITY_KINDS
from rca.tensors import GraphTensors, shuffle_edges

Edges = Literal["real", "none", "shuffled"]
Gates = Literal["sigmoid", "softmax"]
_LOUD_SUFFIX: Final = ".above"  # features that say how far a signal is above what quiet times show
_KNOWN_SHARE: Final = 0.05
_STANDARD_GRAPHS: Final = 2048
_INPUT_LIMIT: Final = 8.0  # standardised inputs beyond are clipped: another system's outliers must not leave the trained range


@dataclass(frozen=True)
class NetworkConfig:
    """Size and shape of a network.

    `heads` gates per edge share the channels evenly. `edges` other than "real" are ablations. `gates`: "sigmoid" lets every
    edge through on its own merit, "softmax" lets the edges of a target compete. `bound` is the largest correction, in standard
    deviations of the floor within the graph.
    """

    width: int = 32
    layers: int = 2
    heads: int = 4
    dropout: float = 0.3
    bound: float = 4.0
    edges: Edges = "real"
    gates: Gates = "sigmoid"
    shuffle_seed: int = 0

    def __post_init__(self) -> None:
        if self.width < 1 or self.heads < 1 or self.width % self.heads:
            raise BadInput("width", expected=f"a multiple of heads={self.heads}", found=str(self.width))
        if self.layers < 0:
            raise BadInput("layers", expected="0 or more", found=str(self.layers))
        for name, allowed in (("edges", ("real", "none", "shuffled")), ("gates", ("sigmoid", "softmax"))):
            if getattr(self, name) not in allowed:
                raise BadInput(name, expected=" or ".join(allowed), found=repr(getattr(self, name)))

    @property
    def relations(self) -> tuple[str, ...]:
        return () if self.edges == "none" else RELATION_NAMES

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Output:
    """What the network says about G graphs with C candidates; K families."""

    score: Tensor  # (C,) logits of the candidates
    null: Tensor  # (G,) logit of "no fault, or outside the graph"
    family: Tensor  # (C, K) logits
    similarity: tuple[float, ...] = ()  # mean cosine between nodes of a graph after every layer, where asked for


class Dropout(nn.Module):
    """Dropout that draws from a generator of the caller's: a training step is repeatable without touching global state.

    Shapes: any -> the same.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.generator: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        keep = torch.rand(x.shape, generator=self.generator, device=x.device, dtype=x.dtype) >= self.p
        return x * keep * (1 / (1 - self.p))


class Linear(nn.Linear):
    """A linear layer whose products can be taken in fewer bits while it learns; what it gives back is as wide as what it got.

    Sums over edges, norms, softmax and losses are thus as exact as ever, and so is everything once training is over.
    Shapes: (..., I) -> (..., O).
    """

    learns_in: torch.dtype | None = None

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's own name for it
        if self.learns_in is None or not self.training:
            return super().forward(input)
        bias = None if self.bias is None else self.bias.to(self.learns_in)
        return functional.linear(input.to(self.learns_in), self.weight.to(self.learns_in), bias).to(input.dtype)


class Encoder(nn.Module):
    """Own input weights for every kind of entity.

    Shapes: x (N, F) and available (N, F) -> (N, W). Features enter standardised, beside the mask of what is available.
    """

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.kinds = nn.ModuleDict({kind: Linear(2 * features, width) for kind in ENTITY_KINDS})
        self.norm = nn.LayerNorm(width)

    def forward(self, inputs: Tensor, kind_rows: Mapping[str, Tensor]) -> Tensor:
        if len(kind_rows) == 1:
            hidden = self.kinds[next(iter(kind_rows))](inputs)
        else:
            parts = [self.kinds[kind](inputs.index_select(0, rows)) for kind, rows in kind_rows.items()]
            places = torch.argsort(torch.cat(list(kind_rows.values())))
            hidden = torch.cat(parts).index_select(0, places)
        return functional.relu(self.norm(hidden))


class Relation(nn.Module):
    """Messages along one relation in one direction: gated, averaged and maximised per target.

    Shapes: h (N, W), edge (E, W) -> (N, W); exactly 0 for nodes that no edge reaches.
    """

    def __init__(self, width: int, heads: int, gates: Gates) -> None:
        super().__init__()
        self.heads, self.gates = heads, gates
        self.sender = Linear(width, heads, bias=False)
        self.receiver = Linear(width, heads, bias=False)
        self.mix = Linear(2 * width, width, bias=False)

    def forward(self, h: Tensor, edge: Tensor, links: Links, degree: Tensor, engine: Engine) -> Tensor:
        message = engine.gather(h, links) + edge  # (E, W)
        logits = self.sender(message) + engine.spread(self.receiver(h), links)  # (E, H)
        gate = logits.sigmoid() if self.gates == "sigmoid" else engine.softmax(logits, links) * engine.spread(degree, links)
        gated = (message.view(-1, self.heads, message.shape[1] // self.heads) * gate.unsqueeze(2)).flatten(1)
        pooled = torch.cat([engine.sum(gated, links) / degree, engine.maximum(gated, links)], dim=1)  # (N, 2W)
        mixed: Tensor = self.mix(pooled)
        return mixed


class Layer(nn.Module):
    """One round of messages along every relation, residual and normalised.

    Shapes: h (N, W) -> (N, W). Without relations it is a plain residual layer: the MLP ablation.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.own = Linear(config.width, config.width)
        self.relations = nn.ModuleDict({name: Relation(config.width, config.heads, config.gates) for name in config.relations})
        self.norm = nn.LayerNorm(config.width)
        self.dropout = Dropout(config.dropout)

    def forward(
        self, h: Tensor, edges: Mapping[str, Tensor], links: Mapping[str, Links], degrees: Mapping[str, Tensor], engine: Engine
    ) -> Tensor:
        total = self.own(h)
        for name, link in links.items():
            total = total + self.relations[name](h, edges[name], link, degrees[name], engine)
        normed: Tensor = self.norm(h + self.dropout(functional.relu(total)))
        return normed


class Network(nn.Module):
    """Scores the candidates of graphs: floor + gate · bound · tanh(correction).

    The correction starts at zero, so the untrained network ranks exactly as the floor does, and it never exceeds the bound.
    The gate starts open: were it zero too, neither would ever get a gradient, and a zero gate before a random correction
    learns far more slowly. The floor enters standardised within its graph. Raises BadCheckpoint for graphs with other features.
    """

    def __init__(self, schema: Schema, config: NetworkConfig, seed: int = 0) -> None:
        super().__init__()
        self.schema, self.config = schema, config
        f, d, w = len(schema.features), len(schema.edge_features), config.width
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder = Encoder(f, w)
            self.edge_encoders = nn.ModuleDict({name: Linear(2 * d, w) for name in config.relations})
            self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
            self.head = nn.Linear(w, w)
            self.dropout = Dropout(config.dropout)
            self.correction = nn.Linear(w, 1)
            self.family = nn.Linear(w, len(FAMILIES))
            self.null = nn.Linear(2 * w + 1, 1)
        for layer in (self.correction, self.null):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.gate = nn.Parameter(torch.ones(()))
        self.log_sharpness = nn.Parameter(torch.zeros(()))
        self.register_buffer("strength", torch.ones(()))
        loud = [column for column, name in enumerate(schema.features) if name.endswith(_LOUD_SUFFIX)]
        self.register_buffer("loud_columns", torch.tensor(loud, dtype=torch.int64), persistent=False)
        self.register_buffer("known", torch.ones(len(loud)))
        for name, size in (("node", f), ("edge", d)):
            self.register_buffer(f"{name}_center", torch.zeros(size))
            self.register_buffer(f"{name}_scale", torch.ones(size))

    @property
    def parameter_count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def fit_inputs(self, tensors: GraphTensors) -> None:
        """Set the standardisation of the inputs from what is available in the training graphs, or in a sample of very many."""
        sample = min(tensors.graphs, _STANDARD_GRAPHS)
        tensors = tensors.select(torch.linspace(0, tensors.graphs - 1, sample, device=tensors.x.device).long())
        self._fit_inputs("node", tensors.x, tensors.available)
        self._fit_known(tensors)
        names = [name for name in tensors.edge_attr if name in RELATION_NAMES[: len(RELATION_NAMES) // 2]]
        if names:
            attr = torch.cat([tensors.edge_attr[name] for name in names])
            self._fit_inputs("edge", attr, torch.cat([tensors.edge_available[name] for name in names]))

    def extend_inputs(self, tensors: GraphTensors) -> None:
        """Keep the standardisation that the weights were trained with, and take that of features new to them from the graphs.

        A weight means what it means on the scale that it was learnt on; only an input that was never seen has no scale yet.
        """
        names = [f"{part}_{what}" for part in ("node", "edge") for what in ("center", "scale")]
        before = {name: self.get_buffer(name).clone() for name in (*names, "known")}
        self.fit_inputs(tensors)
        for part in ("node", "edge"):
            seen = (before[f"{part}_center"] != 0) | (before[f"{part}_scale"] != 1)
            for name in (f"{part}_center", f"{part}_scale"):
                self.get_buffer(name).copy_(torch.where(seen, before[name], self.get_buffer(name)))
        self.get_buffer("known").copy_(torch.maximum(before["known"], self.get_buffer("known")))

    def _fit_inputs(self, name: str, values: Tensor, available: Tensor) -> None:
        seen = available.sum(0).clamp(min=1)
        mean = (values * available).sum(0) / seen
        variance = (((values - mean) * available) ** 2).sum(0) / seen
        scale = variance.sqrt()
        self.get_buffer(f"{name}_center").copy_(mean)
        self.get_buffer(f"{name}_scale").copy_(torch.where(scale > 1e-3, scale, torch.ones_like(scale)))

    def _fit_known(self, tensors: GraphTensors) -> None:
        """Remember which signals the training graphs report: one is known if some node of every twentieth graph has it."""
        columns = self.get_buffer("loud_columns")
        seen = tensors.available[:, columns].to(torch.float32)
        graphs = torch.zeros((tensors.graphs, len(columns)), device=seen.device).index_add(0, tensors.node_graph, seen)
        self.get_buffer("known").copy_(((graphs > 0).to(torch.float32).mean(0) >= _KNOWN_SHARE).to(torch.float32))

    def _familiarity(self, tensors: GraphTensors, pool: Links, engine: Engine) -> Tensor:
        """Share of what is loud in a graph that training graphs report too, (G, 1); 1 where nothing is loud."""
        columns = self.get_buffer("loud_columns")
        values = tensors.x[:, columns].clamp(min=0) * tensors.available[:, columns]  # (N, L)
        both = torch.stack([values.sum(1), (values * self.get_buffer("known")).sum(1)], dim=1)  # (N, 2)
        total, known = engine.sum(engine.gather(both, pool), pool).unbind(1)
        return torch.where(total > 0, known / total.clamp(min=1e-9), torch.ones_like(total)).unsqueeze(1)

    def seed_dropout(self, generator: torch.Generator) -> None:
        """Draw every dropout of the next steps from this generator."""
        for module in self.modules():
            if isinstance(module, Dropout):
                module.generator = generator

    def learn_in(self, product: torch.dtype | None) -> None:
        """Take products in numbers of this type while learning, those of the heads excepted: close candidates would tie."""
        for module in self.modules():
            if isinstance(module, Linear):
                module.learns_in = product

    def forward(self, tensors: GraphTensors, engine: Engine, *, noise: Corruption | None = None, watch: bool = False) -> Output:
        self.schema.check(tensors.schema, "graph")
        if self.config.edges == "shuffled":
            tensors = shuffle_edges(tensors, self.config.shuffle_seed)
        relations = [name for name in tensors.edge_index if name in self.config.relations]
        ends = {name: tensors.edge_index[name].unbind(0) for name in relations}
        links = {name: engine.links(source, target, tensors.nodes, tensors.nodes) for name, (source, target) in ends.items()}
        degrees = {name: engine.degree(link, tensors.x) for name, link in links.items()}
        node_keep, edge_keep = noise.keep(tensors) if noise else (None, None)
        edges = {}
        for name in relations:
            keep = edge_keep[tensors.node_graph[ends[name][0]]] if edge_keep is not None else None
            values = self._inputs("edge", tensors.edge_attr[name], tensors.edge_available[name], noise, keep)
            edges[name] = self.edge_encoders[name](values)
        keep = node_keep[tensors.node_graph] if node_keep is not None else None
        h = self.encoder(self._inputs("node", tensors.x, tensors.available, noise, keep), tensors.kind_rows)
        states = [h]
        for layer in self.layers:
            h = layer(h, edges, links, degrees, engine)
            states.append(h)
        similarity = tuple(_similarity(state, tensors, engine) for state in states) if watch else ()
        return replace(self._heads(h, tensors, engine), similarity=similarity)

    def _inputs(
        self, name: str, values: Tensor, available: Tensor, noise: Corruption | None, keep: Tensor | None
    ) -> Tensor:  # (rows, 2 · columns)
        center, scale = self.get_buffer(f"{name}_center"), self.get_buffer(f"{name}_scale")
        mask = available.to(values.dtype)
        standard = ((values - center) / scale).clamp(-_INPUT_LIMIT, _INPUT_LIMIT)
        if noise is not None:
            standard = standard + noise.jitter(standard)
        if keep is not None:
            mask = mask * keep
        return torch.cat([standard * mask, mask], dim=1)

    def _heads(self, h: Tensor, tensors: GraphTensors, engine: Engine) -> Output:
        pool = engine.links(tensors.candidate, tensors.candidate_graph, tensors.nodes, tensors.graphs)
        chosen = self.dropout(functional.relu(self.head(engine.gather(h, pool))))  # (C, W)
        degree = engine.degree(pool, h)  # (G, 1)
        floor = tensors.floor.to(h.dtype).unsqueeze(1)  # (C, 1)
        trust = engine.spread(self.get_buffer("strength") * self._familiarity(tensors, pool, engine), pool).to(h.dtype)  # (C, 1)
        correction = trust * torch.tanh(self.gate) * self.config.bound * torch.tanh(self.correction(chosen))
        score = standardised(floor, pool, degree, engine) + correction
        context = [engine.sum(chosen, pool) / degree, engine.maximum(chosen, pool), engine.peak(floor, pool)]
        null = self.null(torch.cat(context, dim=1))
        sharpness = self.log_sharpness.exp()
        return Output((sharpness * score).squeeze(1), (sharpness * null).squeeze(1), self.family(chosen))


def standardised(floor: Tensor, pool: Links, degree: Tensor, engine: Engine) -> Tensor:
    """Floor minus its graph's mean, over its graph's standard deviation, (C, 1); 0 where all candidates are equal."""
    centered = floor - engine.spread(engine.sum(floor, pool) / degree, pool)
    variance = engine.sum(centered**2, pool) / degree
    scale = torch.where(variance > 1e-12, variance, torch.ones_like(variance)).sqrt()
    return centered / engine.spread(scale, pool)


def _similarity(h: Tensor, tensors: GraphTensors, engine: Engine) -> float:
    """Mean cosine between two nodes of one graph, averaged over graphs: near 1 the network has smoothed its nodes alike."""
    rows = torch.arange(tensors.nodes, device=h.device)
    links = engine.links(rows, tensors.node_graph, tensors.nodes, tensors.graphs)
    unit = functional.normalize(h.detach(), dim=1)
    total = engine.sum(unit, links).square().sum(1)  # (G,) sum over all pairs, each node with itself included
    n = tensors.node_ptr.diff().to(h.dtype)
    several = n > 1
    pairs = (total - n)[several] / (n * (n - 1))[several]
    return float(pairs.mean()) if bool(several.any()) else 0.0


@dataclass(frozen=True, eq=False)
class Corruption:
    """What training does to its inputs: noise on every value, whole feature classes gone from whole graphs."""

    noise: float
    class_dropout: float
    node_class: Tensor  # (F,) int64, class of every node feature
    edge_class: Tensor  # (D,) int64, in the same numbering
    classes: int
    generator: torch.Generator

    def jitter(self, like: Tensor) -> Tensor:
        return self.noise * torch.randn(like.shape, generator=self.generator, device=like.device, dtype=like.dtype)

    def keep(self, tensors: GraphTensors) -> tuple[Tensor, Tensor]:
        """1 where a graph keeps a feature, else 0: (G, F) and (G, D)."""
        shape = (tensors.graphs, self.classes)
        draw = torch.rand(shape, generator=self.generator, device=tensors.x.device)
        kept = (draw >= self.class_dropout).to(tensors.x.dtype)
        return kept[:, self.node_class], kept[:, self.edge_class]
