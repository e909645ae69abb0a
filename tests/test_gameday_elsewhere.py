"""What other tools injected: plain files, resources of Chaos Mesh, flags of the OpenTelemetry Demo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rca.collectors.kubernetes.config import KubernetesConfig
from rca.errors import BadInput, Rejected, Unavailable
from rca.faults import FAULT_KINDS, is_no_fault
from rca.gameday.chaos_mesh import ACTIONS, Resources, resources_in, resources_of, seen_in
from rca.gameday.flagd import FLAGS, Flags, flag_of, variants_of
from rca.gameday.seen import Seen, grouped, read_injections, write_injections
from rca.telemetry import SECOND_NS
from rca.wording import clock
from tests.servers.faulty import Reply, faulty
from tests.servers.kubernetes_api import KubernetesApi
from tests.servers.kubernetes_objects import deployment, owned_by, pod, replica_set, template
from tests.servers.loopback import Answer, serving

FIXTURES = Path(__file__).parent / "fixtures"
CHAOS = FIXTURES / "chaos-mesh.yaml"
T0 = 1_772_445_600 * SECOND_NS  # 2026-03-02 10:00 UTC


def at(seconds: float) -> int:
    return T0 + round(seconds * SECOND_NS)


# --- plain files ------------------------------------------------------------------------------------------------------

CSV = """fault,target,start,end,strength,note
latency, payment, 2026-03-02T10:00:00Z, 2026-03-02T10:02:00.5Z, 0.5, "slow, by hand"
traffic_surge,,2026-03-02T11:10:00+01:00,,,
"""
TOML = """
[[injection]]
fault = "latency"
target = "payment"
start = 2026-03-02T10:00:00Z
end = "2026-03-02T10:02:00.5Z"
strength = 0.5
note = "slow, by hand"

