"""What asking a server has in common for collectors and sinks: late, cut off, hung up on, and with which certificates."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import requests

from rca.collectors.http import ask, session_for
from rca.errors import BadInput, Rejected, Unavailable
from rca.http import is_cut_off, parts_of, reason_of, session_with
from rca.settings import HttpSource, TlsSettings
from tests.servers.certificates import self_signed
from tests.servers.faulty import Reply, faulty
from tests.servers.hanging import hanging_up
from tests.servers.prometheus import free_port
from tests.servers.receivers import receiving


def failure(url: str, timeout_s: float = 5.0) -> requests.RequestException:
    """What is raised where an answer is asked for and read to its end."""
    with pytest.raises(requests.RequestException) as raised:
        read(url, timeout_s)
    return raised.value


def read(url: str, timeout_s: float = 5.0) -> list[bytes]:
    with session_with(TlsSettings()) as session, session.get(url, timeout=timeout_s, stream=True) as response:
        return list(parts_of(response))


def test_a_body_is_read_as_it_arrives() -> None:
    with faulty(lambda _: Reply(b"x" * 200_000)) as server:
        parts = read(server.url)
    assert b"".join(parts) == b"x" * 200_000
    assert len(parts) > 1


def test_why_there_was_no_answer() -> None:
    assert reason_of(failure(f"http://127.0.0.1:{free_port()}"), "?") == "connection refused"
    with faulty(lambda _: Reply(delay_s=5)) as server:
        assert reason_of(failure(server.url, 0.1), "?") == "no answer in time"
    with faulty(lambda _: Reply(b"some", cut=10)) as server:
        assert reason_of(failure(server.url), "?") == "the answer was cut off"
    assert reason_of(requests.RequestException("whatever"), "?") == "?"


def test_a_body_that_stops_is_late_and_no_lost_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=stall, args=(server,))
        thread.start()
        late = failure(f"http://127.0.0.1:{server.getsockname()[1]}", 0.2)
        thread.join(5)
    assert isinstance(late, requests.exceptions.ReadTimeout)
    assert reason_of(late, "?") == "no answer in time"


def stall(server: socket.socket) -> None:
    """Begin an answer, and wait until the other side hangs up."""
    line, _ = server.accept()
    with line:
        line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nsome")
        while line.recv(2000):
            pass


def test_a_certificate_that_nobody_knows_is_told_from_a_connection_that_broke(tmp_path: Path) -> None:
    with receiving(certificate=self_signed(tmp_path)) as receiver:
        unknown = failure(receiver.url)
    assert isinstance(unknown, requests.exceptions.SSLError)
    assert not is_cut_off(unknown)
    with hanging_up() as port:
        broken = failure(f"https://127.0.0.1:{port}")
        assert not isinstance(broken, requests.exceptions.SSLError) or is_cut_off(broken)
        source = HttpSource(url=f"https://127.0.0.1:{port}", retries=0)
        with pytest.raises(Unavailable), session_for(source) as session:
            ask(session, source, "/")
    with receiving(certificate=self_signed(tmp_path)) as receiver:
        source = HttpSource(url=receiver.url, retries=0)
        with pytest.raises(Rejected, match="TLS"), session_for(source) as session:
            ask(session, source, "/")


def test_a_session_trusts_its_settings_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    cert, key = self_signed(tmp_path)
    with faulty(lambda _: Reply(b"here")) as server, session_with(TlsSettings()) as session:
        assert session.get(server.url, timeout=5).content == b"here"
    with receiving(certificate=(cert, key)) as receiver, session_with(TlsSettings(ca_file=cert)) as session:
        assert session.post(receiver.url, timeout=5).ok
    assert session_with(TlsSettings(cert_file=cert, key_file=key)).cert == (str(cert), str(key))
    assert session_with(TlsSettings(insecure_skip_verify=True)).verify is False
    with pytest.raises(BadInput, match="expected a file with certificates"):
        session_with(TlsSettings(ca_file=tmp_path / "none"))


def test_it_loads_no_client_before_one_asks() -> None:
    code = "import sys, rca.http; print([name for name in ('requests', 'urllib3') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
