"""What the service answers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from tidegate.service.api.dialects.names import NAMES, parse_names
from tidegate.service.settings.theme import Theme


class AnswerSettings(Theme):
    """Protocols, rejected images and the page."""

    dialects: str = Field(
        default="v2",
        max_length=200,
        description="other protocols to answer, in a comma-separated list: "
        f"{', '.join(NAMES)}; none = only /classify",
    )
    ood_action: Literal["reject", "flag"] = Field(
        default="reject",
        description="response to a rejected image: reject = 422 problem, flag = 200 answer",
    )
    page: Literal["on", "off"] = Field(
        default="on", description="whether browsers get the page at `/`"
    )

    @field_validator("dialects")
    @classmethod
    def _every_dialect_is_known(cls, value: str) -> str:
        parse_names(value)
        return value

    def dialect_names(self) -> tuple[str, ...]:
        """Return the names of the dialects that are on."""
        return parse_names(self.dialects)
