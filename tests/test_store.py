"""The incident store: what is acknowledged stays, whatever happens to the process, the disk or the neighbour."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, cast

import polars as pl
import pytest

from rca.errors import BadInput, RcaError, StorageFull, Unavailable, UnknownName
from rca.incidents import store as store_module
from rca.incidents.entities import find_entity, known_entities
from rca.incidents.example import example_incident
from rca.incidents.home import default_home
from rca.incidents.incident import EntityModel, Incident, Label
from rca.incidents.store import BUNDLE_FOLDER, DATABASE_FILE, IncidentStore
from rca.telemetry import EntityId, Telemetry
from tests.servers import disks

INCIDENT, TELEMETRY = example_incident(requests_per_second=0.1)
REDIS = EntityModel(kind="database", name="redis")
CART = EntityModel(name="cart")


def named(incident_id: str, **changes: object) -> Incident:
    return INCIDENT.model_copy(update={"id": incident_id, **changes})


def label_of(entity: EntityModel, fault_kind: str = "latency", provenance: str = "confirmed") -> Label:
    return Label.model_validate({"entity": entity, "fault_kind": fault_kind, "provenance": provenance})


def equal(one: Telemetry, other: Telemetry) -> bool:
    return all(frame.equals(other.frames()[name]) for name, frame in one.frames().items())


@pytest.fixture
def store(tmp_path: Path) -> Iterator[IncidentStore]:
    with IncidentStore(tmp_path / "home", who="anna") as opened:
        yield opened


def bundles(store: IncidentStore) -> list[str]:
    return sorted(path.name for path in (store.home / BUNDLE_FOLDER).iterdir())


def test_what_is_added_reads_back_equal(store: IncidentStore) -> None:
    assert store.add(INCIDENT, TELEMETRY) == "added"
    incident, telemetry = store.get(INCIDENT.id)
    assert incident == INCIDENT == store.incident(INCIDENT.id)
    assert equal(telemetry, TELEMETRY)
    assert store.list() == (INCIDENT,)


def test_adding_the_same_again_changes_nothing(store: IncidentStore) -> None:
    store.add(INCIDENT, TELEMETRY)
    store.label(INCIDENT.id, label_of(CART))
    before = (store.list(), store.audit(), bundles(store))
    assert store.add(INCIDENT, TELEMETRY) == "unchanged"
    assert (store.list(), store.audit(), bundles(store)) == before


def test_the_same_in_other_bytes_is_still_the_same(store: IncidentStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.add(INCIDENT, TELEMETRY)
    write = pl.DataFrame.write_parquet
    monkeypatch.setattr(pl.DataFrame, "write_parquet", lambda frame, file, **_: write(frame, file, compression="snappy"))
    assert store.add(INCIDENT, TELEMETRY) == "unchanged"


def test_another_bundle_under_the_same_id_is_refused_unless_asked_for(store: IncidentStore) -> None:
    store.add(INCIDENT, TELEMETRY)
    store.label(INCIDENT.id, label_of(CART))
    other = named(INCIDENT.id, title="another")
    with pytest.raises(BadInput, match="found another incident of that id"):
        store.add(other, TELEMETRY)
    assert store.incident(INCIDENT.id).title == INCIDENT.title
    assert store.add(other, TELEMETRY, replace=True) == "replaced"
    assert store.incident(INCIDENT.id).title == "another"
    assert [label.entity.name for label in store.incident(INCIDENT.id).labels] == ["catalogue", "cart"]
    assert len(bundles(store)) == 1
    assert [entry.action for entry in store.audit()] == ["added", "labelled", "replaced"]


def test_a_damaged_bundle_can_be_repaired_by_adding_it_again(store: IncidentStore) -> None:
    store.add(INCIDENT, TELEMETRY)
    (store.home / BUNDLE_FOLDER / bundles(store)[0] / "spans.parquet").write_bytes(b"")
    with pytest.raises(RcaError, match="a whole Parquet file"):
        store.get(INCIDENT.id)
    store.add(INCIDENT, TELEMETRY, replace=True)
    assert equal(store.get(INCIDENT.id)[1], TELEMETRY)
    assert len(bundles(store)) == 1


def test_filters(store: IncidentStore) -> None:
    store.add(named("a"), TELEMETRY)
    store.add(named("b", labels=(), system="other"), TELEMETRY)
    store.add(named("c"), TELEMETRY)
    store.dispute("c", EntityModel(name="catalogue"))

    def ids(**filters: object) -> str:
        return "".join(incident.id for incident in store.list(**filters))  # type: ignore[arg-type]

    assert ids() == "abc"
    assert ids(system="other") == "b"
    assert ids(state="labelled") == "a"
    assert ids(state="unlabelled") == "b"
    assert ids(state="disputed") == "c"
    assert ids(fault_kind="cpu_contention") == "a"
    assert ids(fault_kind="cpu_contention", system="other") == ""
    with pytest.raises(UnknownName, match="did you mean labelled"):
        ids(state="labeled")


# --- labels ----------------------------------------------------------------------------------------------------------


def test_labels_are_appended_disputed_and_withdrawn_with_a_trail(store: IncidentStore) -> None:
    store.add(INCIDENT, TELEMETRY)
    store.label(INCIDENT.id, label_of(REDIS))
    causes = [str(cause) for cause in store.incident(INCIDENT.id).causes()]
    assert causes == ["service:catalogue", "database:redis"]
    store.dispute(INCIDENT.id, REDIS, "it was the cart")
    assert [str(cause) for cause in store.incident(INCIDENT.id).causes()] == ["service:catalogue"]
    assert store.incident(INCIDENT.id).labels[1].note == "it was the cart"
    store.withdraw(INCIDENT.id, REDIS)
    assert store.incident(INCIDENT.id) == INCIDENT
    trail = store.audit(INCIDENT.id)
    assert [(entry.action, entry.who) for entry in trail] == [
        ("added", "anna"),
        ("labelled", "anna"),
        ("disputed", "anna"),
        ("withdrawn", "anna"),
    ]
    assert [len(entry.before) for entry in trail[1:]] == [1, 2, 2]
    assert [len(entry.after) for entry in trail[1:]] == [2, 2, 1]
    assert trail[2].before[1]["provenance"] == "confirmed"
    assert trail[2].after[1]["provenance"] == "disputed"
    assert trail[0].at_ns <= trail[1].at_ns


def test_who_labelled_and_when_is_filled_in(store: IncidentStore) -> None:
    store.add(INCIDENT, TELEMETRY)
    store.label(INCIDENT.id, label_of(CART))
    label = store.incident(INCIDENT.id).labels[-1]
    assert label.author == "anna"
    assert label.at_ns is not None


def test_the_same_label_twice_is_one_and_another_is_refused(store: IncidentStore) -> None:
    store.add(INCIDENT, TELEMETRY)
    assert store.label(INCIDENT.id, label_of(CART))
    assert not store.label(INCIDENT.id, label_of(CART))
    with pytest.raises(BadInput, match=r"dispute or withdraw the old one first.*found latency \(confirmed\)"):
        store.label(INCIDENT.id, label_of(CART, "exception"))
    store.dispute(INCIDENT.id, CART)
    assert store.label(INCIDENT.id, label_of(CART, "exception"))
    assert [(x.fault_kind, x.provenance) for x in store.incident(INCIDENT.id).labels[1:]] == [
        ("latency", "disputed"),
        ("exception", "confirmed"),
    ]


def test_an_inferred_label_may_be_confirmed(store: IncidentStore) -> None:
    store.add(INCIDENT, TELEMETRY)
    store.label(INCIDENT.id, label_of(CART, provenance="inferred"))
    assert store.label(INCIDENT.id, label_of(CART))
    assert [label.provenance for label in store.incident(INCIDENT.id).labels] == ["injected", "confirmed"]
    assert [entry.action for entry in store.audit()] == ["added", "labelled", "confirmed"]
    with pytest.raises(BadInput, match="without a label"):
        store.label(INCIDENT.id, label_of(CART, provenance="inferred"))


def test_entities_are_named_as_in_the_graph(store: IncidentStore) -> None:
    namespaced = Telemetry.of(spans=TELEMETRY.spans.with_columns(pl.lit("shop").alias("service.namespace")))
    store.add(named("plain"), TELEMETRY)
    store.add(named("spaced", labels=()), namespaced)
    known = known_entities(*store.get("plain"))
    assert {entity.name for entity in known if entity.kind == "database"} == {"shop", "redis"}
    assert find_entity("here", "redis", known) == find_entity("here", "database:redis", known)
    spaced = find_entity("here", "cart", known_entities(*store.get("spaced")))
    assert (spaced.namespace, find_entity("here", "shop/cart", known_entities(*store.get("spaced")))) == ("shop", spaced)
    with pytest.raises(UnknownName, match=r"did you mean service:shop/cart"):
        store.label("spaced", label_of(EntityModel(name="cart", namespace="shp")))
    with pytest.raises(BadInput, match=r"which may be node:cart or service:cart"):
        find_entity("here", "cart", known | {EntityId("node", "cart")})


def test_a_label_that_names_an_unknown_service_is_refused_unless_forced(store: IncidentStore) -> None:
    store.add(INCIDENT, TELEMETRY)
    stranger = label_of(EntityModel(name="catalog"))
    with pytest.raises(UnknownName, match=r"'catalog' \(did you mean catalogue"):
        store.label(INCIDENT.id, stranger)
    assert store.incident(INCIDENT.id) == INCIDENT
    store.label(INCIDENT.id, stranger, force=True)
    assert store.incident(INCIDENT.id).labels[-1].entity.name == "catalog"


def test_a_fault_that_such_an_entity_cannot_have_is_refused(store: IncidentStore) -> None:
    store.add(INCIDENT, TELEMETRY)
    with pytest.raises(BadInput, match="a label of cpu_consumed to name service, found database:redis"):
        store.label(INCIDENT.id, label_of(REDIS, "cpu_consumed"))
    with pytest.raises(BadInput, match="traffic_surge to name no entity"):
        store.label(INCIDENT.id, label_of(CART, "traffic_surge"))


def test_what_is_not_there_cannot_be_changed(store: IncidentStore) -> None:
    store.add(INCIDENT, TELEMETRY)
    with pytest.raises(UnknownName, match="did you mean catalogue"):
        store.withdraw(INCIDENT.id, EntityModel(name="catalog"))
    for change in (store.get, store.incident, store.manifest, store.remove):
        with pytest.raises(UnknownName, match="example-7"):
            change("example")


def test_removing_keeps_the_trail(store: IncidentStore) -> None:
    store.add(INCIDENT, TELEMETRY)
    store.remove(INCIDENT.id)
    assert store.list() == ()
    assert bundles(store) == []
    trail = store.audit(INCIDENT.id)
    assert [entry.action for entry in trail] == ["added", "removed"]
    assert trail[1].before["labels"][0]["entity"]["name"] == "catalogue"


def test_export_carries_the_present_labels_and_imports_elsewhere(store: IncidentStore, tmp_path: Path) -> None:
    store.add(INCIDENT, TELEMETRY)
    store.label(INCIDENT.id, label_of(CART))
    path = store.export(INCIDENT.id, tmp_path / "out.tar.zst")
    with IncidentStore(tmp_path / "elsewhere") as other:
        incident, outcome = other.import_bundle(path)
        assert outcome == "added"
        assert incident == store.incident(INCIDENT.id) == other.incident(INCIDENT.id)
        assert other.import_bundle(path)[1] == "unchanged"


# --- bad days --------------------------------------------------------------------------------------------------------

_STREAM = """
import itertools, sys
from pathlib import Path
from rca.incidents.entities import find_entity, known_entities
from rca.incidents.example import example_incident
from rca.incidents.incident import EntityModel, Label
from rca.incidents.store import IncidentStore
incident, telemetry = example_incident(requests_per_second=0.05)
with IncidentStore(Path(sys.argv[1]), who="stream") as store:
    print("ready", flush=True)
    for i in itertools.count():
        name = f"{sys.argv[2]}-{i}"
        store.add(incident.model_copy(update={"id": name}), telemetry)
        print(f"added {name}", flush=True)
        store.label(name, Label(entity=EntityModel(name="cart"), fault_kind="latency", provenance="confirmed"))
        print(f"labelled {name}", flush=True)
        if len(sys.argv) > 3 and i + 1 == int(sys.argv[3]):
            break
