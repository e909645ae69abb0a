"""The settings of a sink of the kind `apprise`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from rca.sinks.config import SinkSettings


class AppriseConfig(SinkSettings):
    """One address of apprise (github.com/caronc/apprise): Teams, e-mail, Mattermost, Telegram, ntfy and a hundred more."""

    url_file: Annotated[
        Path, Field(description="file with the address, such as `mailtos://USER:PASSWORD@HOST?to=...`; it holds secrets")
    ]
    send_resolved: Annotated[bool, Field(description="also tell when the incident is over, in a message of its own")] = True