[[injection]]
fault = "traffic_surge"
start = "2026-03-02T11:10:00+01:00"
"""
EXPECTED = [
    Seen("latency", "payment", at(0), at(120.5), "file", 0.5, "slow, by hand", ("payment",)),
    Seen("traffic_surge", "", at(600), None, "file"),
]


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_plain_file_may_be_csv_toml_or_json(tmp_path: Path) -> None:
    rows = [
        {
            "fault": "latency",
            "target": "payment",
            "start": "2026-03-02T10:00:00Z",
            "end": "2026-03-02T10:02:00.5Z",
            "strength": 0.5,
            "note": "slow, by hand",
        },
        {"fault": "traffic_surge", "start": "2026-03-02T10:10:00Z"},
    ]
    assert read_injections(written(tmp_path, "a.csv", CSV)) == EXPECTED
    assert read_injections(written(tmp_path, "a.toml", TOML)) == EXPECTED
    assert read_injections(written(tmp_path, "a.json", json.dumps(rows[::-1]))) == EXPECTED
    assert read_injections(written(tmp_path, "b.json", json.dumps({"injection": rows}))) == EXPECTED


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("latency", "latenzy"), r"a.csv, line 2: fault: .*'latenzy' \(did you mean latency"),
        ((" payment", ""), r"line 2: target: expected whom latency hit, found none"),
        (("10:00:00Z", "10:00:00"), r"line 2: start: expected a time with its offset, .*without an offset"),
        (("2026-03-02T10:00:00Z", "today"), r"line 2: start: expected a time with its offset, .*found 'today'"),
        (("2026-03-02T10:00:00Z", ""), r"line 2: expected fault and start of every injection, found no start"),
        (("10:02:00.5Z", "09:02:00Z"), r"line 2: end: expected a time after the start"),
        ((" 0.5", " 5"), r"line 2: strength: expected a number above 0, up to 1, found '5'"),
        (("strength", "power"), r"line 2: field: expected a known name, found 'power'"),
        ((",,,", ",,1,,,"), r"line 3: field: .*found '\?'"),
        ((CSV, ""), r"a.csv: expected a header: fault,target"),
    ],
)
def test_mistakes_in_a_plain_file_are_named(tmp_path: Path, wrong: tuple[str, str], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        read_injections(written(tmp_path, "a.csv", CSV.replace(*wrong)))


def test_files_that_hold_no_injections_are_refused(tmp_path: Path) -> None:
    for name, text, message in (
        ("a.txt", "", r"expected a file that ends in .csv, .toml, .json, found .txt"),
        ("a.toml", "a = ", "expected TOML"),
        ("a.toml", "faults = []", r"expected \[\[injection\]\] tables, found faults"),
        ("a.json", "{", "expected JSON"),
        ("a.json", "3", "expected a list of injections, .*found int"),
        ("a.json", "[3]", "expected a list of injections"),
    ):
        with pytest.raises(BadInput, match=message):
            read_injections(written(tmp_path, name, text))
    with pytest.raises(BadInput, match="expected a file with injections, found No such file"):
        read_injections(tmp_path / "none.csv")


_TEXT = (
    st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20).map(str.strip).filter(bool)
)


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(FAULT_KINDS)), _TEXT, st.integers(0, 10**6), st.integers(1, 10**6) | st.none(), _TEXT),
        unique_by=lambda row: row[:3],
        max_size=5,
    )
)
def test_what_is_written_is_read_again(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]) -> None:
    seen = [
        Seen(fault, target, at(start / 1e3), None if lasts is None else at((start + lasts) / 1e3), "file", 0.25, note, (target,))
        for fault, target, start, lasts, note in rows
    ]
    path = tmp_path_factory.getbasetemp() / "round.csv"
    write_injections(path, seen)
    assert sorted(read_injections(path), key=repr) == sorted(seen, key=repr)


def test_an_injection_that_went_through_a_file_is_the_same(tmp_path: Path) -> None:
    seen = Seen("latency", "payment", at(0) + 123_456_789, None, "flagd")
    write_injections(tmp_path / "a.csv", [seen])
    assert [each.identity for each in read_injections(tmp_path / "a.csv")] == [seen.identity]


def test_injections_that_overlap_are_taken_together() -> None:
    def seen(start: float, end: float | None) -> Seen:
        return Seen("latency", "a", at(start), None if end is None else at(end), "file")

    first, second, third, fourth = seen(0, 60), seen(30, 90), seen(90, 100), seen(95, None)
    assert grouped([third, first, fourth, second]) == [[first, second], [third, fourth]]
    assert grouped([seen(0, None), seen(50, 60)]) == [[seen(0, None)], [seen(50, 60)]]


# --- Chaos Mesh -------------------------------------------------------------------------------------------------------


def told(found: list[Seen]) -> list[tuple[str, str, str, str | None]]:
    return [(each.fault_kind, each.target, clock(each.start_ns), each.end_ns and clock(each.end_ns)) for each in found]  # type: ignore[misc]


def test_resources_of_chaos_mesh_tell_what_was_injected_when() -> None:
    found, remarks = seen_in(resources_in(CHAOS))
    assert told(found) == [
        ("network_delay", "payment", "10:00:00", "10:02:03"),  # both pods: from the first Apply to the last Recover
        ("pod_kill", "cart", "10:10:00", None),
        ("cpu_contention", "search", "10:20:00", "10:20:40"),  # paused
        ("cpu_contention", "search", "10:30:40", "10:31:30"),
        ("clock_skew", "pricing", "10:50:00", "10:52:00"),
    ]
    assert found[0].note == "NetworkChaos shop/delay-payment, delay towards orders"
    assert {each.source for each in found} == {"chaos-mesh"}
    assert remarks == [
        "NetworkChaos shop/delay-payment: Apply failed 1 time on shop/payment-6d5f9c7b8x-7hzn5, which is no injection: unable to "
        "flush ip sets for pod payment-6d5f9c7b8x-7hzn5: rpc error: code = Unknown desc = container not found",
        "IOChaos shop/slow-disk: Apply failed 2 times on shop/shipping-59c7b8d6f4-zm8vt/app, which is no injection: toda startup "
        "takes too long or an error occurs: source file does not exist",
        "DNSChaos shop/no-names was applied to nothing",
        "HTTPChaos shop/abort-catalogue: the record of shop/catalogue-7f8b9c6d5-tt5wz has no times (Chaos Mesh before 2.3 writes "
        "none); it is left out",
        "JVMChaos shop/throw is left out; PodChaos, NetworkChaos, StressChaos, IOChaos, DNSChaos, TimeChaos, HTTPChaos are read",
    ]


def test_every_action_stands_for_a_fault_kind() -> None:
    assert set(ACTIONS.values()) <= set(FAULT_KINDS)
    assert {kind for kind, _ in ACTIONS} == {
        "PodChaos", "NetworkChaos", "StressChaos", "IOChaos", "DNSChaos", "TimeChaos", "HTTPChaos"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "spec", "fault"),
    [
        ("NetworkChaos", {"action": "netem", "loss": {"loss": "30"}}, "network_loss"),
        ("NetworkChaos", {"action": "bandwidth", "bandwidth": {"rate": "1mbps"}}, "network_delay"),
        ("StressChaos", {"stressors": {"memory": {"workers": 1, "size": "256MB"}}}, "memory_leak"),
        ("IOChaos", {"action": "fault", "errno": 28}, "disk_full"),
        ("HTTPChaos", {"target": "Response", "replace": {"code": 200}}, "return"),
        ("HTTPChaos", {"target": "Response", "delay": "2s"}, "latency"),
        ("DNSChaos", {"action": "random"}, "dns_failure"),
    ],
)
def test_kinds_without_an_action_are_told_by_what_they_hold(kind: str, spec: dict[str, Any], fault: str) -> None:
    event = {"operation": "Apply", "type": "Succeeded", "timestamp": "2026-03-02T10:00:00Z"}
    records = [{"id": "shop/cart-7c9f8d6b5f-2bqlm", "phase": "Injected", "events": [event]}]
    body = {"kind": kind, "metadata": {"name": "a"}, "spec": spec, "status": {"experiment": {"containerRecords": records}}}
    found, remarks = seen_in(Resources([body]))
    assert told(found) == [(fault, "cart", "10:00:00", None)]
    assert not remarks


def test_what_has_no_documented_shape_is_said_and_the_rest_is_read() -> None:
    bodies = yaml.safe_load(CHAOS.read_text())["items"]
    strange: list[Any] = [
        {"kind": "PodChaos", "metadata": {"name": "a"}},
        {"kind": "PodChaos", "spec": {"action": "dance"}},
        {"kind": "PodChaos", "metadata": 3, "spec": {"action": "pod-kill"}, "status": {"experiment": {"containerRecords": [3]}}},
        "text",
    ]
    found, remarks = seen_in(Resources([*strange, *bodies]))
    assert len(found) == 5
    assert remarks[0].startswith("PodChaos ?/a does not have the documented shape (KeyError: 'spec')")
    assert remarks[1] == "PodChaos ?/?: action dance stands for no fault kind; it is left out"
    assert all("does not have the documented shape" in line for line in remarks[2:4])


_GOOD = yaml.safe_load(CHAOS.read_text(encoding="utf-8"))["items"][0]
_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=5)
    | st.sampled_from(["Apply", "Recover", "2026-03-02T10:00:00Z"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*"abc", "action", "id", "events"]), inner),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(kind for kind, _ in ACTIONS)), _JSON, _JSON, _JSON)
def test_nothing_that_a_resource_may_hold_stops_the_reading_of_others(kind: str, spec: Any, record: Any, event: Any) -> None:
    action = next(action for known, action in ACTIONS if known == kind)
    good = {"action": action, "stressors": {action: {}}, action: True}
    whole = {"id": "shop/cart-7c9f8d6b5f-2bqlm", "events": [event]}
    bodies = [
        {"kind": kind, "metadata": {"name": "a"}, "spec": good, "status": {"experiment": {"containerRecords": [each]}}}
        for each in (record, whole)
    ]
    bodies.append({"kind": kind, "metadata": record, "spec": spec, "status": event})
    found, remarks = seen_in(Resources([*bodies, _GOOD]))
    assert "network_delay" in {each.fault_kind for each in found}
    assert len(found) > 3 or remarks


def test_files_of_other_things_are_refused(tmp_path: Path) -> None:
    for text, message in (
        ("a: [", "expected YAML or JSON"),
        ("3", "expected resources of Chaos Mesh"),
        ("", "expected resources"),
    ):
        with pytest.raises(BadInput, match=message):
            resources_in(written(tmp_path, "a.yaml", text))
    with pytest.raises(BadInput, match="No such file"):
        resources_in(tmp_path / "none.yaml")
    listed = yaml.safe_load(CHAOS.read_text())
    as_json = written(tmp_path, "a.json", json.dumps({**listed, "kind": "PodChaosList"}))
    assert len(resources_in(as_json).bodies) == len(listed["items"])


def test_a_cluster_tells_whose_pod_it_was(kubernetes_api: KubernetesApi, tmp_path: Path) -> None:
    names = {"NetworkChaos": "networkchaos", "PodChaos": "podchaos", "StressChaos": "stresschaos"}
    for body in yaml.safe_load(CHAOS.read_text())["items"]:
        if body["kind"] in names:
            kubernetes_api.add(names[body["kind"]], body)
    pods = template("payments-api", "payments:1.0")
    owner = kubernetes_api.add("deployments", deployment("payment", pods))
    replicas = kubernetes_api.add("replicasets", replica_set(owner, "6d5f9c7b8x", 1, pods))
    kubernetes_api.add("pods", pod("payment-6d5f9c7b8x-x2k4q", pods, owner=owned_by(replicas, "ReplicaSet")))
    config = KubernetesConfig(kubeconfig=kubernetes_api.kubeconfig(tmp_path), namespaces=("shop",))
    found, _ = seen_in(resources_of(config))
    assert found[0].names == ("payments-api", "payment")  # of the other pod, which is gone, the replica set tells
    assert [each.target for each in found] == ["payments-api", "cart", "search", "search"]
    assert {asked.verb for asked in kubernetes_api.asked} == {"list"}

    kubernetes_api.faults.forbidden = {("chaos-mesh.org", "podchaos")}
    found, remarks = seen_in(resources_of(config))
    assert "cart" not in {each.target for each in found}
    assert "add the rule" in remarks[0]
    kubernetes_api.faults.forbidden = {
        ("chaos-mesh.org", name) for name in ("podchaos", "networkchaos", "stresschaos", "iochaos")
    }
    kubernetes_api.faults.forbidden |= {("chaos-mesh.org", name) for name in ("dnschaos", "timechaos", "httpchaos")}
    with pytest.raises(Rejected, match=r'podchaos is forbidden.*add the rule \{apiGroups: \["chaos-mesh.org"\]'):
        resources_of(config)


# --- flagd ------------------------------------------------------------------------------------------------------------


class FlagFile:
    """A file of flags that somebody edits."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "flags.json"
        self.body = json.loads((FIXTURES / "demo.flagd.json").read_text())
        self.write()

    def turn(self, name: str, variant: str) -> None:
        self.body["flags"].setdefault(name, {"variants": {"on": True, "off": False}})["defaultVariant"] = variant
        self.write()

    def write(self) -> None:
        self.path.write_text(json.dumps(self.body), encoding="utf-8")


