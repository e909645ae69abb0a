"""Everything that apprise reaches. It cannot edit what it sent, so an incident gets a first answer and at most one revision."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any, ClassVar, Final

from rca.errors import BadInput, Overloaded, Rejected, Unavailable
from rca.settings import secret_in
from rca.sinks.apprise.body import Format, Limits, title_and_body
from rca.sinks.apprise.config import AppriseConfig
from rca.sinks.http import unlogged
from rca.sinks.notice import Notice, Sent
from rca.sinks.retry import failure, retrying
from rca.telemetry import SECOND_NS

if TYPE_CHECKING:
    from apprise import Apprise, NotifyBase

_FORMATS: Final = ("html", "markdown", "text")
_STATUS: Final = re.compile(r"error=(\d{3})\b")
_MOST_REVISIONS: Final = 2  # the first answer is one of them


class AppriseSink:
    """Sends to one service. The reference counts what was told: `1`, `2`, `resolved`."""

    settings: ClassVar[type[AppriseConfig]] = AppriseConfig

    def __init__(self, name: str, config: AppriseConfig) -> None:
        self.name, self.config = name, config

    def send(self, notice: Notice, before: str | None) -> Sent:
        """Send a message of its own, unless enough was said. Raises Unavailable, Overloaded, Rejected, BadInput."""
        told = int(before) if before and before.isdigit() else 0
        if notice.state == "resolved" and (before == "resolved" or not self.config.send_resolved):
            return Sent(before, skipped="it was told, or nobody wants to know (send_resolved)")
        if notice.state == "firing" and told >= _MOST_REVISIONS:
            return Sent(before, skipped="the channel cannot edit messages, and had its one revision")
        cut = retrying(lambda until: self._send(notice), self.config.deadline / SECOND_NS)  # noqa: ARG005
        return Sent("resolved" if notice.state == "resolved" else str(told + 1), cut)

    def check(self) -> str:
        """Which service the address is one of; no service can be asked without sending. Raises BadInput."""
        _, service = self._service()
        return f"an address of {service.service_name}; only a message shows whether it takes them"

    def _send(self, notice: Notice) -> tuple[str, ...]:
        from apprise import NotifyType

        services, service = self._service()
        limits = _limits(service)
        title, body, cut = title_and_body(notice, limits)
        kind = NotifyType.SUCCESS if notice.state == "resolved" else NotifyType.FAILURE
        timeout = self.config.timeout / SECOND_NS
        with unlogged():
            result = services.notify(body=body, title=title, notify_type=kind, body_format=limits.format, timeout=timeout)
        if not result:
            raise self._failure(service, result)
        return cut

    def _service(self) -> tuple[Apprise, NotifyBase]:
        """What the address in the file stands for, made anew: secrets rotate. Raises BadInput, which does not repeat it."""
        _quiet()
        from apprise import Apprise, AppriseAsset, OverflowMode

        url = secret_in(self.config.url_file)
        asset = AppriseAsset(app_id="rca", app_desc="rca", app_url="", image_url_mask="", image_url_logo="")
        service = Apprise.instantiate(url, asset=asset) if len(url.split()) == 1 else None
        if service is None:
            schema = url.partition("://")[0] if re.match(r"[a-z0-9]{1,20}://\S+$", url) else "no address alone"
            where = str(self.config.url_file)
            raise BadInput(where, expected="one address that apprise understands", found=f"one that it does not ({schema})")
        service.overflow_mode = OverflowMode.TRUNCATE  # one message per notice, whatever the dialect adds to it
        services = Apprise(asset=asset)
        services.add(service)
        return services, service

    def _failure(self, service: NotifyBase, result: Any) -> Unavailable | Overloaded | Rejected:
        """The error. A service says no more than that it failed; the status, where there was one, stands in its log alone."""
        found = [match for entry in result.logs() if (match := _STATUS.search(str(entry.message)))]
        name = str(service.service_name)
        if not found:
            return Unavailable(f"{self.name}: {name} took nothing, and did not say why")
        status = int(found[-1][1])
        error = failure(f"{self.name}: {name} answered {status}", status, {})
        return error if isinstance(error, Unavailable | Rejected) else Unavailable(f"{self.name}: {name} took nothing")


def _quiet() -> None:
    """apprise logs addresses that it does not understand, passwords included; its results carry what is needed of it."""
    logger = logging.getLogger("apprise")
    if not any(isinstance(handler, logging.NullHandler) for handler in logger.handlers):
        logger.addHandler(logging.NullHandler())
    logger.propagate = False


def _limits(service: NotifyBase) -> Limits:
    """Its limits, and the richest format that it takes, unless its address says `format=`."""
    declared = service.notify_format
    formats = {getattr(each, "value", each) for each in ([declared] if isinstance(declared, str) else declared)}
    best = next((each for each in _FORMATS if each in formats), "text")
    resolved: Format = service.resolve_format(best).value
    title = int(service.title_maxlen)
    body = int(service.body_maxlen) - int(service.overflow_buffer) - (title if service.overflow_amalgamate_title else 0)
    return Limits(title, body, resolved)
