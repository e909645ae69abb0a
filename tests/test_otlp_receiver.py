"""The receiver's manners: who is let in, what is refused and how the sender is told, and that every count is exact."""

from __future__ import annotations

import gzip
import json
import resource
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import requests
from google.protobuf.json_format import ParseDict
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from rca.collectors.otlp import http_server
from rca.collectors.otlp.config import OtlpConfig
from rca.collectors.otlp.desk import Desk
from rca.collectors.otlp.intake import Accounting
from rca.collectors.otlp.receiver import Receiver
from rca.collectors.otlp.request import Request
from rca.errors import BadInput, Overloaded, StorageFull
from tests.receiving import JSON, NOW_NS, PROTOBUF, Keeping, Running, as_json, gauges, lines, running, span, traces
from tests.servers.certificates import self_signed

METHODS = {
    "spans": "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    "metrics": "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
    "logs": "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
}
PATHS = {"spans": "/v1/traces", "metrics": "/v1/metrics", "logs": "/v1/logs"}
RESPONSES = {"spans": ExportTraceServiceResponse, "metrics": ExportMetricsServiceResponse, "logs": ExportLogsServiceResponse}
MESSAGES = {"spans": traces([span(1)]), "metrics": gauges({"a": 1.0}), "logs": lines(["hello"])}
SIGNALS = pytest.mark.parametrize("signal", ["spans", "metrics", "logs"])


@pytest.fixture(scope="module")
def shared() -> Iterator[Running]:
    """One receiver with small limits for tests that leave it as it was."""
    with running(max_body_bytes="64KiB") as found:
        yield found


def post(url: str, body: bytes, content_type: str | None = PROTOBUF, **headers: str) -> requests.Response:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    if content_type:
        given["Content-Type"] = content_type
    return requests.post(url, data=body, headers=given, timeout=10)


def call(target: str, method: str, body: bytes, *, token: str = "", **options: Any) -> bytes:
    metadata = [("authorization", f"Bearer {token}")] if token else None
    with grpc.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        answer: bytes = channel.unary_unary(method)(body, timeout=10, metadata=metadata, **options)
    return answer


def status_in(error: grpc.RpcError) -> Status:
    trailing = dict(error.trailing_metadata())  # type: ignore[attr-defined]
    return Status.FromString(trailing["grpc-status-details-bin"])


# --- what is taken ------------------------------------------------------------------------------------------------


@SIGNALS
def test_everything_taken_is_an_empty_answer_in_the_encoding_of_the_request(shared: Running, signal: str) -> None:
    message, url = MESSAGES[signal], shared.http + PATHS[signal]
    answer = post(url, message.SerializeToString())
    assert (answer.status_code, answer.headers["content-type"], answer.content) == (200, PROTOBUF, b"")
    answer = post(url, json.dumps(as_json(message)).encode(), f"{JSON}; charset=utf-8")
    assert (answer.status_code, answer.headers["content-type"], answer.json()) == (200, JSON, {})
    answer = post(url, gzip.compress(message.SerializeToString()), Content_Encoding="gzip")
    assert (answer.status_code, answer.content) == (200, b"")
    assert call(shared.grpc, METHODS[signal], message.SerializeToString()) == b""
    assert call(shared.grpc, METHODS[signal], message.SerializeToString(), compression=grpc.Compression.Gzip) == b""


@SIGNALS
def test_empty_requests_succeed(shared: Running, signal: str) -> None:
    assert post(shared.http + PATHS[signal], b"").status_code == 200
    assert post(shared.http + PATHS[signal], b"{}", JSON).json() == {}
    assert call(shared.grpc, METHODS[signal], b"") == b""


def test_partial_success_says_how_many_and_why() -> None:
    wrong = {
        "spans": (traces([span(1), span(2, end_time_unix_nano=1)]), "rejected_spans"),
        "metrics": (gauges({"a": 1.0, "b": 2.0}, time_ns=5), "rejected_data_points"),
        "logs": (lines(["a", "b", "c"], time_ns=2**62), "rejected_log_records"),
    }
    with running() as found:
        for signal, (message, field) in wrong.items():
            count = {"spans": 1, "metrics": 2, "logs": 3}[signal]
            answers = [
                RESPONSES[signal].FromString(call(found.grpc, METHODS[signal], message.SerializeToString())),
                RESPONSES[signal].FromString(post(found.http + PATHS[signal], message.SerializeToString()).content),
                ParseDict(
                    post(found.http + PATHS[signal], json.dumps(as_json(message)).encode(), JSON).json(), RESPONSES[signal]()
                ),
            ]
            for answer in answers:
                assert getattr(answer.partial_success, field) == count
                assert answer.partial_success.error_message.startswith(f"{count} ")
                assert "nanoseconds" in answer.partial_success.error_message
            assert found.count("rejected", signal) == 3 * count
            assert found.count("requests", signal, "partly taken") == 3
        assert found.count("accepted", "spans") == 3


