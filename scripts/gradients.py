"""Evidence of a network's ranking by integrated gradients (Sundararajan et al., 2017), to compare with trying deletions out.

The path leads from the case with everything of the candidate deleted to the case as it is; along it the gradient of the
candidate's log odds is summed up, feature by feature, and features are summed up to pieces of evidence. The label-free score is
an input like others: what it contributes goes to the candidate's signals in proportion to how far they stray. Features of
neighbours that change with the candidate's are nobody's: deletion, which builds the graph anew, sees more than a gradient does.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rca.features import heard_signals
from rca.models.attribution import loud_pieces
from rca.models.deletion import Piece, Trial
from rca.models.engines import engine_of
from rca.models.gnn import NetworkRanker
from rca.tensors import GraphTensors, batch

STEPS: Final = 16


def by_gradients(trial: Trial) -> list[Piece]:
    """Pieces of a network's candidate, the one that contributes most first; those that contribute nothing are left out."""
    assert isinstance(trial.ranker, NetworkRanker)
    graph, row = trial.case.graph, trial.rows[trial.entity]
    columns, floor = _contributions(trial, trial.ranker)
    heard = {name: max(float(graph.column(f"{name}.above")[row]), 0.0) for name in heard_signals(graph)}
    total = sum(heard.values()) or 1.0
    worth = {}
    for piece in loud_pieces(trial):
        mine = [place for place, name in enumerate(graph.feature_names) if name.split(".")[0] in piece.signals]
        of_floor = sum(heard.get(signal, 0.0) for signal in piece.signals) / total
        worth[piece] = float(columns[mine].sum()) + floor * of_floor
    return sorted((piece for piece in worth if worth[piece] > 0), key=lambda piece: -worth[piece])


def _contributions(trial: Trial, ranker: NetworkRanker) -> tuple[npt.NDArray[np.float64], float]:
    """What each feature of the candidate contributes to its log odds, (F,), and what its label-free score does."""
    now, without = (batch([graph]).to("cpu", torch.float64) for graph in (trial.case.graph, trial.case_without(trial.own).graph))
    row = trial.rows[trial.entity]
    place = now.candidate.tolist().index(row)
    gradient_x, gradient_floor = torch.zeros_like(now.x), torch.zeros_like(now.floor)
    for step in range(STEPS):
        share = (step + 0.5) / STEPS
        x = (without.x + share * (now.x - without.x)).requires_grad_()
        floor = (without.floor + share * (now.floor - without.floor)).requires_grad_()
        odds = _log_odds(ranker, replace(now, x=x, floor=floor), place)
        of_x, of_floor = torch.autograd.grad(odds, (x, floor))
        gradient_x, gradient_floor = gradient_x + of_x / STEPS, gradient_floor + of_floor / STEPS
    columns = (gradient_x * (now.x - without.x))[row].numpy()
    return columns, float((gradient_floor * (now.floor - without.floor))[place])


def _log_odds(ranker: NetworkRanker, tensors: GraphTensors, place: int) -> Tensor:
    engine = engine_of(ranker.engine)
    scores = torch.stack([network(tensors, engine).score for network in ranker._networks]).mean(0)
    others = torch.cat([scores[:place], scores[place + 1 :]])
    return scores[place] - others.logsumexp(0)
