"""Messages arrive at receivers that speak Slack's, PagerDuty's and apprise's protocols, in good times and bad."""

from __future__ import annotations

import base64
import email
import hashlib
import io
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from rca.errors import BadInput, Overloaded, Rejected, Unavailable
from rca.sinks.destinations import sinks_of
from rca.sinks.example import example_notices, hostile_notice, unranked_notice
from rca.sinks.notice import Sink
from rca.testing import check_sink
from scripts.docs import ROOT
from tests.servers.certificates import self_signed
from tests.servers.faulty import Reply as Drip
from tests.servers.faulty import faulty
from tests.servers.hanging import hanging_up
from tests.servers.prometheus import free_port
from tests.servers.receivers import SLACK_CHANNEL, PagerDuty, Receiver, Reply, Request, Slack, as_json, receiving

TOKEN = "xoxb-1234567890-abcdefghijkl"
ROUTING_KEY = "e93facc04764012d7bfb002500d5d1a6"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
FIRST, REVISED, RESOLVED = example_notices()
QUICK = {"timeout": "2s", "deadline": "300ms"}

Make = Callable[..., Sink]


def secret_file(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(f"{text}\n", encoding="utf-8")
    return str(path)


def one_sink(name: str = "team", **settings: Any) -> Sink:
    (sink,) = sinks_of({name: settings})
    return sink


@pytest.fixture
def slack() -> Generator[tuple[Receiver, Slack]]:
    workspace = Slack(TOKEN)
    with receiving(workspace) as receiver:
        yield receiver, workspace


@pytest.fixture
def slack_sink(tmp_path: Path) -> Make:
    def make(url: str, token: str = TOKEN, **settings: Any) -> Sink:
        file = secret_file(tmp_path, f"token-{len(token)}", token)
        return one_sink(kind="slack", url=f"{url}/api", channel="#incidents", bot_token_file=file, **{**QUICK, **settings})

    return make


def pagerduty_sink(folder: Path, url: str, key: str = ROUTING_KEY, **settings: Any) -> Sink:
    file = secret_file(folder, f"key-{len(key)}", key)
    return one_sink(kind="pagerduty", url=f"{url}/v2/enqueue", routing_key_file=file, **{**QUICK, **settings})


def webhook_sink(folder: Path, url: str, **settings: Any) -> Sink:
    return one_sink(kind="webhook", url=url, secret_file=secret_file(folder, "secret", SECRET), **{**QUICK, **settings})


def nowhere() -> str:
    """An address that nobody listens on."""
    return f"http://127.0.0.1:{free_port()}"


# --- Slack --------------------------------------------------------------------------------------------------------------


def test_slack_keeps_the_contract(slack: tuple[Receiver, Slack], slack_sink: Make) -> None:
    receiver, workspace = slack
    wrong = "xoxb-wrong-but-just-as-secret"
    sent = check_sink(
        slack_sink(receiver.url),
        unreachable=slack_sink(nowhere()),
        refused=slack_sink(receiver.url, wrong),
        secrets=(TOKEN, wrong),
    )
    assert {result.reference for _, result in sent} == {
        f"{SLACK_CHANNEL}/1503435956.000001",
        f"{SLACK_CHANNEL}/1503435956.000002",
    }
    assert len(workspace.messages) == 2, "one message for each of the two incidents"


def test_slack_updates_the_message_that_it_posted(slack: tuple[Receiver, Slack], slack_sink: Make) -> None:
    receiver, workspace = slack
    sink = slack_sink(receiver.url)
    before = sink.send(FIRST, None).reference
    assert sink.send(REVISED, before).reference == before
    assert sink.send(RESOLVED, before).reference == before
    assert [request.path for request in receiver.requests] == ["/api/chat.postMessage", "/api/chat.update", "/api/chat.update"]
    (message,) = workspace.messages.values()
    assert message["blocks"][0]["text"]["text"].startswith("Resolved. Likely shop/catalogue (93 %)")


def test_a_message_that_somebody_deleted_is_posted_anew(slack: tuple[Receiver, Slack], slack_sink: Make) -> None:
    receiver, workspace = slack
    sink = slack_sink(receiver.url)
    before = sink.send(FIRST, None).reference
    workspace.messages.clear()
    after = sink.send(REVISED, before).reference
    assert after is not None
    assert list(workspace.messages) == [after.partition("/")[2]]


def test_slack_waits_as_long_as_it_is_told(slack: tuple[Receiver, Slack], slack_sink: Make) -> None:
    receiver, workspace = slack
    receiver.fault = lambda _, times: as_json(429, {"ok": False, "error": "ratelimited"}, Retry_After="1") if times == 1 else None
    start = time.monotonic()
    slack_sink(receiver.url, deadline="5s").send(FIRST, None)
    assert time.monotonic() - start >= 1
    assert len(workspace.messages) == 1


def test_a_wait_beyond_the_deadline_is_the_queues(slack: tuple[Receiver, Slack], slack_sink: Make) -> None:
    receiver, _ = slack
    receiver.fault = lambda *_: as_json(429, {"ok": False, "error": "ratelimited"}, Retry_After="30")
    with pytest.raises(Overloaded, match="HTTP 429") as raised:
        slack_sink(receiver.url).send(FIRST, None)
    assert raised.value.retry_after_s == 30
    assert len(receiver.requests) == 1


@pytest.mark.parametrize("code", ["internal_error", "fatal_error", "service_unavailable"])
def test_slacks_errors_of_the_moment_are_tried_again(slack: tuple[Receiver, Slack], slack_sink: Make, code: str) -> None:
    receiver, workspace = slack
    receiver.fault = lambda _, times: as_json(200, {"ok": False, "error": code}) if times < 2 else None
    slack_sink(receiver.url, deadline="5s").send(FIRST, None)
    assert len(workspace.messages) == 1


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (as_json(200, {"ok": False, "error": "not_in_channel"}), "not_in_channel (invite the app to the channel)"),
        (as_json(200, {"ok": False, "error": "invalid_blocks"}), "chat.postMessage: invalid_blocks"),
        (Reply(200, b"<html>a proxy's page</html>"), "expected Slack's JSON"),
        (Reply(404, b"no such page"), "HTTP 404: no such page"),
        (Reply(302, b"", {"Location": "http://127.0.0.1:9/"}), "HTTP 302"),
    ],
)
def test_what_does_not_help_is_not_tried_again(slack: tuple[Receiver, Slack], slack_sink: Make, reply: Reply, words: str) -> None:
    receiver, _ = slack
    receiver.fault = lambda *_: reply
    with pytest.raises(Rejected) as raised:
        slack_sink(receiver.url, deadline="5s").send(FIRST, None)
    assert words in str(raised.value)
    assert len(receiver.requests) == 1