def test_a_flag_that_is_turned_on_begins_an_injection(tmp_path: Path) -> None:
    file = FlagFile(tmp_path)
    flags = Flags(str(file.path))
    assert flags.look(at(0)) == (at(0), [], [], [])
    file.turn("paymentFailure", "50%")
    file.turn("loadGeneratorVUs", "10")
    _, (begun,), ended, remarks = flags.look(at(10))
    assert (begun.fault_kind, begun.target, begun.start_ns, begun.end_ns) == ("exception", "payment", at(10), None)
    assert (begun.note, ended) == ("flag paymentFailure, 50%", [])
    assert remarks == ["10:00:10  flag loadGeneratorVUs became 10, which stands for no fault kind"]
    file.turn("paymentFailure", "100%")  # another strength is another injection
    file.turn("adServiceHighCpu", "on")  # as releases before 2.0 call it
    _, begun_now, (ended_now,), _ = flags.look(at(20))
    assert [each.note for each in begun_now] == ["flag adServiceHighCpu, on", "flag paymentFailure, 100%"]
    assert (ended_now.note, ended_now.start_ns, ended_now.end_ns) == ("flag paymentFailure, 50%", at(10), at(20))
    file.turn("paymentFailure", "off")
    assert [each.end_ns for each in flags.look(at(30)).ended] == [at(30)]
    assert [each.note for each in flags.stop(at(40))] == ["flag adServiceHighCpu, on, still on when watching ended"]


