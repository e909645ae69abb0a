"""`rca train`: the graph network, on labelled, invented or simulated incidents."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from rca.cli.terminal import progress

if TYPE_CHECKING:
    from rca.contracts import LabelledCase
    from rca.errors import BadInput
    from rca.evaluation.cases import Recorded
    from rca.models.gnn import NetworkRanker, Progress
    from rca.models.learnt import Learnt
    from rca.models.reference import Reference
    from rca.models.training import History
    from rca.models.versions import Version

    _Summary = Callable[[], Reference]
    _Learn = Callable[[Path, Progress, Callable[[], None]], str]
    """(folder for states, progress, called before every part of judging) -> what was learnt from, in words."""

_STATES = "unfinished"
_HELD_OUT = 256
"""Fewest simulated incidents that are held out, where that many are learnt from."""
_FLOOR_RIGHT = 0.8
"""How often, in tenths, the label-free score names the cause first in the recorded training incidents of the shop: 34 of 41. Of
simulated ones it does in half, and a network that learnt to distrust it so much would overrule it where it is right."""

_Bundles = Annotated[
    Path | None, typer.Option(metavar="PATH", help="Folder of incident bundles; default: the incident store.", show_default=False)
]
_Part = Annotated[
    str | None,
    typer.Option(metavar="PART", help="Of --bundles with a manifest, only this part: train.", show_default=False),
]
_Store = Annotated[Path | None, typer.Option(metavar="DIR", help="Store to read; default: $RCA_HOME.", show_default=False)]
_System = Annotated[list[str] | None, typer.Option(metavar="NAME", help="Only incidents of this system (repeatable).")]
_Out = Annotated[Path, typer.Option(metavar="FOLDER", help="Where the model is written.")]
_Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
_Engine = Annotated[str, typer.Option(help="torch or dgl; the weights fit both.")]
_Edges = Annotated[
    str | None, typer.Option(help="real; none and shuffled are ablations. Default: real, or as in --from.", show_default=False)
]
_Width = Annotated[
    int | None,
    typer.Option(
        min=1, help="Channels of the hidden layers; fewer for few incidents. Default: 32, or as in --from.", show_default=False
    ),
]
_Layers = Annotated[int | None, typer.Option(min=0, help="Rounds of messages. Default: 2, or as in --from.", show_default=False)]
_Epochs = Annotated[int, typer.Option(min=0, help="Most passes over the training incidents.")]
_From = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="MODEL",
        help="Go on from the weights of this model folder, at a third of the learning rate. `current` is the model in use: what "
        "it learnt from is learnt again beside what is new.",
    ),
]
_Replay = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="PATH",
        help="Folder of bundles with incidents that --from current learnt from (repeatable); those in the store are found.",
        show_default=False,
    ),
]
_ReplaySimulated = Annotated[
    int | None,
    typer.Option(
        min=0,
        metavar="N",
        help="Simulated incidents that --from current learnt from, to learn again. Default: as many as there are new ones, less "
        "the recorded ones that are learnt again; at most 100.",
        show_default=False,
    ),
]
_Exam = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=0.5,
        metavar="SHARE",
        help="Share of the groups of labelled incidents that no model learns from, to judge by; always the same ones. "
        "Default: 0.25 with --promote, else 0.",
        show_default=False,
    ),
]
_TrustLabels = Annotated[bool, typer.Option("--trust-labels", help="With --from current: learn from odd labels, too.")]
_Register = Annotated[bool, typer.Option("--register", help="Keep the model as a version (`rca models`).")]
_Promote = Annotated[
    bool,
    typer.Option("--promote", help="Register it, judge it by the incidents kept aside, and let it rank if the gate says so."),
]
_IfDue = Annotated[
    bool, typer.Option("--if-due", help="With --from current: train only if a rule of [training] says that it is time.")
]
_Config = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="With --if-due. Default: $RCA_CONFIG, ./rca.toml or ~/.config/rca/rca.toml."),
]
_CURRENT = "current"
_EXAM_SHARE = 0.25
_Invent = Annotated[
    bool,
    typer.Option(
        "--invent",
        help="Learn from incidents invented on quiet stretches too; incidents without a label then give theirs, and no label is "
        "needed at all.",
    ),
]
_Invented = Annotated[
    int | None,
    typer.Option(min=0, metavar="N", help="How many to invent; default with --invent: 60 a quiet stretch.", show_default=False),
]
_Simulate = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Learn from N simulated incidents instead of recorded ones; more of other systems are held out.",
        show_default=False,
    ),
]
_Precision = Annotated[
    str,
    typer.Option(
        help="Of products while learning: float32, bfloat16, or auto: bfloat16 on a GPU that has it. Sums, losses and rankings "
        "are never computed in it."
    ),
]
_Compile = Annotated[
    bool,
    typer.Option(
        "--compile",
        help="Learn with torch.compile: half a minute before the first epoch. Not worth it on a CPU (docs/training.md).",
    ),
]
_Workers = Annotated[int, typer.Option(min=1, help="Processes that simulate, and that train networks of an --ensemble at once.")]
_Ensemble = Annotated[int, typer.Option(min=1, help="Networks of different seeds to average.")]
_Strength = Annotated[
    float | None,
    typer.Option(
        min=0, max=1, help="Share of the correction that counts; default: what held-out incidents justify.", show_default=False
    ),
]
_Transfer = Annotated[
    bool,
    typer.Option(
        "--transfer",
        help="The model is meant for systems that it never saw: held-out systems alone say how much of its correction counts; of "
        "one system alone, --from as it stands does, and without --from half of it counts.",
    ),
]
_Seed = Annotated[int, typer.Option(min=0, help="Seed of everything that is drawn.")]
_Threads = Annotated[int, typer.Option(min=1, help="CPU threads; results repeat for the same number.")]
_Resume = Annotated[bool, typer.Option("--resume", help="Go on with the interrupted training of this model.")]
_Onnx = Annotated[
    bool, typer.Option("--onnx/--no-onnx", help="Also write what the base install ranks with: half a minute a network.")
]
_NoCache = Annotated[bool, typer.Option("--no-cache", help="Build every case anew.")]


def train(
    bundles: _Bundles = None,
    part: _Part = None,
    store: _Store = None,
    system: _System = None,
    out: _Out = Path("models/mine"),
    device: _Device = "auto",
    precision: _Precision = "auto",
    compiled: _Compile = False,
    engine: _Engine = "torch",
    edges: _Edges = None,
    width: _Width = None,
    layers: _Layers = None,
    epochs: _Epochs = 40,
    start: _From = None,
    invent: _Invent = False,
    invented: _Invented = None,
    simulate: _Simulate = None,
    workers: _Workers = 1,
    ensemble: _Ensemble = 1,
    strength: _Strength = None,
    transfer: _Transfer = False,
    seed: _Seed = 0,
    threads: _Threads = 1,
    resume: _Resume = False,
    onnx: _Onnx = True,
    no_cache: _NoCache = False,
    replay: _Replay = None,
    replay_simulated: _ReplaySimulated = None,
    exam: _Exam = None,
    trust_labels: _TrustLabels = False,
    register: _Register = False,
    promote: _Promote = False,
    if_due: _IfDue = False,
    config: _Config = None,
) -> None:
    """Train the graph network and write it as a model folder.

    It learns from labelled incidents, of which about a fifth, in whole groups of repetitions, is kept aside to stop early and to
    calibrate; with --invent from faults pushed onto quiet telemetry too, or from these alone; with --simulate from simulated
    systems. Ctrl-C keeps what is finished; --resume then ends with the same weights as if nothing had happened.
    """
    from rca.errors import BadInput
    from rca.models import registry
    from rca.models.files import MODEL_FILE, read_model
    from rca.models.learnt import Learnt, write_learnt
    from rca.models.reference import read_reference, write_reference
    from rca.models.versions import Versions
    from rca.shop import manifest

    shape = {name: value for name, value in (("edges", edges), ("width", width), ("layers", layers)) if value is not None}
    if start is not None and shape:
        raise BadInput("--from", expected="the shape of its model", found=", ".join(f"--{name}" for name in shape))
    choosing = {"--bundles": bundles, "--part": part, "--store": store, "--system": system or None}
    changing = {"--invent": invent or None, "--invented": invented, "--transfer": transfer or None}
    going_on = str(start) == _CURRENT
    again = {"--replay": replay or None, "--replay-simulated": replay_simulated, "--trust-labels": trust_labels or None}
    if not going_on and (wrong := [name for name, value in (again | {"--if-due": if_due or None}).items() if value is not None]):
        raise BadInput(", ".join(wrong), expected="--from current", found=f"--from {start}" if start else "no --from")
    judging_by = {"--exam": exam, "--promote": promote or None}
    beside = [name for name, value in {**choosing, **changing, **again, **judging_by}.items() if value is not None]
    if simulate and beside:
        raise BadInput("--simulate", expected="no option about recorded incidents beside it", found=", ".join(beside))
    if part == "test":
        raise BadInput("--part", expected="train: what is learnt from cannot test", found=part)
    if bundles and part is None and "test" in manifest.parts(bundles):
        raise BadInput(
            f"--bundles {bundles}", expected="--part train, since its manifest keeps a part to test on", found="no --part"
        )
    options = {
        "engine": engine,
        "device": device,
        "precision": precision,
        "compiled": compiled,
        "workers": workers,
        "ensemble": ensemble,
        "strength": strength,
        "transfer": transfer,
        "seed": seed,
        "threads": threads,
    }
    home = _cache_home(store)
    parent, start = _parent(home) if going_on else (None, start)
    if if_due and not _is_due(home, config, system or []):
        return
    created = registry.create("gnn", epochs=epochs, start=start, **options, **shape)
    ranker = cast("NetworkRanker", created)
    ranker.network_config()
    ranker.training_config(0)
    if out.exists() and not out.is_dir():
        raise BadInput("--out", expected="a folder, or a place for one", found=f"{out}, a file")
    before = None
    if start is not None:  # looked at before anything is simulated or read, which may take hours
        if not (start / MODEL_FILE).is_file():
            found = f"{start}, a folder without {MODEL_FILE}" if start.is_dir() else f"{start}, which is none"
            raise BadInput("--from", expected="the folder of a model, as `rca train` writes it", found=found)
        before = read_reference(read_model(start))
    states = out / _STATES
    if resume and not states.exists():
        raise BadInput(str(states), expected="the state of an interrupted training", found="none (start without --resume)")
    if register or promote:
        Versions(home).check_writable()
    began = time.monotonic()
    if simulate:
        learn, summary = _on_simulated(ranker, simulate, workers, home)
        lesson = _Lesson([], [], Learnt() if start is None else _learnt_by(start), [])
    else:
        wanted = invent or bool(invented)
        share = (_EXAM_SHARE if promote else 0.0) if exam is None else exam
        cached = None if no_cache else home
        recorded, aside = _recorded(bundles, part, store, system or [], start, share, unlabelled=wanted)
        if promote and not aside:
            expected = "labelled incidents to judge by that no model learnt from (--exam says how many are kept aside)"
            raise BadInput("--promote", expected=expected, found=f"none of {len(recorded)}")
        lesson = _lesson(recorded, aside, start, seed, cached)
        if going_on:
            lesson = _with_replay(lesson, recorded, start, home, cached, replay or [], replay_simulated, trust=trust_labels)
        learn, summary = _on_recorded(ranker, lesson.training, lesson.validation, invented, wanted=wanted)
    if not resume:
        shutil.rmtree(states, ignore_errors=True)
    try:
        with _progress(ensemble, epochs) as (show, judging):
            source = learn(states, show, judging)
    except KeyboardInterrupt:
        typer.echo(_kept(states), err=True)
        raise
    reason = _not_exported(ranker.network_config().edges) if onnx else "not asked for"
    ranker.save(out, onnx=not reason)
    write_reference(read_model(out), summary().after(before))
    write_learnt(read_model(out), lesson.learnt)
    shutil.rmtree(states, ignore_errors=True)
    _report(ranker, out, source, time.monotonic() - began)
    if reason:
        typer.echo(f"no ONNX file: {reason}; this model ranks where torch is installed")
    if register or promote:
        version = _registered(out, home, parent)
        if promote:
            _judge_and_promote(version, home, lesson.aside, bundles.name if bundles else "the store")


@dataclass(frozen=True, eq=False)
class _Lesson:
    """Cases to train on and such as are held out to stop early, what all of it is called, and incidents set aside to judge."""

    training: list[LabelledCase]
    validation: list[LabelledCase]
    learnt: Learnt
    aside: list[Recorded]


def _parent(home: Path) -> tuple[str, Path]:
    """The version in use and its folder; id and folder of the model that ships, where none was promoted."""
    from rca.errors import BadInput
    from rca.models.files import read_model
    from rca.models.shipped import shipped_folder
    from rca.models.versions import Versions

    versions = Versions(home)
    current = versions.state().current
    if current is not None:
        version = versions.get(current)
        version.check()
        return version.id, version.folder
    folder = shipped_folder()
    if folder is None:
        expected = "a model in use, promoted (`rca models promote`) or shipped"
        raise BadInput("--from current", expected=expected, found="none (--from FOLDER goes on from another one)")
    return read_model(folder).id, folder


def _is_due(home: Path, config: Path | None, systems: list[str]) -> bool:
    from rca.cli.models import training_rules
    from rca.evaluation.due import due

    with progress("incidents") as step:
        found = due(home, training_rules(config), time.time_ns(), systems=systems, step=step)
    typer.echo(found.words())
    return found.met


def _learnt_by(folder: Path) -> Learnt:
    """What a model learnt from, as far as it tells."""
    from rca.models.files import read_model
    from rca.models.learnt import Learnt, read_learnt

    return read_learnt(read_model(folder)) or Learnt()


def _registered(out: Path, home: Path, parent: str | None) -> Version:
    from rca.models.versions import Versions

    found = Versions(home).register(out, source="rca train", parent=parent)
    typer.echo(f"version {found.version.id}{'' if found.new else ', which was there already'}")
    return found.version


def _judge_and_promote(version: Version, home: Path, aside: list[Recorded], of: str) -> None:
    """Raises typer.Exit where the gate refuses."""
    from rca.cli.models import promoted
    from rca.evaluation.life import examine
    from rca.incidents.home import user_name
    from rca.models.versions import Versions

    versions = Versions(home)
    with progress("incidents", len(aside)) as step:
        examine(versions, version, aside, of=f"{of}, kept aside", who=user_name(), step=step)
    promoted(versions, version.id, "rca train --promote")


def _kept(states: Path) -> str:
    if any(states.glob("*")):
        return f"finished epochs are kept in {states}, --resume goes on"
    return "no epoch was finished yet, nothing is kept"


def _cache_home(store: Path | None) -> Path:
    from rca.incidents.home import default_home

    return store or default_home()


def _on_recorded(
    ranker: NetworkRanker, training: list[LabelledCase], validation: list[LabelledCase], invented: int | None, *, wanted: bool
) -> tuple[_Learn, _Summary]:
    from rca.models.augmentation import enough_invented
    from rca.models.reference import reference_of_cases
    from rca.wording import count as counted

    if wanted:
        ranker.invented = enough_invented(training) if invented is None else invented
    held = f"{len(validation)} held out" if validation else "none held out: too few groups of labelled incidents"

    def learn(states: Path, show: Progress, judging: Callable[[], None]) -> str:
        ranker.train(training, validation, state_folder=states, progress=show, judging=judging)
        return f"{counted(len(training), 'incident')} ({held})"

    return learn, lambda: reference_of_cases(training, ranker.seed)


def _on_simulated(ranker: NetworkRanker, incidents: int, workers: int, home: Path) -> tuple[_Learn, _Summary]:
    """Builds what is not built yet."""
    from rca.models.simulated import HELD_OUT_SEED, Order, Simulated, graph_code, simulated_graphs
    from rca.models.training import reference_of_graphs

    source, seeds = Simulated(), (ranker.seed, ranker.seed + HELD_OUT_SEED)
    orders = [Order(seeds[0], incidents), Order(seeds[1], max(incidents // 10, min(incidents, _HELD_OUT)))]
    graphs = []
    with progress("simulated incidents", sum(order.count for order in orders)) as step:
        for order, before in zip(orders, (0, incidents), strict=True):

            def show(done: int, before: int = before) -> None:
                step("", completed=before + done)

            graphs.append(simulated_graphs(source, order, home, workers=workers, step=show))
    facts = {"incidents": incidents, "seed": seeds[0], "held_out_seed": seeds[1], "code": graph_code()}

    def learn(states: Path, epochs: Progress, _: Callable[[], None]) -> str:
        ranker.pretrain(
            graphs[0], graphs[1], {"simulated": facts}, floor_right=_FLOOR_RIGHT, state_folder=states, progress=epochs
        )
        return f"{incidents} simulated incidents ({orders[1].count} more held out)"

    return learn, lambda: reference_of_graphs(graphs[0], {"what": "simulated incidents", **facts}, ranker.seed)


def _recorded(
    bundles: Path | None,
    part: str | None,
    store: Path | None,
    systems: list[str],
    start: Path | None,
    share: float,
    *,
    unlabelled: bool,
) -> tuple[list[Recorded], list[Recorded]]:
    """What is asked for: to learn from, and a share to judge by that neither this model nor the one before learns from."""
    from rca.evaluation import cases, learning
    from rca.models.learnt import Learnt

    found = cases.asked_for(bundles, part, systems, cases.Labels.ANY, store)
    recorded = [one for one in found if unlabelled or cases.Labels.TOLD.want(one.incident)]
    if not recorded:
        raise _nothing_to_learn_from(bundles or _cache_home(store), len(found))
    learnt = Learnt() if start is None or not share else _learnt_by(start)
    kept, aside = learning.set_aside(recorded, share, learnt)
    if not kept:
        raise _nothing_to_learn_from(bundles or _cache_home(store), 0)
    return kept, aside


def _lesson(recorded: list[Recorded], aside: list[Recorded], start: Path | None, seed: int, home: Path | None) -> _Lesson:
    from rca.evaluation import cases, runner
    from rca.models.learnt import Learnt

    training, validation = runner.to_learn_from(cases.exam_of(recorded, home=home), seed)
    before = Learnt() if start is None else _learnt_by(start)
    return _Lesson(training, validation, before | Learnt.of((one.incident.id, one.digest) for one in recorded), aside)


def _with_replay(
    lesson: _Lesson,
    recorded: list[Recorded],
    start: Path | None,
    home: Path,
    cached: Path | None,
    folders: Sequence[Path],
    simulated: int | None,
    *,
    trust: bool,
) -> _Lesson:
    """The lesson with cases of before beside the new ones, so that these are not forgotten. Raises BadInput for odd labels."""
    from rca.errors import BadInput
    from rca.evaluation import cases, learning
    from rca.models.files import read_model
    from rca.models.learnt import Learnt, simulated_of
    from rca.wording import count as counted

    assert start is not None
    before = _learnt_by(start)
    known = {one.incident.id for one in recorded if before.knows(one.incident.id, one.digest)}
    fresh = [case for case in (*lesson.training, *lesson.validation) if case.incident_id not in known]
    if not fresh:
        raise BadInput("--from current", expected="incidents that it did not learn from", found=f"none of {len(recorded)}")
    if not trust:
        for words in learning.check_labels("--from current", fresh):
            typer.echo(f"labels: {words}", err=True)
    again = learning.replayed(before, recorded, home, folders)
    replayed = list(cases.exam_of(again, home=cached).training)
    made_of = simulated_of(read_model(start))
    missing = max(len(fresh) - len(known) - len(replayed), 0)
    number = min(missing, learning.MOST_SIMULATED) if simulated is None else simulated
    if made_of is not None and number:
        with progress("simulated incidents", number) as step:
            replayed += learning.simulated_cases(made_of, number, step)
    elif simulated:
        raise BadInput("--replay-simulated", expected="a model that learnt from simulated incidents", found=str(start))
    typer.echo(f"{counted(len(fresh), 'new incident')}, {counted(len(known) + len(replayed), 'case')} of before learnt again")
    learnt = lesson.learnt | Learnt.of((one.incident.id, one.digest) for one in again)
    return _Lesson([*lesson.training, *replayed], lesson.validation, learnt, lesson.aside)


def _nothing_to_learn_from(where: Path, unlabelled: int) -> BadInput:
    from rca.errors import BadInput
    from rca.wording import count as counted

    expected = (
        "incidents (`rca incidents import` or `rca import` brings some, --bundles names others), or --simulate, which needs none"
    )
    if unlabelled:
        expected = "incidents with a label (`rca incidents label` gives one), or --invent, which needs none"
    return BadInput(str(where), expected=expected, found=f"{counted(unlabelled, 'incident')} without" if unlabelled else "none")


def _not_exported(edges: str) -> str:
    """Why a model cannot be exported; empty where it can."""
    from rca.models.onnx_export import missing_libraries

    if edges == "shuffled":
        return "shuffled edges are an ablation"
    if missing := missing_libraries():
        return f"{' and '.join(missing)} not installed (pip install 'rca-gnn[gnn]')"
    return ""


def _report(ranker: NetworkRanker, out: Path, source: str, took_s: float) -> None:
    from rca.wording import seconds

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
        typer.echo(f"network {number}: {_cost(history)}")
    typer.echo(
        f"{out}: {ranker.data['graphs']} graphs from {source}, "
        f"{ranker.earned:.0%} of the correction counts, temperature {ranker.temperature:.2f}; "
        f"{seconds(took_s)} from the first case to the written model"
    )
    if not ranker.earned:
        typer.echo("without its correction this model ranks as the label-free score does")


def _cost(history: History) -> str:
    """What a training cost, in words."""
    from rca.wording import size

    busy = "how busy it was is not known" if history.utilisation is None else f"{history.utilisation:.0%} busy"
    words = (
        f"{history.graphs_per_second:,.0f} graphs/s on {history.device}, {busy}, at most {size(history.memory_bytes)} of memory"
    )
    return f"{words}, {history.compiled}" if history.compiled else words


@contextmanager
def _progress(networks: int, epochs: int) -> Iterator[tuple[Progress, Callable[[], None]]]:
    """A progress bar over the epochs of all networks, and before it a line that says what is judged."""
    from rca.models.training import Epoch

    reached: dict[int, int] = {}  # epoch of every network, since several may learn at once
    with progress("epochs", networks * epochs) as step:

        def show(member: int, epoch: Epoch) -> None:
            held_out = "" if epoch.validation_loss is None else f", held out {epoch.validation_loss:.3f}"
            speed = "" if epoch.usage is None else f", {epoch.usage.graphs_per_second:,.0f} graphs/s"
            reached[member] = epoch.number
            step(f"network {member + 1} of {networks}: loss {epoch.loss:.3f}{held_out}{speed}", completed=sum(reached.values()))

        parts = count(1)

        def judging() -> None:
            step(f"judging the correction on held-out incidents, part {next(parts)}", completed=0)

        yield show, judging
