"""The settings of a sink of the kind `slack`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from rca.sinks.config import Address, HttpSinkSettings


class SlackConfig(HttpSinkSettings):
    """A channel of Slack. The app needs the scope `chat:write`, and to be invited to the channel."""

    channel: Annotated[str, Field(min_length=1, description="id of the channel, such as C0123456789; a name with # works too")]
    bot_token_file: Annotated[Path, Field(description="file with the app's bot token, `xoxb-...`, read anew for every message")]
    url: Annotated[Address, Field(description="address of Slack's Web API")] = "https://slack.com/api"
