"""Slack: chat.postMessage, then chat.update of the same message."""

from __future__ import annotations

import json
from typing import Any, ClassVar, Final

from rca.errors import Rejected, Unavailable
from rca.settings import secret_in
from rca.sinks.http import Post, send_once
from rca.sinks.markup import line
from rca.sinks.notice import Notice, Sent
from rca.sinks.retry import retrying
from rca.sinks.slack.blocks import slack_message
from rca.sinks.slack.config import SlackConfig
from rca.telemetry import SECOND_NS

_AGAIN: Final = frozenset(
    {
        "ratelimited",
        "rate_limited",
        "internal_error",
        "fatal_error",
        "service_unavailable",
        "request_timeout",
        "team_added_to_org",
    }
)
"""Errors that Slack answers with status 200 and that are about the moment."""
_GONE: Final = frozenset({"message_not_found", "edit_window_closed", "cant_update_message"})
"""The message cannot be updated any more, because somebody deleted it, for one: a new one is posted."""
_ADVICE: Final = {
    "not_in_channel": "invite the app to the channel",
    "channel_not_found": "is the channel right, and the app invited to it?",
    "invalid_auth": "is the token in bot_token_file right?",
    "not_authed": "is the token in bot_token_file right?",
    "account_inactive": "the token belongs to an account that is gone",
    "token_revoked": "the token was revoked",
    "token_expired": "the token has expired",
    "missing_scope": "the app needs the scope chat:write",
}


_NAME: Final = 80


class _Refused(Rejected):
    """Slack's answer `ok: false`, with its error code."""

    def __init__(self, message: str, code: str) -> None:
        self.code = code
        super().__init__(message)


class SlackSink:
    """Posts a message for an incident and updates it. The reference is the channel's id and the message's `ts`."""

    settings: ClassVar[type[SlackConfig]] = SlackConfig

    def __init__(self, name: str, config: SlackConfig) -> None:
        self.name, self.config = name, config

    def send(self, notice: Notice, before: str | None) -> Sent:
        """Post or update. Raises Unavailable, Overloaded, Rejected, BadInput."""
        body, cut = slack_message(notice)
        channel, _, ts = (before or "").partition("/")
        if channel and ts:
            try:
                self._call("chat.update", {**body, "channel": channel, "ts": ts})
            except _Refused as error:
                if error.code not in _GONE:
                    raise
            else:
                return Sent(before, cut)
        said = self._call("chat.postMessage", {**body, "channel": self.config.channel})
        return Sent(f"{said.get('channel', self.config.channel)}/{said.get('ts', '')}", cut)

    def check(self) -> str:
        """Who we are to Slack. Raises Unavailable, Overloaded, Rejected, BadInput."""
        said = self._call("auth.test", {})
        team, user = line(str(said.get("team", "")), _NAME), line(str(said.get("user", "")), _NAME)
        return f"Slack knows the token: {user or 'an app'} in {team or 'a workspace'}"

    def _call(self, method: str, body: dict[str, Any]) -> dict[str, Any]:
        token = secret_in(self.config.bot_token_file)
        post = Post(
            self.name,
            f"{self.config.url.rstrip('/')}/{method}",
            json.dumps(body).encode(),
            {"Authorization": f"Bearer {token}", "Content-Type": "application/json; charset=utf-8"},
            secrets=(token,),
        )

        def attempt(until: float) -> dict[str, Any]:
            answer = send_once(post, self.config, until)
            said = answer.json()
            if not isinstance(said, dict):
                if not answer.whole:
                    raise Unavailable(post.told(f"{method}: the answer did not end in time"))
                raise Rejected(post.told(f"expected Slack's JSON from {method}; is the url right?"))
            if said.get("ok") is True:
                return said
            code = str(said.get("error", "no error named"))
            if code in _AGAIN:
                raise Unavailable(post.told(f"{method}: {code}"))
            advice = f" ({_ADVICE[code]})" if code in _ADVICE else ""
            raise _Refused(post.told(f"{method}: {code}{advice}"), code)

        return retrying(attempt, self.config.deadline / SECOND_NS)