def test_a_server_that_repeats_the_token_does_not_get_it_into_the_error(slack: tuple[Receiver, Slack], slack_sink: Make) -> None:
    receiver, _ = slack
    receiver.fault = lambda request, _: Reply(403, f"not you: {request.headers['Authorization']}".encode())
    with pytest.raises(Rejected, match="HTTP 403") as raised:
        slack_sink(receiver.url).send(FIRST, None)
    assert TOKEN not in str(raised.value)
    assert "***" in str(raised.value)


def test_a_rotated_token_is_read_anew(slack: tuple[Receiver, Slack], tmp_path: Path) -> None:
    receiver, workspace = slack
    file = secret_file(tmp_path, "token", "xoxb-old")
    sink = one_sink(kind="slack", url=f"{receiver.url}/api", channel=SLACK_CHANNEL, bot_token_file=file, **QUICK)
    with pytest.raises(Rejected, match="invalid_auth"):
        sink.send(FIRST, None)
    secret_file(tmp_path, "token", TOKEN)
    sink.send(FIRST, None)
    assert len(workspace.messages) == 1


def test_a_token_with_a_line_break_is_refused_without_being_shown(slack_sink: Make) -> None:
    token = "xoxb-first\nxoxb-second"
    with pytest.raises(Rejected, match="characters that cannot be sent") as raised:
        slack_sink(nowhere(), token).send(FIRST, None)
    assert "xoxb" not in str(raised.value)


