"""The Nezha importer, on a small imitation of its layout and on the data set itself."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from rca.collectors.files import FORMATS
from rca.collectors.files.reading import ReadOptions
from rca.errors import BadInput, BadTelemetry
from rca.incidents.incident import Incident
from rca.telemetry import MINUTE_NS, SECOND_NS, Interval, Telemetry

DAY = "2031-05-06"
SHOP, CART = "shop-6d5c9f7b8-x2x4q", "cart-7f7d5b9c4-9zkwp"
NOON_NS = int(datetime(2031, 5, 6, 12, tzinfo=UTC).timestamp()) * SECOND_NS
INJECTIONS = (NOON_NS + 10 * MINUTE_NS, NOON_NS + 40 * MINUTE_NS)
read = FORMATS["nezha"].read


def clock(ns: int, fraction: str = "") -> str:
    return datetime.fromtimestamp(ns / SECOND_NS, UTC).strftime("%Y-%m-%d %H:%M:%S") + fraction


def spans_csv(at_ns: int, trace: str) -> list[str]:
    return [
        f"{trace},aa01,root,{SHOP},GET /,{at_ns},{at_ns + 9_000_000},9000",
        f"{trace},aa02,aa01,{SHOP},/cart.Cart/Get,{at_ns + 1_000_000},{at_ns + 8_000_000},7000",
        f"{trace},aa03,aa02,{CART},cart.Cart/Get,{at_ns + 2_000_000},{at_ns + 7_000_000},5000",
    ]


def log_csv(at_ns: int, trace: str, level: str, text: str) -> str:
    stamp = clock(at_ns, ".120456789Z").replace(" ", "T")
    line = f"09:09:09.120 {level} c.CartStore#12 TraceID: {trace} SpanID: aa03 {text}\n"
    body = json.dumps({"log": line, "stream": "stdout", "time": stamp}).replace('"', '""')
    return f'{stamp},{at_ns},10.0.0.1,{CART},server,{trace},aa03,"{body}"'


def write(path: Path, rows: list[str], zipped: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(rows) + "\n"
    if zipped:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)


@pytest.fixture
def nezha(tmp_path: Path) -> Path:
    """Two injections, each with one minute of spans before and one after; the second has a minute file missing."""
    folder = tmp_path / "rca_data" / DAY
    span_header = "TraceID,SpanID,ParentID,PodName,OperationName,StartTimeUnixNano,EndTimeUnixNano,Duration"
    log_header = "Timestamp,TimeUnixNano,Node,PodName,Container,TraceID,SpanID,Log"
    for k, at_ns in enumerate(INJECTIONS):
        before, after = at_ns - 210 * SECOND_NS, at_ns + 30 * SECOND_NS
        for name, start in (("before", before), ("after", after)):
            minute = clock(start + 45 * SECOND_NS)[11:16].replace(":", "_")  # named after the minute that ends the file
            write(folder / "traceid" / f"{minute}_traceid.csv", [f"t{k}{name}"])
            if (k, name) == (1, "after"):
                continue
            rows = [row for i in range(3) for row in spans_csv(start + i * SECOND_NS, f"{k}{name}{i}")]
            write(folder / "trace" / f"{minute}_trace.csv", [span_header, *rows, *rows[:3]], zipped=k == 0)
            logs = [log_csv(start + i * SECOND_NS, f"{k}{name}{i}", "INFO ", f"[get][cart {i} found]") for i in range(3)]
            logs += [logs[0], log_csv(start, f"{k}{name}0", "ERROR", "[get][no cart for user 77]")]
            if k == 0 and name == "after":
                logs[-1] = logs[-1].replace(f",{start},", ",-6795364578871345152,", 1).replace("Z,", ",", 1)
                logs.append(f'oops,{start},"{{broken",a,b,c,d,e,f,g')
            write(folder / "log" / f"{minute}_log.csv", [log_header, *logs])
    for pod, offset in ((SHOP, 0), (CART, 200_000_000)):
        header = "Time,TimeStamp,PodName,CpuUsage(m),CpuUsageRate(%),SyscallRead,PodServerLatencyP90(s),PodSuccessRate(%)"
        rows = [
            f"{clock(at, '.6 +0000 UTC m=+0.1')},{at // SECOND_NS + offset},{pod},{i}.5,{i},0,{'NaN' if i == 3 else i / 10},0"
            for i, at in enumerate(range(NOON_NS, NOON_NS + 60 * MINUTE_NS, MINUTE_NS))
        ]
        write(folder / "metric" / f"{pod}_metric.csv", [header, *rows], zipped=True)
    edges = [f"{clock(at, '.02 +0000 UTC m=+0.5')},1,0.{i + 10}" for i, at in enumerate(INJECTIONS)]
    write(folder / "metric" / "source_50.csv", ["time,timestamp,shop_cart", *edges])
    write(folder / "metric" / "dependency.csv", ["Source,Target,Weight", "shop,cart,1", "shop,10.0.0.7,1"])
    faults = [
        {"inject_time": clock(at), "inject_timestamp": "17", "inject_pod": CART, "inject_type": kind}
        for at, kind in zip(INJECTIONS, ("network_delay", "exception"), strict=True)
    ]
    write(folder / f"{DAY}-fault_list.json", [json.dumps({"12": faults})])
    return tmp_path


def incidents(path: Path, **options: object) -> list[tuple[Incident, Telemetry]]:
    return list(read(path, ReadOptions(**options)))  # type: ignore[arg-type]


def test_labels_window_and_baselines(nezha: Path) -> None:
    (first, _), (second, _) = incidents(nezha)
    assert first.window.interval() == Interval(INJECTIONS[0], INJECTIONS[0] + 3 * MINUTE_NS)
    assert [str(cause) for cause in first.causes()] == ["service:cart"]
    assert (first.fault_kind(), second.fault_kind()) == ("network_delay", "exception")
    assert first.labels[0].provenance == "injected"
    assert first.onset_ns == INJECTIONS[0]
    assert {baseline.provenance for baseline in first.baselines} == {"reference"}
    for incident in (first, second):
        for baseline in incident.baselines:
            for at_ns in INJECTIONS:
                assert not baseline.interval().overlaps(Interval(at_ns, at_ns + 5 * MINUTE_NS))
            assert not baseline.interval().overlaps(Interval(incident.window.start_ns - 140 * SECOND_NS, incident.window.end_ns))


def test_spans_are_deduplicated_and_timed_by_their_content(nezha: Path) -> None:
    incident, telemetry = incidents(nezha)[0]
    spans = telemetry.spans
    assert not spans.select("trace_id", "span_id").is_duplicated().any()
    starts = spans["start_time_unix_nano"]
    assert starts.is_between(incident.window.start_ns, incident.window.end_ns).sum() == 9
    assert sum(starts.is_between(baseline.start_ns, baseline.end_ns).sum() for baseline in incident.baselines) == 18
    assert spans["service.name"].unique().sort().to_list() == ["cart", "shop"]
    assert spans.filter(pl.col("parent_span_id").is_null())["span_id"].unique().to_list() == ["aa01"]


def test_missing_minute_and_garbled_rows_are_gaps(nezha: Path) -> None:
    second = incidents(nezha)[1][1]
    missing = [gap for gap in second.gaps if gap.source == "spans" and "absent" in gap.reason]
    assert len(missing) == 1
    interval = missing[0].interval
    assert interval is not None
    assert interval.overlaps(Interval(INJECTIONS[1] + 30 * SECOND_NS, INJECTIONS[1] + 33 * SECOND_NS))
    unrecorded = [gap.interval for gap in second.gaps if gap.reason == "not recorded"]
    assert [round(part.seconds) for part in unrecorded if part] == [30, 90]
    assert any("1 garbled" in gap.reason for gap in second.gaps)


def test_logs_become_counts_of_templates(nezha: Path) -> None:
    incident, telemetry = incidents(nezha)[0]
    start = incident.window.start_ns
    logs = telemetry.logs.filter(pl.col("time_unix_nano").is_between(start, incident.window.end_ns))
    found = {(r["severity"], r["template"]): (r["count"], r["operation"], r["time_unix_nano"]) for r in logs.rows(named=True)}
    at_ns = start + 30 * SECOND_NS
    assert found == {
        ("INFO", "c.CartStore#12 [get][cart <*> found]"): (3, "cart.Cart/Get", at_ns),
        ("ERROR", "c.CartStore#12 [get][no cart for user <*>]"): (1, "cart.Cart/Get", at_ns),
    }


def test_templates_are_the_same_in_every_incident(nezha: Path) -> None:
    first, second = (telemetry.logs["template"].unique().sort().to_list() for _, telemetry in incidents(nezha))
    assert first == second


def test_metrics_are_named_scaled_and_without_constants(nezha: Path) -> None:
    _, telemetry = incidents(nezha)[0]
    cart = telemetry.metrics.filter(pl.col("entity") == CART)
    assert cart["metric"].unique().sort().to_list() == [
        "container.cpu.usage",
        "container.cpu.utilization",
        "server.request.duration.p90",
    ]
    first_minute = cart.filter(pl.col("metric") == "container.cpu.usage").sort("time_unix_nano").row(0, named=True)
    assert first_minute["time_unix_nano"] % MINUTE_NS == 0  # from `Time`: the `TimeStamp` of this pod is years off
    assert first_minute["value"] == pytest.approx((first_minute["time_unix_nano"] - NOON_NS) / MINUTE_NS / 1000 + 0.0005)
    assert telemetry.calls.select("caller", "callee", "metric").unique().row(0) == ("shop", "cart", "call.client.duration.p50")
    assert set(telemetry.topology.select("source", "relation", "target").rows()) == {
        ("shop", "calls", "cart"),
        ("shop", "runs", SHOP),
        ("cart", "runs", CART),
    }


def test_baseline_past_looks_back_only(nezha: Path) -> None:
    first, second = incidents(nezha, baseline="past", window_ns=5 * MINUTE_NS)
    assert second[0].window.interval().seconds == 300
    assert max(b.end_ns for b in second[0].baselines) <= INJECTIONS[1]
    assert first[0].baselines


def test_no_quiet_time_is_said(nezha: Path) -> None:
    for file in (nezha / "rca_data" / DAY / "metric").glob("*"):
        file.unlink()
    for file in (nezha / "rca_data" / DAY / "trace").glob("*"):
        file.unlink()
    for incident, telemetry in incidents(nezha):
        assert incident.baselines == ()
        assert any(gap.source == "baseline" for gap in telemetry.gaps)


def test_our_label_table_wins_over_fault_lists(nezha: Path) -> None:
    write(
        nezha / "incidents.csv",
        [
            "incident_id,system,day,service,pod,fault_type,inject_time_utc,minute_files",
            f"mine-00,myshop,{DAY},cart,{CART},return,{clock(INJECTIONS[0]).replace(' ', 'T')}Z,12_09 12_10",
        ],
    )
    ((incident, _),) = incidents(nezha)
    assert (incident.id, incident.system, incident.fault_kind()) == ("mine-00", "myshop", "return")


def test_bad_input_is_named(nezha: Path, tmp_path: Path) -> None:
    trace = next((nezha / "rca_data" / DAY / "trace").glob("*.csv"))
    trace.write_text("TraceID,SpanID\n1,2\n")
    with pytest.raises(BadTelemetry, match="expected columns ParentID"):
        incidents(nezha)
    trace.unlink()
    zipped = next((nezha / "rca_data" / DAY / "trace").glob("*.gz"))
    zipped.write_bytes(zipped.read_bytes()[:40])
    with pytest.raises(BadTelemetry, match="expected a readable CSV file"):
        incidents(nezha)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadTelemetry, match=r"fault_list\.json"):
        incidents(tmp_path / "empty")


def test_options_of_other_formats_are_refused() -> None:
    with pytest.raises(BadInput, match="found start_ns"):
        FORMATS["nezha"].check(ReadOptions(start_ns=1))


@pytest.mark.data
def test_the_data_set(data_dir: Path) -> None:
    kinds: Counter[tuple[str, str]] = Counter()
    for incident, telemetry in read(data_dir / "nezha"):
        kinds[incident.system, incident.fault_kind()] += 1
        assert incident.baselines
        assert not telemetry.metrics.is_empty()
        services = set(telemetry.topology.filter(pl.col("relation") == "runs")["source"])
        assert incident.causes()[0].name in services
        if incident.id == "trainticket-2023-01-29-00":
            assert not telemetry.spans.select("trace_id", "span_id").is_duplicated().any()
            assert telemetry.logs["template"].n_unique() < 400
    assert sum(kinds.values()) == 52
    assert kinds == {
        ("onlineboutique", "cpu_contention"): 8,
        ("onlineboutique", "cpu_consumed"): 3,
        ("onlineboutique", "network_delay"): 7,
        ("onlineboutique", "return"): 3,
        ("onlineboutique", "exception"): 3,
        ("trainticket", "cpu_contention"): 4,
        ("trainticket", "return"): 11,
        ("trainticket", "exception"): 13,
    }
