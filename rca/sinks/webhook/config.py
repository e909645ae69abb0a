"""The settings of a sink of the kind `webhook`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from rca.settings import SizeBytes
from rca.sinks.config import Address, IdentifiedSettings


class WebhookConfig(IdentifiedSettings):
    """A server of your own. Every request is signed as Standard Webhooks are (standardwebhooks.com)."""

    url: Annotated[Address | None, Field(description="where to post to")] = None
    url_file: Annotated[Path | None, Field(description="file with the address, where the address is itself a secret")] = None
    secret_file: Annotated[
        Path,
        Field(
            description="file with the secret to sign with: `whsec_` and 24 to 64 bytes in base64, such as "
            '`echo "whsec_$(openssl rand -base64 32)"` writes; while it rotates, the new and the old one on lines of their own'
        ),
    ]
    max_bytes: Annotated[SizeBytes, Field(ge=16_384, description="largest body; evidence is cut first")] = 2**20

    @model_validator(mode="after")
    def _one_address(self) -> WebhookConfig:
        if (self.url is None) == (self.url_file is None):
            raise ValueError("expected either url or url_file")
        return self