def test_a_missing_token_is_bad_input(tmp_path: Path) -> None:
    sink = one_sink(kind="slack", channel="#x", bot_token_file=str(tmp_path / "none"))
    with pytest.raises(BadInput, match="expected a file with a secret, found No such file"):
        sink.send(FIRST, None)


# --- down, then back ----------------------------------------------------------------------------------------------------


def test_a_sink_that_was_down_gets_the_message_once_it_is_back(slack_sink: Make) -> None:
    port = free_port()
    sink = slack_sink(f"http://127.0.0.1:{port}")
    for _ in range(3):
        with pytest.raises(Unavailable, match="connection refused"):
            sink.send(FIRST, None)
    workspace = Slack(TOKEN)
    with receiving(workspace, port):
        sink.send(REVISED, None)
    assert len(workspace.messages) == 1


def test_a_sink_that_comes_back_within_the_deadline_is_waited_for(slack_sink: Make) -> None:
    port, workspace = free_port(), Slack(TOKEN)
    came = threading.Event()

    def come_back() -> None:
        time.sleep(0.7)
        with receiving(workspace, port):
            came.wait(20)

    thread = threading.Thread(target=come_back)
    thread.start()
    try:
        slack_sink(f"http://127.0.0.1:{port}", deadline="20s").send(FIRST, None)
    finally:
        came.set()
        thread.join()
    assert len(workspace.messages) == 1


def test_a_server_that_accepts_and_says_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(Unavailable, match="no answer in time"):
            webhook_sink(tmp_path, url, timeout="200ms").send(FIRST, None)


def test_a_slack_that_drips_is_tried_again(slack_sink: Make) -> None:
    with faulty(lambda _: Drip(b'{"ok": ', drip=True)) as server, pytest.raises(Unavailable, match="did not end in time"):
        slack_sink(server.url, timeout="300ms").send(FIRST, None)


def test_a_connection_that_breaks_before_tls_is_agreed_on_is_tried_again(tmp_path: Path) -> None:
    """As where a server behind a load balancer is being started anew: the message must not be given up for that."""
    with hanging_up() as port, pytest.raises(Unavailable):
        webhook_sink(tmp_path, f"https://127.0.0.1:{port}", deadline="1s").send(FIRST, None)


def test_a_password_that_a_server_repeats_is_not_shown(tmp_path: Path) -> None:
    password = secret_file(tmp_path, "password", "pa55w0rd")
    with (
        receiving(lambda request: Reply(403, request.headers["Authorization"].encode())) as receiver,
        pytest.raises(Rejected, match="HTTP 403") as raised,
    ):
        webhook_sink(tmp_path, receiver.url, username="anna", password_file=password).send(FIRST, None)
    assert base64.b64encode(b"anna:pa55w0rd").decode() not in str(raised.value)


# --- the way there ------------------------------------------------------------------------------------------------------


def test_a_certificate_that_is_not_trusted_is_not_tried_again(tmp_path: Path) -> None:
    cert, key = self_signed(tmp_path)
    with receiving(certificate=(cert, key)) as receiver:
        with pytest.raises(Rejected, match="team: TLS: "):
            webhook_sink(tmp_path, receiver.url, deadline="20s").send(FIRST, None)
        assert receiver.requests == []
        webhook_sink(tmp_path, receiver.url, tls={"ca_file": str(cert)}).send(FIRST, None)
        assert len(receiver.requests) == 1
    with pytest.raises(BadInput, match="expected a file with certificates"):
        webhook_sink(tmp_path, receiver.url, tls={"ca_file": str(tmp_path / "none")}).send(FIRST, None)


def test_only_the_proxy_of_the_settings_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", nowhere())
    monkeypatch.setenv("http_proxy", nowhere())
    with receiving() as receiver:
        webhook_sink(tmp_path, receiver.url).send(FIRST, None)
        webhook_sink(tmp_path, "http://hooks.example/rca", proxy=receiver.url).send(FIRST, None)
    assert [request.path for request in receiver.requests] == ["/", "http://hooks.example/rca"]


