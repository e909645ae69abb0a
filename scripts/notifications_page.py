"""docs/notifications.md, from the sinks' own settings and from what they make of an example."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from rca.collectors.template import toml_value
from rca.sinks.alertmanager.alert import ALERT_NAME, alert_of
from rca.sinks.alertmanager.config import AlertmanagerConfig
from rca.sinks.apprise.body import Limits, title_and_body
from rca.sinks.config import HttpSinkSettings, IdentifiedSettings, SinkSettings
from rca.sinks.destinations import BUILT_IN, ENTRY_POINT_GROUP, settings_of
from rca.sinks.example import example_notices, unranked_notice
from rca.sinks.pagerduty.config import PagerDutyConfig
from rca.sinks.pagerduty.event import event_of
from rca.sinks.redaction import redacted
from rca.sinks.slack.blocks import slack_message
from rca.sinks.webhook.payload import payload_of

_PAGE: Final = """\
# Notifications

`rca serve` tells of an incident where your team already looks. One incident is one message: it is sent with the first answer,
updated when the ranking changes, and closed when the alerts are resolved. It says which services are the likely causes and how
sure that is, what speaks for them in numbers of your telemetry, the path from the alert to the cause, what telemetry was missing,
and links to the incident's page (where the cause is confirmed or corrected), runbook, dashboards and traces. Where no ranking
could be made, it says why.

    [sinks.slack]
    channel = "C0123456789"
    bot_token_file = "/etc/rca/slack-token"

    [sinks.pagerduty]
    routing_key_file = "/etc/rca/pagerduty-key"

    [sinks.partner]                # any name; then `kind` says what it is
    kind = "webhook"
    url = "https://hooks.example.com/rca"
    secret_file = "/etc/rca/partner-secret"
    redact = true

`[sinks.NAME]` is one destination; have as many of a kind as you like. Secrets stand in files that only the service can read. They
are read anew for every message, so that they can rotate, and show in no log, error or page.

{settings}

## Try them

    rca doctor                     # do they answer, and can their secrets be read? Sends nothing
    rca sinks test                 # sends every one an example, and closes it
    rca sinks test slack --firing  # one of them, left open

The example begins with *Test, nothing is wrong*; programs see `test` in the webhook's JSON.

## Slack

Create an app with the scope `chat:write`, install it, invite it to the channel (`/invite @rca`) and put its bot token
(`xoxb-...`) into the file. The message is posted once and then updated; if somebody deletes it, the next change is posted anew.
In Slack's own markup:

{slack}
{slack_settings}

## PagerDuty

Add the integration *Events API v2* to a service and put its integration key into the file. Every revision triggers the same
alert again, `resolved` resolves it; acknowledging is left to people. If Alertmanager already pages through the same integration
key, set `join = "group"`: the ranking then lands in the alert that Alertmanager opened instead of opening a second one.

{pagerduty}
{pagerduty_settings}

## Webhook

A POST of JSON for every revision, described by [notice.schema.json](notice.schema.json). `report` is what `rca triage --json`
prints ([ranking.schema.json](ranking.schema.json)). Texts are as they came from the alerts: escape them where you show them.

- `Idempotency-Key`, `webhook-id` and `idempotency_key` are `INCIDENT:REVISION`. A message may arrive twice and, after an outage,
  out of order: drop keys that you have seen and revisions that are lower than the last.
