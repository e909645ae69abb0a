"""Compiling what a network spends its time in, where the machine has a compiler for that."""

from __future__ import annotations

from typing import Final

import torch

from rca.models.engines import Engine
from rca.models.network import Network, Relation
from rca.tensors import GraphTensors

COMPILED: Final = "compiled"
BACKEND = "inductor"
"""torch's own code generator: Triton on a GPU, C++ on a CPU."""


def compile_relations(network: Network, engine: Engine, example: GraphTensors) -> str:
    """Compile the messages of all relations, which share one piece of code, and try it. `COMPILED`, or why not.

    Without a compiler (Triton on a GPU, a C++ compiler on a CPU) the network is left as it was.
    """
    relations = [module for module in network.modules() if isinstance(module, Relation)]
    for relation in relations:
        relation.compile(dynamic=True, backend=BACKEND)
    try:
        _try_out(network, engine, example)
    except RuntimeError as error:  # the root of torch's own compile errors, and of running out of memory
        leave_uncompiled(network)
        inner = getattr(error, "inner_exception", error)  # what torch found wrong, inside what it says about that
        return f"not compiled: {(str(inner).strip().splitlines() or [type(inner).__name__])[0]}"
    return COMPILED


def leave_uncompiled(network: Network) -> None:
    """Undo `compile_relations`."""
    for module in network.modules():
        module._compiled_call_impl = None


def _try_out(network: Network, engine: Engine, example: GraphTensors) -> None:
    """Once as in training, once as in ranking: each is code of its own. No draw is taken from anybody's generator."""
    with torch.random.fork_rng(enabled=True):
        network.train()
        network(example, engine).score.sum().backward()
        network.zero_grad()
        network.eval()
        with torch.no_grad():
            network(example, engine)