def test_flags_that_were_on_before_are_told_and_left_out(tmp_path: Path) -> None:
    file = FlagFile(tmp_path)
    file.turn("adHighCpu", "on")
    flags = Flags(str(file.path))
    assert flags.already_on() == ["adHighCpu"]
    file.turn("adHighCpu", "off")
    assert flags.look(at(0)) == (at(0), [], [], [])


def test_a_source_that_fails_for_a_while_loses_nothing(tmp_path: Path) -> None:
    file = FlagFile(tmp_path)
    flags = Flags(str(file.path))
    file.turn("kafkaQueueProblems", "on")
    flags.look(at(0))
    file.path.write_text('{"flags": {"half')
    assert flags.look(at(1)).remarks[0].startswith("flags cannot be read: ")
    assert not flags.look(at(2)).remarks  # told once
    file.turn("kafkaQueueProblems", "off")
    assert [each.end_ns for each in flags.look(at(3)).ended] == [at(3)]


def test_flags_come_from_an_address_too(tmp_path: Path) -> None:
    text = FlagFile(tmp_path).path.read_bytes()
    with serving(lambda path, _query: Answer(text) if path == "/flags" else Answer(b"no", 404)) as server:
        found = variants_of(f"{server.url}/flags")
        assert found == dict.fromkeys(json.loads(text)["flags"], "off") | {"loadGeneratorVUs": "5"}  # one is disabled
        with pytest.raises(Rejected, match="expected the flags of flagd, found HTTP 404"):
            variants_of(f"{server.url}/other")
    with pytest.raises(Unavailable, match=server.url):
        variants_of(f"{server.url}/flags")