"""


def _stream(home: Path, prefix: str, *count: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", _STREAM, home, prefix, *count], stdout=subprocess.PIPE, text=True)


def _check_acknowledged(home: Path, lines: list[str]) -> None:
    with IncidentStore(home) as store:
        for line in lines:
            action, name = line.split()
            incident, telemetry = store.get(name)
            assert telemetry.spans.height
            assert action == "added" or incident.labels[-1].entity.name == "cart"
        assert len(bundles(store)) == len(store.list())
        assert not [name for name in bundles(store) if name.startswith(".")]
        assert {entry.incident_id for entry in store.audit()} == {incident.id for incident in store.list()}


@pytest.mark.parametrize("moment", [0.05, 0.21, 0.333])
def test_acknowledged_writes_survive_kill_9(tmp_path: Path, moment: float) -> None:
    process = _stream(tmp_path, "i")
    output = cast(IO[str], process.stdout)
    assert output.readline() == "ready\n"
    first = output.readline()
    time.sleep(moment)
    process.send_signal(signal.SIGKILL)
    lines = [first, *output.readlines()]
    assert process.wait() == -signal.SIGKILL
    complete = [line for line in lines if line.endswith("\n")]
    assert complete
    _check_acknowledged(tmp_path, complete)


def test_a_bundle_without_a_row_is_swept_at_the_next_start(store: IncidentStore) -> None:
    store.add(INCIDENT, TELEMETRY)
    for orphan in ("gone@0123456789abcdef", ".half@0.xyz.tmp"):
        (store.home / BUNDLE_FOLDER / orphan).mkdir()
        (store.home / BUNDLE_FOLDER / orphan / "spans.parquet").write_bytes(b"half")
    with IncidentStore(store.home) as again:
        assert len(bundles(again)) == 1
        assert again.incident(INCIDENT.id) == INCIDENT


def test_nothing_is_swept_while_somebody_writes(store: IncidentStore) -> None:
    writing = store.home / BUNDLE_FOLDER / "coming@0123456789abcdef"
    with store._writing():
        writing.mkdir()
        IncidentStore(store.home).close()
        assert writing.exists()
    IncidentStore(store.home).close()
    assert not writing.exists()


def test_two_processes_at_once(tmp_path: Path) -> None:
    processes = [_stream(tmp_path / "new", prefix, "8") for prefix in "ab"]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    lines = [line for output in outputs for line in output.splitlines() if line != "ready"]
    assert len(lines) == 32
    _check_acknowledged(tmp_path / "new", lines)


def test_one_home_opened_by_many_at_once(tmp_path: Path) -> None:
    def use(i: int) -> str:
        with IncidentStore(tmp_path / "home") as store:
            return store.add(named(f"i{i}"), TELEMETRY)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(use, range(16))) == {"added"}


def test_a_store_that_stays_busy_says_so(store: IncidentStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "BUSY_SECONDS", 0.1)
    with IncidentStore(store.home) as other, store._writing(), pytest.raises(Unavailable, match="try again"):
        other.add(INCIDENT, TELEMETRY)


def test_a_failed_write_leaves_nothing(store: IncidentStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.add(INCIDENT, TELEMETRY)

    def full(handle: int) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageFull, match="nothing that was stored before is lost"):
            store.add(named("second"), TELEMETRY)
    assert store.list() == (INCIDENT,)
    assert len(bundles(store)) == 1
    assert store.add(named("second"), TELEMETRY) == "added"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real disk of 1 MiB, where this process may mount one."""
    with disks.small(tmp_path, "1m") as disk:
        yield disk