def test_the_same_batch_twice_is_taken_twice(shared: Running) -> None:
    """Whether a span was seen before is for the intake to know; the sender must not be told that its retry failed."""
    for _ in range(2):
        assert post(shared.http + "/v1/traces", MESSAGES["spans"].SerializeToString()).content == b""


# --- what is refused ----------------------------------------------------------------------------------------------


@SIGNALS
def test_bad_data(shared: Running, signal: str) -> None:
    before = shared.count("requests", signal, "malformed")
    answer = post(shared.http + PATHS[signal], b"\xff\xff\xff")
    assert (answer.status_code, answer.headers["content-type"]) == (400, PROTOBUF)
    status = Status.FromString(answer.content)
    assert (status.code, "expected an export request" in status.message) == (3, True)
    answer = post(shared.http + PATHS[signal], b'{"resourceSpans', JSON)
    assert (answer.status_code, answer.headers["content-type"], answer.json()["code"]) == (400, JSON, 3)
    with pytest.raises(grpc.RpcError) as error:
        call(shared.grpc, METHODS[signal], b"\xff\xff\xff")
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert status_in(error.value).code == 3
    assert shared.count("requests", signal, "malformed") == before + 3


def test_wrong_paths_methods_and_types(shared: Running) -> None:
    body = MESSAGES["spans"].SerializeToString()
    assert post(shared.http + "/v1/spans", body).status_code == 404
    assert requests.get(shared.http + "/v1/traces", timeout=5).status_code == 405
    for content_type in (None, "text/plain", "application/grpc"):
        answer = post(shared.http + "/v1/traces", body, content_type)
        assert (answer.status_code, "application/x-protobuf" in answer.json()["message"]) == (415, True)
    assert post(shared.http + "/v1/traces", body, Content_Encoding="br").status_code == 415
    with pytest.raises(grpc.RpcError) as error:
        call(shared.grpc, "/opentelemetry.proto.collector.trace.v1.TraceService/Import", body)
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_damaged_gzip(shared: Running) -> None:
    packed = gzip.compress(MESSAGES["spans"].SerializeToString())
    damaged = {"cut off": packed[:-9], "no gzip": b"hello", "wrong sum": packed[:-8] + b"\0" * 8, "rest": packed + b"xyz"}
    for what, body in damaged.items():
        answer = post(shared.http + "/v1/traces", body, Content_Encoding="gzip")
        assert (what, answer.status_code, Status.FromString(answer.content).code) == (what, 400, 3)
    two = gzip.compress(MESSAGES["spans"].SerializeToString()) + gzip.compress(b"")
    assert post(shared.http + "/v1/traces", two, Content_Encoding="gzip").status_code == 200


def test_bodies_that_are_too_large(shared: Running) -> None:
    large = traces([span(1, name="x" * 70_000)]).SerializeToString()
    answer = post(shared.http + "/v1/traces", large)
    assert answer.status_code == 413  # none of the codes that senders try again on
    assert "max_body_bytes" in Status.FromString(answer.content).message
    with pytest.raises(grpc.RpcError) as error:
        call(shared.grpc, METHODS["spans"], large)
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "retry" not in str(error.value.trailing_metadata())  # so that senders give it up
    assert shared.count("requests", "spans", "too large") >= 1


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_zip_bombs_stop_early(transport: str) -> None:
    """400 MB of zeros in 400 kB: neither read to the end nor held in memory."""
    with running(max_body_bytes="4MiB") as found:
        peak, stop = [_resident_bytes()], threading.Event()

        def watch() -> None:
            while not stop.wait(0.005):
                peak.append(_resident_bytes())

        if transport == "http":
            packer = zlib.compressobj(9, zlib.DEFLATED, 31)
            bomb = b"".join([*(packer.compress(bytes(4_000_000)) for _ in range(100)), packer.flush()])
        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            if transport == "http":
                assert post(found.http + "/v1/traces", bomb, Content_Encoding="gzip").status_code == 413
                assert max(peak) - peak[0] < 60 * 2**20
            else:
                with pytest.raises(grpc.RpcError) as error:
                    call(found.grpc, METHODS["spans"], bytes(50_000_000), compression=grpc.Compression.Gzip)
                assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        finally:
            stop.set()
            watcher.join()
        assert found.intake.batches == []