def test_an_address_that_breaks_off_or_never_ends_is_told_and_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = FlagFile(tmp_path)
    with faulty(lambda _: Reply(file.path.read_bytes())) as server:
        flags = Flags(server.url)
        server.reply = lambda _: Reply(file.path.read_bytes(), cut=9)
        assert flags.look(at(0)).remarks[0].startswith(f"flags cannot be read: {server.url}: ")
        monkeypatch.setattr("rca.gameday.flagd._TIMEOUT_S", 0.3)
        server.reply = lambda _: Reply(file.path.read_bytes(), drip=True)
        with pytest.raises(Unavailable, match="the answer had not ended when time was up"):
            variants_of(server.url)
        server.reply = lambda _: Reply(file.path.read_bytes())
        file.turn("paymentFailure", "50%")
        assert [each.target for each in flags.look(at(1)).begun] == ["payment"]


def test_flags_that_are_none_are_refused(tmp_path: Path) -> None:
    for text in ("[]", "{}", '{"flags": {"a": {}}}', "nothing", "[" * 100_000):
        with pytest.raises(BadInput, match=r"expected flags of flagd, \{\"flags\""):
            variants_of(str(written(tmp_path, "a.json", text)))
    with pytest.raises(BadInput, match="expected the flags of flagd, a file or an address, found No such file"):
        variants_of(str(tmp_path / "none.json"))


def test_every_flag_stands_for_a_fault_kind_of_a_service() -> None:
    for flag in FLAGS.values():
        assert flag.fault_kind in FAULT_KINDS
        assert bool(flag.services) != is_no_fault(flag.fault_kind)
    assert flag_of("recommendationServiceCacheFailure") == FLAGS["recommendationCacheFailure"]
    assert flag_of("loadgeneratorFloodHomepage") == FLAGS["loadGeneratorFloodHomepage"]
    assert flag_of("loadGeneratorVUs") is None


def test_the_page_names_every_action_and_flag() -> None:
    page = (Path(__file__).parents[1] / "docs" / "gameday.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("| ")]
    for (kind, action), fault in ACTIONS.items():
        named = "" if kind == "TimeChaos" else f"`{action}`"
        assert any(named in row[1] and row[2].partition(",")[0] == fault for row in rows if len(row) == 3), (kind, action)
    for name, flag in FLAGS.items():
        (row,) = [row for row in rows if row[0] == f"`{name}`"]
        assert row[1] == flag.fault_kind
        assert row[2].startswith(flag.services[0] if flag.services else "nobody")