def test_a_full_disk_keeps_what_was_there(small_disk: Path) -> None:
    added: list[str] = []

    def add_until_full() -> None:
        for i in range(1000):
            store.add(named(f"i{i}"), TELEMETRY)
            added.append(f"i{i}")

    with IncidentStore(small_disk) as store:
        with pytest.raises(StorageFull):
            add_until_full()
        assert added
        assert len(bundles(store)) == len(added)
    with IncidentStore(small_disk) as store:
        assert sorted(incident.id for incident in store.list()) == sorted(added)
        assert all(equal(store.get(name)[1], TELEMETRY) for name in added)
        assert len(bundles(store)) == len(added)


def test_ctrl_c_in_the_middle_of_an_import_keeps_what_was_there(tmp_path: Path) -> None:
    with IncidentStore(tmp_path / "home") as store:
        store.add(INCIDENT, TELEMETRY)
        paths = []
        for i in range(40):
            store.add(named(f"i{i:02}"), TELEMETRY)
            paths.append(store.export(f"i{i:02}", tmp_path / f"{i}.tar.zst"))
            store.remove(f"i{i:02}")
    command = [sys.executable, "-u", "-m", "rca", "incidents", "import", *map(str, paths)]
    process = subprocess.Popen(
        command, env={**os.environ, "RCA_HOME": str(tmp_path / "home")}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    first = cast(IO[str], process.stdout).readline()
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in errors
    acknowledged = {line.split(":")[0] for line in (first + rest).splitlines()}
    with IncidentStore(tmp_path / "home") as store:
        present = {incident.id for incident in store.list()}
        assert acknowledged | {INCIDENT.id} <= present
        assert len(present) <= len(acknowledged) + 2  # the last one may be stored and not yet printed
        assert len(present) < 40
        assert len(bundles(store)) == len(present)
        assert all(store.get(name)[1].spans.height for name in present)


def test_a_store_of_a_newer_version_is_refused(store: IncidentStore) -> None:
    store._db.execute("PRAGMA user_version = 99")
    with pytest.raises(BadInput, match="expected schema version 1 or older, found 99"):
        IncidentStore(store.home)


def test_an_older_store_is_migrated_with_its_content(store: IncidentStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.add(INCIDENT, TELEMETRY)
    later = [*store_module.MIGRATIONS, ("ALTER TABLE incidents ADD COLUMN colour TEXT",)]
    monkeypatch.setattr(store_module, "MIGRATIONS", later)
    with IncidentStore(store.home) as migrated:
        assert migrated._db.execute("PRAGMA user_version").fetchone() == (2,)
        assert migrated.incident(INCIDENT.id) == INCIDENT


def test_a_migration_that_fails_changes_nothing(store: IncidentStore, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = [*store_module.MIGRATIONS, ("ALTER TABLE incidents ADD COLUMN colour TEXT", "NO SUCH STATEMENT")]
    with monkeypatch.context() as patch:
        patch.setattr(store_module, "MIGRATIONS", broken)
        with pytest.raises(sqlite3.OperationalError):
            IncidentStore(store.home)
    assert store.add(INCIDENT, TELEMETRY) == "added"


def test_a_home_that_is_no_store(tmp_path: Path) -> None:
    (tmp_path / DATABASE_FILE).write_bytes(b"something else entirely " * 100)
    with pytest.raises(BadInput, match="expected an incident store"):
        IncidentStore(tmp_path)
    with pytest.raises(BadInput, match="expected a place that can be written"):
        IncidentStore(tmp_path / DATABASE_FILE)


def test_the_home_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RCA_HOME", str(tmp_path / "there"))
    IncidentStore().close()
    assert (tmp_path / "there" / DATABASE_FILE).is_file()
    monkeypatch.delenv("RCA_HOME")
    assert default_home() == Path("~/.local/share/rca").expanduser()