def test_a_sender_that_goes_away_harms_nobody(shared: Running) -> None:
    with socket.create_connection(("127.0.0.1", shared.receiver.http_port or 0)) as half:
        half.sendall(
            b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\nContent-Length: 999\r\n\r\nabc"
        )
    with socket.create_connection(("127.0.0.1", shared.receiver.http_port or 0)) as noise:
        noise.sendall(b"\x16\x03\x01nonsense\r\n\r\n")
    with socket.create_connection(("127.0.0.1", shared.receiver.grpc_port or 0)) as noise:
        noise.sendall(b"GET / HTTP/1.1\r\n\r\n")
    assert post(shared.http + "/v1/traces", MESSAGES["spans"].SerializeToString()).status_code == 200


def test_a_body_that_does_not_arrive_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "_BODY_SECONDS", 0.1)
    with running(max_pending_bytes="64KiB", max_body_bytes="64KiB", max_batch_bytes="64KiB") as found:
        with socket.create_connection(("127.0.0.1", found.receiver.http_port or 0), timeout=10) as slow:
            head = b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\nContent-Length: 60000\r\n\r\n"
            slow.sendall(head + bytes(50_000))
            assert slow.recv(100).startswith(b"HTTP/1.1 408 ")
        assert found.count("requests", "spans", "broken off") == 1
        full = traces([span(1, name="x" * 50_000)]).SerializeToString()
        assert post(found.http + "/v1/traces", full).status_code == 200  # the room was given back


@given(
    body=st.binary(max_size=200),
    content_type=st.sampled_from([PROTOBUF, JSON, "text/plain", "application/json;;", ""]),
    encoding=st.sampled_from(["gzip", "identity", "br", "GZIP", ""]),
    packed=st.booleans(),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_posted_is_answered(shared: Running, body: bytes, content_type: str, encoding: str, packed: bool) -> None:
    answer = post(shared.http + "/v1/logs", gzip.compress(body) if packed else body, content_type, Content_Encoding=encoding)
    assert answer.status_code in (200, 400, 415)


# --- when there is no room ----------------------------------------------------------------------------------------


def _refused_by_both(found: Running) -> tuple[requests.Response, grpc.RpcError]:
    body = MESSAGES["spans"].SerializeToString()
    answer = post(found.http + "/v1/traces", body)
    with pytest.raises(grpc.RpcError) as error:
        call(found.grpc, METHODS["spans"], body)
    return answer, error.value


def _retry_seconds(status: Status) -> float:
    info = RetryInfo()
    assert status.details[0].Unpack(info)
    return float(info.retry_delay.ToMilliseconds() / 1000)


def test_an_intake_that_is_full_tells_senders_when_to_come_back() -> None:
    with running() as found:
        found.intake.full = Overloaded("the store is behind", retry_after_s=7.5)
        answer, error = _refused_by_both(found)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "8")
        assert Status.FromString(answer.content).code == 14
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert _retry_seconds(status_in(error)) == 7.5
        assert found.count("requests", "spans", "told to come back later") == 2
        assert found.count("received", "spans") == 0
        found.intake.full = None
        assert call(found.grpc, METHODS["spans"], MESSAGES["spans"].SerializeToString()) == b""


def test_an_intake_that_fails_keeps_the_books_balanced() -> None:
    with running() as found:
        found.intake.broken = StorageFull("no space left")
        answer, error = _refused_by_both(found)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert found.count("received", "spans") == found.count("refused", "spans") == 2