- It is signed as [Standard Webhooks](https://www.standardwebhooks.com) are, which have libraries for most languages:
  `webhook-signature` holds `v1,` and the base64 of HMAC-SHA256 over `webhook-id.webhook-timestamp.body`. Refuse what is older
  than five minutes.
- Any 2xx is success. 408, 425, 429 and 5xx are tried again, after `Retry-After` if there is one; anything else is not.

{webhook}
{webhook_settings}

## Alertmanager

Fires an alert of our own, `{alert_name}`, which Alertmanager's routes take wherever you want it. The cause is in its
annotations; its labels (`incident`, `severity` and yours) do not change. It ends when its incident is resolved. Keep it away
from the webhook that calls `rca`:

    route:
      receiver: rca
      routes:
      - matchers: [ alertname="{alert_name}" ]
        receiver: team-chat

{alertmanager}
{alertmanager_settings}

## Teams, e-mail and everything else

What [apprise](https://github.com/caronc/apprise/wiki) has an address for. The address holds secrets, so it stands in a file:

    [sinks.mail]
    kind = "apprise"
    url_file = "/etc/rca/mail-address"     # mailtos://USER:PASSWORD@smtp.example.com?to=oncall@example.com

Such a channel cannot edit what it sent: an incident gets its first answer, at most one revision, and a word when it is over. Each
service's own format and limit are kept; a short one (an SMS of 160 characters) gets the cause, how sure it is, and the link.

{apprise}
{apprise_settings}

## No ranking

{unranked}

## Without names

`redact = true` replaces names of services, pods, nodes, databases and alerts by pseudonyms, the same one wherever a name stands,
and leaves out what people or programs wrote freely: summaries, log lines, reasons, links other than the page. The incident's id
and the model's name stay as they are.

{redacted}

## When a channel does not answer

Overload, time-outs and server errors are tried again with growing pauses until `deadline`; a longer outage is waited out in the
queue of `rca serve`. A refusal (a wrong token, an unknown channel) is not tried again: it is logged with what the channel said.
What does not fit a channel's limit is cut, evidence first, and the message says so.

Delivery is at least once. If a connection breaks after a channel took a message and before it said so, the message is sent again:
PagerDuty, Alertmanager and receivers that drop repeated keys notice, Slack and the channels of apprise show it twice.

## Other packages

A package adds a kind by the entry point group `{group}`: a class or function that takes the settings of its table and `name`, and
returns an `rca.sinks.notice.Sink`. `rca.testing.check_sink` checks one. Redaction comes with every kind.
"""


def notifications_page() -> str:
    """The page."""
    first, revised, _ = example_notices()
    slack, _ = slack_message(revised)
    pagerduty = event_of(revised, PagerDutyConfig(routing_key_file=Path("key")))[0]
    webhook = json.loads(payload_of(first, 2**20)[0])
    webhook["report"] = {"schema_version": webhook["report"]["schema_version"], "confidence": webhook["report"]["confidence"]}
    alert, _ = alert_of(
        first, AlertmanagerConfig(url="http://alertmanager:9093", labels={"team": "shop"}), first.alerts[0].starts_ns
    )
    title, body, _ = title_and_body(first, Limits(250, 32_768, "text"))
    hidden, hidden_body, _ = title_and_body(redacted(revised, b"an example's key, known to all"), Limits(250, 32_768, "text"))
    return _PAGE.format(
        alert_name=ALERT_NAME,
        group=ENTRY_POINT_GROUP,
        settings=_table(SinkSettings, ()),
        slack=_text("\n\n".join(_texts(slack["blocks"]))),
        pagerduty=_json(pagerduty),
        webhook=_json(webhook),
        alertmanager=_json(alert),
        apprise=_text(f"Subject: {title}\n\n{body}"),
        unranked=_text("\n\n".join(list(_texts(slack_message(unranked_notice())[0]["blocks"]))[:3])),
        redacted=_text(f"{hidden}\n\n{hidden_body}"),
        **{f"{kind}_settings": _table(settings_of(kind), SinkSettings.model_fields) for kind in BUILT_IN},
    )


def _texts(blocks: list[dict[str, Any]]) -> Iterator[str]:
    for block in blocks:
        yield from (text["text"] for text in (block.get("text"), *block.get("elements", ())) if text)


def _table(settings: type[BaseModel], told: Any) -> str:
    """The settings of a table but those that were told before."""
    order = [*HttpSinkSettings.model_fields, *IdentifiedSettings.model_fields]
    names = sorted((name for name in settings.model_fields if name not in told), key=lambda name: name in order)
    rows = []
    for name in names:
        field = settings.model_fields[name]
        default = "required" if field.is_required() else _default(settings, name)
        rows.append(f"| `{name}` | {default} | {(field.description or '').replace('|', '/')} |")
    return "\n".join(["| setting | default | meaning |", "| --- | --- | --- |", *rows])


def _default(settings: type[BaseModel], name: str) -> str:
    value = settings.model_construct().model_dump(mode="json", include={name}).get(name)
    if name == "tls":
        return "`ca_file`, `cert_file`, `key_file` as in [configuration.md](configuration.md)"
    return "" if value is None else f"`{toml_value(value)}`"


def _text(text: str) -> str:
    return f"```text\n{text}\n```\n"


def _json(body: Any) -> str:
    return f"```json\n{json.dumps(body, indent=2, ensure_ascii=False)}\n```\n"
