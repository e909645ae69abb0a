"""Networks of an ensemble that learn at the same time, each in a process of its own.

They share nothing: every process reads the same graphs from a file, moves them to the device and ends with the weights that it
would have ended with alone. One process cannot keep two trainings busy, since Python starts every operation of both; and as seeds
shuffle their graphs differently, their batches have other shapes and do not fit into one computation.
"""

from __future__ import annotations

import contextlib
import signal
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final

import torch

from rca.arrays import Schema
from rca.errors import RcaError, Unavailable
from rca.models.checkpoint import read_graphs, write_graphs
from rca.models.training import Epoch
from rca.tensors import GraphTensors

Learn = Callable[[int, GraphTensors, GraphTensors | None, Callable[[Epoch], None]], Any]
"""(member, training graphs, held-out ones, called after every epoch) -> what it comes to. Both must be picklable."""

_TRAINING: Final = "training.safetensors"
_HELD_OUT: Final = "held-out.safetensors"


@dataclass(frozen=True)
class _Job:
    learn: Learn
    schema: Schema
    folder: Path
    threads: int

    def __call__(self, member: int, told: Callable[[Epoch], None]) -> Any:
        torch.set_num_threads(self.threads)
        held_out = self.folder / _HELD_OUT
        validation = read_graphs(held_out, self.schema) if held_out.exists() else None
        return self.learn(member, read_graphs(self.folder / _TRAINING, self.schema), validation, told)


def learn_apart(
    learn: Learn,
    training: GraphTensors,
    validation: GraphTensors | None,
    members: int,
    workers: int,
    progress: Callable[[int, Epoch], None],
) -> list[Any]:
    """What `learn` comes to for every member, `workers` at a time, with as many threads each as there are here.

    Raises what `learn` raises of rca's own errors, and Unavailable where a process dies; the others are then ended, as they are
    on Ctrl-C. What they have written down by then stays.
    """
    with tempfile.TemporaryDirectory(prefix="rca-train-") as folder:
        write_graphs(Path(folder) / _TRAINING, training)
        if validation is not None:
            write_graphs(Path(folder) / _HELD_OUT, validation)
        job = _Job(learn, training.schema, Path(folder), torch.get_num_threads())
        found = _in_processes(job, range(members), workers, progress)
    return [found[member] for member in range(members)]


def _in_processes(job: _Job, members: Sequence[int], workers: int, progress: Callable[[int, Epoch], None]) -> dict[int, Any]:
    context = get_context("spawn")  # a fork of a process that computes with threads, or knows a GPU, may hang
    waiting, found = list(members), dict[int, Any]()
    running: dict[Any, tuple[int, BaseProcess]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                member = waiting.pop(0)
                ours, theirs = context.Pipe(duplex=False)
                process: BaseProcess = context.Process(target=_child, args=(job, member, theirs), daemon=True)
                process.start()
                theirs.close()
                running[ours] = member, process
            for connection in wait(list(running)):
                member, sender = running[connection]
                told = _received(connection, member, sender)
                if isinstance(told, Epoch):
                    progress(member, told)
                    continue
                found[member] = told
                sender.join()
                del running[connection]
    finally:
        for _, unfinished in running.values():
            unfinished.terminate()
            unfinished.join()
    return found


def _received(connection: Any, member: int, process: BaseProcess) -> Any:
    """An epoch or the outcome. Raises what the process raised, Unavailable where it died."""
    try:
        told = connection.recv()
    except EOFError as error:
        process.join()
        raise Unavailable(
            f"the process that trained network {member} ended with {process.exitcode}; --resume goes on from its last epoch"
        ) from error
    if isinstance(told, RcaError):
        raise told
    return told


def _child(job: _Job, member: int, connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its processes
    with contextlib.suppress(BrokenPipeError):  # the parent is gone, and nobody waits for this any more
        try:
            connection.send(job(member, connection.send))
        except RcaError as error:
            connection.send(error)
