"""What the settings of every theme have in common."""

from __future__ import annotations

from typing import Any

from pydantic import model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "TIDEGATE_"


class Theme(BaseSettings):
    """Settings that belong together; its docstring is the heading of their table in the reference.

    A description has the unit, and says if 0 has a special meaning.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _blank_is_unset(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Drop blank values: compose writes `NAME=` for `${NAME:-}`, and Path("") is the cwd."""
        return {name: value for name, value in given.items() if not is_blank(value)}


def is_blank(value: object) -> bool:
    """Return whether a value counts as unset."""
    return value is None or (isinstance(value, str) and not value.strip())