def test_no_log_holds_an_address_that_is_a_secret(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with receiving() as receiver:
        file = secret_file(tmp_path, "url", f"{receiver.url}/hook?sig=s3cr3t")
        one_sink(kind="webhook", url_file=file, secret_file=secret_file(tmp_path, "secret", SECRET)).send(FIRST, None)
        apprise_sink(tmp_path, f"json://{receiver.url.removeprefix('http://')}/s3cr3t").send(FIRST, None)
    assert ["s3cr3t" in request.path for request in receiver.requests] == [True, True]
    assert not [record for record in caplog.records if "s3cr3t" in record.getMessage() and record.name != "apprise"]


# --- PagerDuty ----------------------------------------------------------------------------------------------------------


def test_pagerduty_keeps_the_contract(tmp_path: Path) -> None:
    service, wrong = PagerDuty(ROUTING_KEY), "0" * 31
    with receiving(service) as receiver:
        check_sink(
            pagerduty_sink(tmp_path, receiver.url),
            unreachable=pagerduty_sink(tmp_path, nowhere()),
            refused=pagerduty_sink(tmp_path, receiver.url, wrong),
            secrets=(ROUTING_KEY, wrong),
        )
    assert list(service.triggered) == ["rca/01JHK3V0A7", "rca/01JHHOSTILE"]
    assert len(service.triggered["rca/01JHK3V0A7"]) == 3
    assert service.resolved == ["rca/01JHK3V0A7"]


def test_pagerduty_joins_the_alert_that_alertmanager_opened(tmp_path: Path) -> None:
    """With the key that Alertmanager's notify/pagerduty sends: the SHA-256 of the group key in hexadecimal."""
    service = PagerDuty(ROUTING_KEY)
    with receiving(service) as receiver:
        pagerduty_sink(tmp_path, receiver.url, join="group").send(FIRST, None)
    assert list(service.triggered) == [hashlib.sha256(FIRST.group_key.encode()).hexdigest()]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_pagerdutys_throttling_and_faults_are_tried_again(tmp_path: Path, status: int) -> None:
    service = PagerDuty(ROUTING_KEY)
    with receiving(service) as receiver:
        receiver.fault = lambda _, times: Reply(status, b"") if times == 1 else None
        pagerduty_sink(tmp_path, receiver.url, deadline="5s").send(FIRST, None)
    assert len(service.triggered) == 1


def test_pagerduty_names_what_it_refused(tmp_path: Path) -> None:
    with receiving(PagerDuty(ROUTING_KEY)) as receiver, pytest.raises(Rejected, match="Length of 'routing_key' is incorrect"):
        pagerduty_sink(tmp_path, receiver.url, "short").send(FIRST, None)


# --- the signed webhook -------------------------------------------------------------------------------------------------


def _verified(request: Request, secret: str = SECRET) -> Any:
    """The body, if the receiver's own library (standardwebhooks) accepts the signature."""
    return Webhook(secret).verify(request.body, {name.lower(): value for name, value in request.headers.items()})


def test_the_webhook_keeps_the_contract(tmp_path: Path) -> None:
    def answer(request: Request) -> Reply:
        return Reply(204, b"") if request.headers.get("Authorization") == "Bearer right" else Reply(401, b"who are you?")

    right, wrong = secret_file(tmp_path, "right", "right"), secret_file(tmp_path, "wrong", "wrong-token")
    with receiving(answer) as receiver:
        sent = check_sink(
            webhook_sink(tmp_path, receiver.url, bearer_token_file=right),
            unreachable=webhook_sink(tmp_path, nowhere(), bearer_token_file=right),
            refused=webhook_sink(tmp_path, receiver.url, bearer_token_file=wrong),
            secrets=(SECRET, "wrong-token"),
        )
        keys = [request.headers["Idempotency-Key"] for request in receiver.requests]
    assert keys[: len(sent)] == [notice.idempotency_key for notice, _ in sent]
    schema = json.loads((ROOT / "docs/notice.schema.json").read_text(encoding="utf-8"))
    for request in receiver.requests:
        jsonschema.validate(_verified(request), schema)


def test_every_notice_fits_the_published_schema(tmp_path: Path) -> None:
    schema = json.loads((ROOT / "docs/notice.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    with receiving() as receiver:
        sink = webhook_sink(tmp_path, receiver.url, max_bytes="16KiB")
        for notice in (*example_notices(), unranked_notice(), hostile_notice()):
            sink.send(notice, None)
    for request in receiver.requests:
        jsonschema.validate(request.json(), schema)
        assert len(request.body) <= 16 * 1024
    with pytest.raises(jsonschema.ValidationError, match="colour"):
        jsonschema.validate(receiver.requests[0].json() | {"colour": "red"}, schema)


def test_a_changed_body_and_a_late_replay_are_noticed(tmp_path: Path) -> None:
    with receiving() as receiver:
        webhook_sink(tmp_path, receiver.url).send(FIRST, None)
    (request,) = receiver.requests
    assert _verified(request)["incident_id"] == FIRST.incident_id
    for body, headers in (
        (request.body.replace(b"firing", b"resolved"), {}),
        (request.body, {"webhook-timestamp": str(int(time.time()) - 600)}),
        (request.body, {"webhook-id": "another"}),
    ):
        lower = {name.lower(): value for name, value in request.headers.items()}
        with pytest.raises(WebhookVerificationError):
            Webhook(SECRET).verify(body, lower | headers)


def test_both_secrets_sign_while_one_rotates(tmp_path: Path) -> None:
    new = "whsec_c2VjcmV0LW9mLWEtcm90YXRlZC1lbmRwb2ludA=="
    with receiving() as receiver:
        file = secret_file(tmp_path, "secret", f"{new}\n{SECRET}")
        one_sink(kind="webhook", url=receiver.url, secret_file=file).send(FIRST, None)
    (request,) = receiver.requests
    assert _verified(request, SECRET) == _verified(request, new)


def test_an_address_that_is_a_secret_shows_in_no_error(tmp_path: Path) -> None:
    for url, error in ((f"{nowhere()}/hook?sig=s3cr3t", Unavailable), ("https://127.0.0.1:1/s3cr3t", Unavailable)):
        file = secret_file(tmp_path, "url", url)
        sink = one_sink(kind="webhook", url_file=file, secret_file=secret_file(tmp_path, "secret", SECRET), **QUICK)
        with pytest.raises(error) as raised:
            sink.send(FIRST, None)
        assert "s3cr3t" not in f"{raised.value!r} {raised.value.__cause__!r} {sink!r} {vars(sink)!r}"


@pytest.mark.parametrize("secret", ["whsec_short", "not base64!", "whsec_" + "QUJD" * 60])
def test_a_bad_signing_secret_is_refused_without_being_shown(tmp_path: Path, secret: str) -> None:
    sink = one_sink(kind="webhook", url="http://127.0.0.1:9", secret_file=secret_file(tmp_path, "secret", secret))
    with pytest.raises(BadInput, match="expected whsec_ and 24 to 64 bytes in base64") as raised:
        sink.send(FIRST, None)
    assert secret not in str(raised.value)


# --- apprise ------------------------------------------------------------------------------------------------------------


def apprise_sink(folder: Path, address: str, **settings: Any) -> Sink:
    return one_sink(kind="apprise", url_file=secret_file(folder, "address", address), **{**QUICK, **settings})


def test_apprise_keeps_the_contract(tmp_path: Path) -> None:
    def answer(request: Request) -> Reply:
        return Reply(200) if "/right" in request.path else Reply(403, b"no")

    with receiving(answer) as receiver:
        host = receiver.url.removeprefix("http://")
        refused = tmp_path / "refused"
        refused.mkdir()
        away = tmp_path / "away"
        away.mkdir()
        check_sink(
            apprise_sink(tmp_path, f"json://user:pa55w0rd@{host}/right"),
            unreachable=apprise_sink(away, f"json://user:pa55w0rd@{nowhere().removeprefix('http://')}/"),
            refused=apprise_sink(refused, f"json://user:pa55w0rd@{host}/wrong"),
            secrets=("pa55w0rd",),
        )


def test_apprise_tells_a_first_answer_one_revision_and_the_end(tmp_path: Path) -> None:
    with receiving() as receiver:
        sink = apprise_sink(tmp_path, f"json://{receiver.url.removeprefix('http://')}/")
        one = sink.send(FIRST, None)
        two = sink.send(REVISED, one.reference)
        three = sink.send(replace(REVISED, revision=3), two.reference)
        end = sink.send(replace(RESOLVED, revision=4), three.reference)
        again = sink.send(replace(RESOLVED, revision=5), end.reference)
    assert [each.reference for each in (one, two, three, end, again)] == ["1", "2", "2", "resolved", "resolved"]
    assert bool(three.skipped), "it cannot edit: nothing more is said"
    titles = [request.json()["title"] for request in receiver.requests]
    assert [title.partition(" ")[0] for title in titles] == ["Likely", "Likely", "Resolved."]


def test_nobody_needs_to_hear_that_it_is_over(tmp_path: Path) -> None:
    with receiving() as receiver:
        sink = apprise_sink(tmp_path, f"json://{receiver.url.removeprefix('http://')}/", send_resolved=False)
        assert sink.send(RESOLVED, "1").skipped
    assert receiver.requests == []


@pytest.mark.parametrize(("status", "error"), [(400, Rejected), (404, Rejected), (429, Unavailable), (503, Unavailable)])
def test_what_an_apprise_service_answers_decides_on_another_try(tmp_path: Path, status: int, error: type[Exception]) -> None:
    with receiving(lambda _: Reply(status, b"")) as receiver:
        sink = apprise_sink(tmp_path, f"json://{receiver.url.removeprefix('http://')}/", deadline="200ms")
        with pytest.raises(error, match=f"answered {status}"):
            sink.send(FIRST, None)


@pytest.mark.parametrize("address", ["pa55w0rd", "nosuch://user:pa55w0rd@host", "mailto://pa55w0rd"])
def test_an_address_that_apprise_does_not_understand(tmp_path: Path, address: str) -> None:
    """It is not repeated, neither in the error nor in a log. (pytest's own handler hears loggers that do not propagate.)"""
    logged = io.StringIO()
    handler = logging.StreamHandler(logged)
    logging.getLogger().addHandler(handler)
    folder = tmp_path.parent / "address"  # tmp_path itself is named after the parameter
    folder.mkdir(exist_ok=True)
    try:
        with pytest.raises(BadInput, match="expected one address that apprise understands") as raised:
            apprise_sink(folder, address).send(FIRST, None)
    finally:
        logging.getLogger().removeHandler(handler)
    assert "pa55w0rd" not in str(raised.value) + logged.getvalue()


@contextmanager
def mail_server() -> Iterator[tuple[int, list[bytes]]]:
    """An SMTP server that takes every message, as a mail relay on loopback would."""
    mails: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection, connection.makefile("rwb") as stream:
                stream.write(b"220 relay\r\n")
                stream.flush()
                while line := stream.readline():
                    if line.upper().startswith(b"DATA"):
                        stream.write(b"354 go on\r\n")
                        stream.flush()
                        mail = b""
                        while (part := stream.readline()) != b".\r\n":
                            mail += part
                        mails.append(mail)
                    stream.write(b"221 bye\r\n" if line.upper().startswith(b"QUIT") else b"250 ok\r\n")
                    stream.flush()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1], mails
        thread.join(timeout=5)


def test_an_e_mail_has_a_subject_and_html_that_holds_no_foreign_tag(tmp_path: Path) -> None:
    with mail_server() as (port, mails):
        sink = apprise_sink(tmp_path, f"mailto://127.0.0.1:{port}?from=rca@example.com&to=oncall@example.com&mode=insecure")
        sink.send(hostile_notice(), None)
    mail = email.message_from_bytes(mails[0])
    subject = str(email.header.make_header(email.header.decode_header(mail["Subject"])))
    assert subject.startswith("Likely shop/")
    assert not set("<>@\n\x1b") & set(subject)
    html = next(part for part in mail.walk() if part.get_content_type() == "text/html").get_payload(decode=True)
    assert isinstance(html, bytes)
    assert b"<script" not in html
    assert b"&lt;script&gt;" in html
    assert b'href="javascript' not in html
