"""`rca train`: the graph network, on labelled incidents."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from rca.cli.terminal import progress

if TYPE_CHECKING:
    from rca.contracts import LabelledCase
    from rca.models.gnn import NetworkRanker, Progress

_STATES = "unfinished"

_Bundles = Annotated[
    Path | None, typer.Option(metavar="PATH", help="Folder of incident bundles; default: the incident store.", show_default=False)
]
_Store = Annotated[Path | None, typer.Option(metavar="DIR", help="Store to read; default: $RCA_HOME.", show_default=False)]
_System = Annotated[list[str] | None, typer.Option(metavar="NAME", help="Only incidents of this system (repeatable).")]
_Out = Annotated[Path, typer.Option(metavar="FOLDER", help="Where the model is written.")]
_Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
_Engine = Annotated[str, typer.Option(help="torch or dgl; the weights fit both.")]
_Edges = Annotated[str, typer.Option(help="real; none and shuffled are ablations.")]
_Width = Annotated[int, typer.Option(min=1, help="Channels of the hidden layers; fewer for few incidents.")]
_Layers = Annotated[int, typer.Option(min=0, help="Rounds of messages.")]
_Epochs = Annotated[int, typer.Option(min=0, help="Most passes over the training incidents.")]
_Invented = Annotated[
    int, typer.Option(min=0, help="Incidents to invent on quiet stretches of the same telemetry; needed without labels.")
]
_Ensemble = Annotated[int, typer.Option(min=1, help="Networks of different seeds to average.")]
_Strength = Annotated[
    float | None,
    typer.Option(
        min=0, max=1, help="Share of the correction that counts; default: what held-out incidents justify.", show_default=False
    ),
]
_Seed = Annotated[int, typer.Option(help="Seed of everything that is drawn.")]
_Threads = Annotated[int, typer.Option(min=1, help="CPU threads; results repeat for the same number.")]
_Resume = Annotated[bool, typer.Option("--resume", help="Go on with the interrupted training of this model.")]
_NoCache = Annotated[bool, typer.Option("--no-cache", help="Build every case anew.")]


def train(
    bundles: _Bundles = None,
    store: _Store = None,
    system: _System = None,
    out: _Out = Path("models/mine"),
    device: _Device = "auto",
    engine: _Engine = "torch",
    edges: _Edges = "real",
    width: _Width = 32,
    layers: _Layers = 2,
    epochs: _Epochs = 40,
    invented: _Invented = 0,
    ensemble: _Ensemble = 1,
    strength: _Strength = None,
    seed: _Seed = 0,
    threads: _Threads = 1,
    resume: _Resume = False,
    no_cache: _NoCache = False,
) -> None:
    """Train the graph network on labelled incidents and write it as a model folder.

    About a fifth of the incidents, in whole groups of repetitions, is kept aside to stop early and to calibrate. Ctrl-C keeps
    what is finished; --resume then ends with the same weights as if nothing had happened.
    """
    from rca.errors import BadInput
    from rca.models import registry

    created = registry.create(
        "gnn",
        engine=engine,
        device=device,
        edges=edges,
        width=width,
        layers=layers,
        epochs=epochs,
        invented=invented,
        ensemble=ensemble,
        strength=strength,
        seed=seed,
        threads=threads,
    )
    ranker = cast("NetworkRanker", created)
    ranker.network_config()
    states = out / _STATES
    if resume and not states.exists():
        raise BadInput(str(states), expected="the state of an interrupted training", found="none (start without --resume)")
    training, validation = _cases(bundles, store, system or [], seed, use_cache=not no_cache)
    if not resume:
        shutil.rmtree(states, ignore_errors=True)
    try:
        with _progress(ensemble, epochs) as (show, judging):
            ranker.train(training, validation, state_folder=states, progress=show, judging=judging)
    except KeyboardInterrupt:
        typer.echo(f"interrupted; finished epochs are kept in {states}, --resume goes on", err=True)
        raise
    ranker.save(out)
    shutil.rmtree(states, ignore_errors=True)
    _report(ranker, out, len(training), len(validation))


def _cases(
    bundles: Path | None, store: Path | None, systems: list[str], seed: int, *, use_cache: bool
) -> tuple[list[LabelledCase], list[LabelledCase]]:
    from rca.evaluation import cases, splits
    from rca.incidents.store import default_home

    recorded = cases.from_folder(bundles, systems, no_fault=True) if bundles else cases.from_store(systems, store, no_fault=True)
    exam = cases.exam_of(recorded, home=(store or default_home()) if use_cache else None)
    kept, held_out = splits.hold_out(exam.truths, range(len(exam.truths)), seed)
    return [exam.training[i] for i in kept], [exam.training[i] for i in held_out]


def _report(ranker: NetworkRanker, out: Path, training: int, validation: int) -> None:
    for number, history in enumerate(ranker.histories):
        kept = history.epochs[history.best - 1] if history.best else None
        if kept is None:
            typer.echo(f"network {number}: no epoch; it ranks as the label-free score")
            continue
        loss = f", validation loss {kept.validation_loss:.3f}" if kept.validation_loss is not None else ""
        likeness = ", ".join(f"{value:.2f}" for value in kept.similarity)
        typer.echo(
            f"network {number}: epoch {history.best} of {len(history.epochs)}, loss {kept.loss:.3f}{loss}, "
            f"gate {kept.gate:.2f}, node similarity by layer {likeness}, {history.seconds:.1f} s"
        )
    held = f"{validation} held out" if validation else "none held out: too few groups of incidents"
    typer.echo(
        f"{out}: {ranker.data['graphs']} graphs from {training} incidents ({held}), "
        f"{ranker.earned:.0%} of the correction counts, temperature {ranker.temperature:.2f}"
    )


@contextmanager
def _progress(networks: int, epochs: int) -> Iterator[tuple[Progress, Callable[[], None]]]:
    """A progress bar over the epochs of all networks, and before it a line that says what is judged."""
    from rca.models.training import Epoch

    with progress("epochs", networks * epochs) as step:

        def show(member: int, epoch: Epoch) -> None:
            held_out = "" if epoch.validation_loss is None else f", held out {epoch.validation_loss:.3f}"
            text = f"network {member + 1} of {networks}: loss {epoch.loss:.3f}{held_out}"
            step(text, completed=member * epochs + epoch.number)

        parts = count(1)

        def judging() -> None:
            step(f"judging the correction on held-out incidents, part {next(parts)}", completed=0)

        yield show, judging
