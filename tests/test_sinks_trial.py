"""`rca sinks test` sends an example that says what it is and closes it; `rca doctor` looks at sinks and sends nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from rca.cli.main import app
from rca.errors import BadInput, UnknownName
from rca.serve.checking import look_at_all, send_to_all
from rca.sinks.destinations import sinks_of
from rca.sinks.example import trial_notices
from rca.sinks.notice import Notice, Sent
from tests.servers.prometheus import alertmanager, free_port
from tests.servers.receivers import PagerDuty, Receiver, Reply, Slack, receiving

TOKEN = "xoxb-1234567890-abcdefghijkl"
ROUTING_KEY = "e93facc04764012d7bfb002500d5d1a6"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
PAGE = "https://rca.example.com"


@dataclass
class Team:
    """Slack, PagerDuty and a webhook, and the configuration that names them."""

    folder: Path
    slack: Slack
    pagerduty: PagerDuty
    receivers: dict[str, Receiver]

    def run(self, *arguments: str) -> Result:
        options = ["--config", str(self.folder / "rca.toml")]
        return CliRunner().invoke(app, [*arguments, *options])

    def try_out(self, *arguments: str) -> Result:
        return self.run("sinks", "test", *arguments, "--store", str(self.folder / "home"))


@pytest.fixture
def team(tmp_path: Path) -> Iterator[Team]:
    slack, pagerduty = Slack(TOKEN), PagerDuty(ROUTING_KEY)
    secrets = {"token": TOKEN, "key": ROUTING_KEY, "secret": SECRET}
    for name, text in secrets.items():
        (tmp_path / name).write_text(f"{text}\n")
    with ExitStack() as stack:
        answers = {"slack": slack, "pagerduty": pagerduty, "webhook": lambda _request: Reply(204, b"")}
        receivers = {name: stack.enter_context(receiving(answer)) for name, answer in answers.items()}
        urls = {name: receiver.url for name, receiver in receivers.items()}
        (tmp_path / "rca.toml").write_text(
            f"""
            [prometheus]
            url = "{urls["webhook"]}"
            retries = 0
            [serve]
            external_url = "{PAGE}"
            [sinks.slack]
            url = "{urls["slack"]}/api"
            channel = "#incidents"
            bot_token_file = "{tmp_path}/token"
            deadline = "300ms"
            [sinks.pagerduty]
            url = "{urls["pagerduty"]}/v2/enqueue"
            routing_key_file = "{tmp_path}/key"
            deadline = "300ms"
            [sinks.partner]
            kind = "webhook"
            redact = true
            url = "{urls["webhook"]}"
            secret_file = "{tmp_path}/secret"
            deadline = "300ms"
            """
        )
        yield Team(tmp_path, slack, pagerduty, receivers)


def test_every_sink_gets_an_example_that_is_closed(team: Team) -> None:
    done = team.try_out()
    assert done.exit_code == 0, done.output
    assert done.output.count("the first answer was taken") == 3
    assert done.output.count("the end of the incident was taken") == 3
    (message,) = team.slack.messages.values()
    assert message["blocks"][0]["text"]["text"].startswith("Test, nothing is wrong. Resolved. Likely shop/catalogue (93 %)")
    assert f"{PAGE}/incidents" in json.dumps(message)
    ((key, (event,)),) = team.pagerduty.triggered.items()
    assert event["payload"]["summary"].startswith("Test, nothing is wrong. Likely shop/catalogue")
    assert team.pagerduty.resolved == [key]
    first, last = (request.json() for request in team.receivers["webhook"].requests)
    assert (first["test"], first["state"], last["state"]) == (True, "firing", "resolved")
    assert "catalogue" not in json.dumps(first), "redaction holds for examples too"
    assert abs(first["alerts"][0]["starts_ns"] - time.time_ns()) < 10 * 60 * 10**9


def test_one_sink_can_be_chosen_and_left_open(team: Team) -> None:
    for _ in range(2):
        assert team.try_out("pagerduty", "--firing").exit_code == 0
    assert len(team.pagerduty.triggered) == 2, "two tests are two incidents"
    assert team.pagerduty.resolved == []
    assert not team.slack.messages


def test_a_sink_that_fails_is_told_and_the_others_are_sent(team: Team) -> None:
    (team.folder / "token").write_text("xoxb-wrong-but-just-as-secret")
    done = team.try_out("--json")
    assert done.exit_code == 1
    body = json.loads(done.output)
    assert not body["ok"]
    (failed,) = [finding for finding in body["findings"] if finding["level"] == "failure"]
    assert failed["source"] == "[sinks.slack]"
    assert failed["text"] == "slack: chat.postMessage: invalid_auth (is the token in bot_token_file right?)"
    assert "[sinks.slack] in rca.toml" in failed["advice"]
    assert "xoxb-" not in done.output
    assert len(team.pagerduty.resolved) == 1


def test_who_is_not_there_cannot_be_tried(team: Team) -> None:
    done = team.try_out("slak")
    assert isinstance(done.exception, UnknownName)
    assert "did you mean slack?" in str(done.exception)
    (team.folder / "rca.toml").write_text("")
    done = team.try_out()
    assert isinstance(done.exception, BadInput)
    assert "expected a table [sinks.NAME]" in str(done.exception)


def test_the_doctor_looks_at_sinks_and_sends_nothing(team: Team) -> None:
    done = team.run("doctor", "--json")
    told = {one["source"]: one for one in json.loads(done.output)["findings"] if one["source"].startswith("[sinks")}
    assert told["[sinks.slack]"]["text"] == "Slack knows the token: rca in Example"
    assert told["[sinks.pagerduty]"]["text"].startswith("the Events API answers")
    assert told["[sinks.partner]"]["text"].startswith("the server answers (HTTP 501 to HEAD)")
    assert told["[sinks.partner]"]["text"].endswith("names are replaced")
    assert {one["level"] for one in told.values()} == {"ok"}
    assert [request.path for receiver in team.receivers.values() for request in receiver.requests] == ["/api/auth.test"]
    assert done.exit_code == 1, "the source does not answer"


@pytest.mark.parametrize(
    ("name", "spoil", "words"),
    [
        ("slack", lambda folder: (folder / "token").unlink(), "expected a file with a secret"),
        ("slack", lambda folder: (folder / "token").write_text("wrong"), "auth.test: invalid_auth"),
        ("pagerduty", lambda folder: (folder / "key").write_text("short"), "expected an integration key, 32 characters"),
        ("partner", lambda folder: (folder / "secret").write_text("short"), "whsec_"),
    ],
)
def test_the_doctor_says_what_to_change(team: Team, name: str, spoil: Callable[[Path], object], words: str) -> None:
    spoil(team.folder)
    done = team.run("doctor", "--json")
    found = json.loads(done.output)["findings"]
    (failed,) = [one for one in found if one["level"] == "failure" and one["source"].startswith("[sinks")]
    assert failed["source"] == f"[sinks.{name}]"
    assert words in failed["text"]
    assert done.exit_code == 1


def test_nobody_there_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET)
    common = {"deadline": "300ms"}
    nowhere = f"http://127.0.0.1:{free_port()}"
    tables = {
        "webhook": {"url": nowhere, "secret_file": str(tmp_path / "secret"), **common},
        "alertmanager": {"url": nowhere, **common},
    }
    findings = look_at_all(sinks_of(tables))
    assert [(finding.level, finding.text) for finding in findings] == [
        ("failure", "webhook: connection refused"),
        ("failure", "alertmanager: connection refused"),
    ]


def test_a_real_alertmanager_says_its_version(tmp_path: Path) -> None:
    config = "route:\n  receiver: nobody\nreceivers:\n- name: nobody\n"
    with alertmanager(tmp_path / "alertmanager", config) as url:
        (finding,) = look_at_all(sinks_of({"alertmanager": {"url": url}}))
        assert finding.level == "ok"
        assert finding.text.startswith("Alertmanager 0.")
        first, last = send_to_all(sinks_of({"alertmanager": {"url": url}}), trial_notices(time.time_ns(), PAGE))
        assert (first.text, last.text) == ("the first answer was taken", "the end of the incident was taken")


def test_apprise_is_read_and_not_asked(tmp_path: Path) -> None:
    (tmp_path / "address").write_text("mailtos://user:password@smtp.example.com?to=oncall@example.com")
    (finding,) = look_at_all(sinks_of({"apprise": {"url_file": str(tmp_path / "address")}}))
    assert finding.level == "ok"
    assert finding.text.startswith("an address of E-Mail")
    (tmp_path / "address").write_text("nonsense://password")
    (finding,) = look_at_all(sinks_of({"apprise": {"url_file": str(tmp_path / "address")}}))
    assert finding.level == "failure"
    assert "password" not in finding.text


class Careless:
    """A sink of another package, which raises what it likes."""

    name = "careless"

    def send(self, notice: Notice, before: str | None) -> Sent:
        raise ZeroDivisionError(f"{notice.revision} {before}")


def test_a_sink_of_another_package_needs_no_check_and_may_fail() -> None:
    (looked,) = look_at_all([Careless()])
    assert (looked.level, looked.text.startswith("it has no check of its own")) == ("ok", True)
    (sent,) = send_to_all([Careless()], trial_notices(time.time_ns(), ""))
    assert (sent.level, sent.text) == ("failure", "ZeroDivisionError: 1 None")