def test_a_bug_in_the_intake_is_answered_and_survived(caplog: pytest.LogCaptureFixture) -> None:
    with running() as found:
        found.intake.broken = ZeroDivisionError("oops")  # type: ignore[assignment]
        answer, error = _refused_by_both(found)
        assert (answer.status_code, error.code()) == (500, grpc.StatusCode.INTERNAL)
        assert "oops" not in answer.text
        found.intake.broken = None
        assert call(found.grpc, METHODS["spans"], MESSAGES["spans"].SerializeToString()) == b""
    assert "could not be taken in" in caplog.text


def test_a_sender_that_is_given_up_harms_nobody_else() -> None:
    """The HTTP listener cancels what is still under way when its grace is over."""
    intake = Keeping()
    intake.gate.clear()
    desk = Desk(OtlpConfig(), intake, Accounting(), clock=lambda: NOW_NS)
    futures = [desk.submit(Request("spans", traces([span(number)]).SerializeToString())) for number in (1, 2)]
    assert futures[0].cancel()
    intake.gate.set()
    assert futures[1].result(timeout=10).accepted == 1
    desk.close()
    assert desk.accounting.total("accepted", "spans") == intake.frame("spans").height == 2


def _eventually(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_requests_wait_only_as_long_as_they_fit_into_memory() -> None:
    body = traces([span(n, name="x" * 1000) for n in range(1, 101)]).SerializeToString()  # 105 kB
    with running(max_body_bytes="128KiB", max_batch_bytes="128KiB", max_pending_bytes="256KiB") as found:
        found.intake.gate.clear()
        answers: list[int] = []
        senders = [
            threading.Thread(target=lambda: answers.append(post(found.http + "/v1/traces", body).status_code)) for _ in range(5)
        ]
        for sender in senders:
            sender.start()
        _eventually(lambda: len(answers) == 3)
        assert answers == [503] * 3
        found.intake.gate.set()
        for sender in senders:
            sender.join()
        assert sorted(answers) == [200, 200, 503, 503, 503]
        assert found.count("accepted", "spans") == 200
        assert found.count("requests", "spans", "told to come back later") == 3
        assert found.count("calls", "spans") == found.count("requests", "spans") == 5
        assert post(found.http + "/v1/traces", body).status_code == 200  # the room was given back


def test_what_waits_together_is_decoded_together() -> None:
    with running() as found:
        found.intake.gate.clear()
        senders = [
            threading.Thread(target=call, args=(found.grpc, METHODS["spans"], traces([span(n)]).SerializeToString()))
            for n in range(1, 9)
        ]
        for sender in senders:
            sender.start()
        _eventually(lambda: found.count("calls", "spans") == 8)
        time.sleep(0.1)  # the last one's body is on its way
        found.intake.gate.set()
        for sender in senders:
            sender.join()
        assert len(found.intake.batches) < 8
        assert found.intake.frame("spans").height == found.count("accepted", "spans") == 8


def test_requests_under_way_are_finished_at_the_end() -> None:
    intake = Keeping()
    intake.gate.clear()
    receiver = Receiver(OtlpConfig(grpc_address="127.0.0.1:0", http_address="127.0.0.1:0"), intake, clock=lambda: NOW_NS)
    answers: list[Any] = []
    body = MESSAGES["spans"].SerializeToString()
    senders = [
        threading.Thread(
            target=lambda: answers.append(post(f"http://127.0.0.1:{receiver.http_port}/v1/traces", body).status_code)
        ),
        threading.Thread(target=lambda: answers.append(call(f"127.0.0.1:{receiver.grpc_port}", METHODS["spans"], body))),
    ]
    for sender in senders:
        sender.start()
    _eventually(lambda: receiver.accounting.total("calls", "spans") == 2)
    time.sleep(0.1)
    stopping = threading.Thread(target=receiver.stop)
    stopping.start()
    time.sleep(0.1)
    intake.gate.set()
    stopping.join()
    for sender in senders:
        sender.join()
    assert sorted(map(str, answers)) == ["200", "b''"]
    assert receiver.accounting.total("accepted", "spans") == 2
    with pytest.raises(requests.ConnectionError):
        post(f"http://127.0.0.1:{receiver.http_port}/v1/traces", body)


# --- who is let in ------------------------------------------------------------------------------------------------


def test_tokens_are_asked_for_and_rotate(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text("first\n", encoding="utf-8")
    body = MESSAGES["spans"].SerializeToString()
    with running(tokens_file=path) as found:

        def http(token: str) -> int:
            return post(found.http + "/v1/traces", body, Authorization=token).status_code

        assert http("Bearer first") == http("bearer first") == 200
        for wrong in ("Bearer second", "Bearer ", "Basic first", "Bearer first first", "Bearer \xe9"):
            assert http(wrong) == 401
        refused = post(found.http + "/v1/traces", body)
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert Status.FromString(refused.content).code == 16
        path.write_text("second\nthird\n", encoding="utf-8")
        assert [http(f"Bearer {token}") for token in ("first", "second", "third")] == [401, 200, 200]
        assert call(found.grpc, METHODS["spans"], body, token="third") == b""
        for token in ("first", ""):
            with pytest.raises(grpc.RpcError) as error:
                call(found.grpc, METHODS["spans"], body, token=token)
            assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
        path.unlink()
        assert http("Bearer second") == 503  # not the sender's fault: it may try again
        assert found.count("requests", "spans", "unauthorized") == 9
        assert found.count("calls", "spans") == found.count("requests", "spans")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for localhost that signs itself, and its key."""
    return self_signed(tmp_path_factory.mktemp("tls"))


def test_tls(certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    body = MESSAGES["spans"].SerializeToString()
    with running(tls={"cert_file": cert, "key_file": key}, shutdown_grace="1s") as found:
        url = f"https://localhost:{found.receiver.http_port}/v1/traces"
        answer = requests.post(url, data=body, headers={"Content-Type": PROTOBUF}, timeout=10, verify=str(cert))
        assert answer.status_code == 200
        credentials = grpc.ssl_channel_credentials(cert.read_bytes())
        with grpc.secure_channel(f"localhost:{found.receiver.grpc_port}", credentials) as channel:
            assert channel.unary_unary(METHODS["spans"])(body, timeout=10) == b""
        with pytest.raises(requests.ConnectionError):
            post(found.http + "/v1/traces", body)
        assert found.count("accepted", "spans") == 2


def test_clients_must_show_a_certificate_where_that_is_asked_for(certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    body = MESSAGES["spans"].SerializeToString()
    with running(tls={"cert_file": cert, "key_file": key, "client_ca_file": cert}, shutdown_grace="1s") as found:
        url = f"https://localhost:{found.receiver.http_port}/v1/traces"
        headers = {"Content-Type": PROTOBUF}
        with pytest.raises((requests.ConnectionError, ssl.SSLError)):
            requests.post(url, data=body, headers=headers, timeout=10, verify=str(cert))
        shown = requests.post(url, data=body, headers=headers, timeout=10, verify=str(cert), cert=(str(cert), str(key)))
        assert shown.status_code == 200
        with (
            grpc.secure_channel(
                f"localhost:{found.receiver.grpc_port}", grpc.ssl_channel_credentials(cert.read_bytes())
            ) as channel,
            pytest.raises(grpc.RpcError),
        ):
            channel.unary_unary(METHODS["spans"])(body, timeout=3)


# --- configuration ------------------------------------------------------------------------------------------------


def test_addresses_that_are_taken_or_wrong(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for field in ("grpc_address", "http_address"):
            with pytest.raises(BadInput, match=field):
                Receiver(OtlpConfig(**{"grpc_address": "", "http_address": "", field: address}), Keeping())
    for wrong in ("4317", "localhost", "a b:1", "host:port"):
        with pytest.raises(ValueError, match="grpc_address"):
            OtlpConfig(grpc_address=wrong)
    with pytest.raises(ValueError, match="both empty"):
        OtlpConfig(grpc_address="", http_address="")
    with pytest.raises(BadInput, match="tokens"):
        Receiver(OtlpConfig(tokens_file=tmp_path / "tokens"), Keeping())
    for field in ("grpc_address", "http_address"):
        addresses = {"grpc_address": "", "http_address": "", field: "127.0.0.1:0"}
        with pytest.raises(BadInput, match="tls"):
            Receiver(OtlpConfig(**addresses, tls={"cert_file": tmp_path / "no", "key_file": tmp_path / "no"}), Keeping())


def test_one_listener_may_be_turned_off() -> None:
    with running(grpc_address="") as found:
        assert found.receiver.grpc_port is None
        assert post(found.http + "/v1/traces", b"").status_code == 200
    with running(http_address="") as found:
        assert found.receiver.http_port is None
        assert call(found.grpc, METHODS["spans"], b"") == b""
