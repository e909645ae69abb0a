"""What is recorded from the shop: the programme, whom its faults hit, and the manifest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from rca.errors import BadInput, UnknownName
from rca.faults import FAULT_KINDS, NO_FAULT
from rca.shop import manifest, monitoring
from rca.shop.client import Shop
from rca.shop.faults import RECIPES, culprit_of, recipe_of
from rca.shop.folder import DISK_PROBE, RunFolder
from rca.shop.host import HostLoad, HostWatch
from rca.shop.observing import Spoilt, unsaturated
from rca.shop.plan import WORKLOADS
from rca.shop.programme import programme
from rca.shop.recording import Recorder, record


def test_the_programme_holds_what_the_project_promises() -> None:
    made = programme()
    incidents = [recording for recording in made if recording.target]
    assert len(incidents) >= 60
    assert len({recording.fault_kind for recording in incidents}) >= 12
    assert sum(recording.part == "test" for recording in incidents) >= 30
    assert sum(recording.fault_kind == NO_FAULT for recording in made) >= 20
    assert Counter(recording.id for recording in made).most_common(1)[0][1] == 1
    assert programme() == made
    assert programme(1) != made


def test_training_and_test_share_no_service_and_fault() -> None:
    groups = {
        part: {
            (recording.target, recording.fault_kind) for recording in programme() if recording.part == part and recording.target
        }
        for part in ("train", "test")
    }
    assert not groups["train"] & groups["test"]


def test_every_recording_can_be_injected_and_labelled() -> None:
    for recording in programme():
        recipe_of(recording.fault_kind, recording.target)
        culprit = culprit_of(recording.fault_kind, recording.target)
        kinds = FAULT_KINDS[recording.fault_kind].label_kinds
        assert (culprit is None) if not kinds else culprit is not None and culprit.kind in kinds


@pytest.mark.parametrize("kind", RECIPES)
def test_every_recipe_is_of_the_vocabulary_and_names_whom_its_label_may_name(kind: str) -> None:
    for target in RECIPES[kind].targets:
        culprit = culprit_of(kind, target)
        assert culprit is not None
        assert culprit.kind in FAULT_KINDS[kind].label_kinds


def test_faults_and_targets_that_do_not_exist_are_named() -> None:
    with pytest.raises(UnknownName, match=r"network_dely.*network_delay"):
        recipe_of("network_dely", "cart")
    with pytest.raises(UnknownName, match=r"target of disk_full.*'gateway'"):
        recipe_of("disk_full", "gateway")
    with pytest.raises(BadInput, match="expected none"):
        recipe_of("traffic_surge", "gateway")


def test_the_plan_has_no_loose_ends() -> None:
    assert all(callee in WORKLOADS for workload in WORKLOADS.values() for callee in workload.calls)
    called = {callee for workload in WORKLOADS.values() for callee in workload.calls}
    assert [name for name in WORKLOADS if name not in called] == ["gateway", "email-worker"]


def test_processes_that_wait_for_a_cpu_are_noticed(tmp_path: Path) -> None:
    assert HostLoad(0.5, 2.5).is_saturated
    assert not HostLoad(0.5, 1.0).is_saturated
    core = min(os.sched_getaffinity(0))
    burn = f"import os, time\nos.sched_setaffinity(0, {{{core}}})\nend = time.time() + 6\nwhile time.time() < end: pass"
    with ExitStack() as stack:  # two processes that want one core
        burning = [stack.enter_context(subprocess.Popen([sys.executable, "-c", burn])) for _ in range(2)]
        start = time.time()
        with HostWatch(lambda: [process.pid for process in burning], tmp_path) as host:
            time.sleep(4.5)
        load = host.between(start, time.time())
        assert host.between(0, start) is None
        for process in burning:
            process.kill()
    assert load is not None
    assert load.ratio > 0.5
    assert 0 < load.disk_s < 5


def test_a_machine_of_which_nothing_is_known_spoils_a_recording(tmp_path: Path) -> None:
    with HostWatch(lambda: [2**22 - 7], tmp_path) as host:  # no such process
        while not (tmp_path / DISK_PROBE).exists():
            time.sleep(0.05)
    assert host.between(0, time.time()) is None
    with pytest.raises(Spoilt, match="not known: /proc told of no process"):
        unsaturated(None)
    with pytest.raises(Spoilt, match=r"saturated: 5\.0 s of waiting"):
        unsaturated(HostLoad(0.5, 2.5))
    assert unsaturated(HostLoad(0.5, 1.0)).ratio == 2
    with pytest.raises(Spoilt, match="disk was slow: 400 ms for a small write"):
        unsaturated(HostLoad(0.5, 1.0, 0.4))


def test_a_watch_outlives_a_moment_in_which_the_processes_are_not_known(tmp_path: Path) -> None:
    asked: list[int] = []

    def pids() -> list[int]:
        asked.append(1)
        if len(asked) < 3:
            raise BadInput("shop.json", expected="a state", found="half of one")
        return [os.getpid()]

    with HostWatch(pids, tmp_path) as host:
        _first_sample(host)


def test_a_disk_that_takes_nothing_is_as_slow_as_can_be(tmp_path: Path) -> None:
    with HostWatch(lambda: [os.getpid()], tmp_path / "absent") as host:
        load = _first_sample(host)
    assert load.has_slow_disk


def test_a_folder_that_was_recorded_from_can_have_a_shop_again(tmp_path: Path) -> None:
    with HostWatch(lambda: [os.getpid()], tmp_path) as host:
        _first_sample(host)
        assert [path.name for path in tmp_path.iterdir()] == [DISK_PROBE]
        RunFolder(tmp_path).check()  # as after a recorder that was killed
    assert not list(tmp_path.iterdir())


def _first_sample(host: HostWatch) -> HostLoad:
    deadline = time.monotonic() + 30
    while (load := host.between(0, time.time())) is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return load


def _add(folder: str, number: int) -> None:
    for turn in range(5):
        with manifest.locked(Path(folder)) as body:
            body["incidents"].append({"number": number * 5 + turn})


def test_two_recorders_share_a_manifest(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(_add, [str(tmp_path)] * 2, range(2)))
    assert sorted(entry["number"] for entry in manifest.read(tmp_path)["incidents"]) == list(range(10))


def test_what_cannot_be_recorded_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shop, "status", lambda _shop: None)
    folder = RunFolder(tmp_path)
    monitoring.write_settings(folder, monitoring.Ports(20001, 20002, 20003, 20004), tmp_path / "kubeconfig")
    with pytest.raises(BadInput, match="expected one recorder for each shop, found 2"):
        record([Recorder(Shop(folder), tmp_path / "out")] * 2, programme())
    with pytest.raises(BadInput, match="expected a folder for recordings, found a file"):
        record([Recorder(Shop(folder), folder.config_file)], programme())


def test_a_bundle_that_changed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar.zst").write_bytes(b"recorded")
    digest = "a0b1"
    entry = {"id": "a", "file": "a.tar.zst", "sha256": digest, "part": "test"}
    (tmp_path / "manifest.json").write_text(json.dumps({"version": "1", "incidents": [entry]}))
    assert manifest.files_of(tmp_path, "train") == []
    with pytest.raises(BadInput, match=r"a.tar.zst: expected SHA-256 a0b1, found"):
        manifest.files_of(tmp_path, "test")
    with pytest.raises(BadInput, match=r"a\.tar\.zst: expected a folder of recordings with a manifest\.json, .* found no folder"):
        manifest.files_of(tmp_path / "a.tar.zst")
    os.truncate(tmp_path / "manifest.json", 3)
    with pytest.raises(BadInput, match="expected JSON"):
        manifest.read(tmp_path)


INCIDENTS = Path(__file__).parents[1] / "incidents"


def test_what_ships_is_what_the_manifest_says() -> None:
    assert len(manifest.files_of(INCIDENTS)) == len(list(INCIDENTS.glob("*.tar.zst")))
    assert sum(path.stat().st_size for path in manifest.files_of(INCIDENTS)) < 25 * 2**20


def test_the_test_part_is_frozen() -> None:
    kept = INCIDENTS / manifest.FROZEN
    assert (kept.read_text() if kept.exists() else "") == manifest.frozen(INCIDENTS)
