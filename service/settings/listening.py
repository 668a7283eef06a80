"""Where the service listens, and on which platform."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator

from tidegate.service import platforms
from tidegate.service.addresses import split_hosts
from tidegate.service.api.root_path import is_prefix
from tidegate.service.errors import SettingsInvalid
from tidegate.service.platforms import Platform
from tidegate.service.settings.theme import Theme


class ListeningSettings(Theme):
    """Addresses, ports and connections."""

    platform: Platform | None = Field(
        default=None,
        description="platform that runs the container: its port, bundle folder, dialects and drain "
        "times become the defaults of these settings; unset = none",
    )
    host: str = Field(
        default="127.0.0.1",
        max_length=1000,
        description="addresses or host names to listen on, for example 127.0.0.1,::1; "
        ":: = all IPv4 and IPv6 addresses; none = only the unix socket",
    )
    port: int = Field(default=8000, ge=0, le=65535, description="TCP port; 0 = any free port")
    admin_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="TCP port on which alone /metrics, /drift, /models and /admin answer, besides "
        "the probes; unset = the same port",
    )
    grpc_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="TCP port of the Open Inference Protocol over gRPC, for which the extra grpc "
        "is needed; 0 = any free port, unset = disabled",
    )
    unix_socket: Path | None = Field(
        default=None,
        description="path of a unix socket to listen on, too; its clients share one quota, because "
        "they have no address; unset = disabled",
    )
    unix_socket_mode: str = Field(
        default="660", pattern=r"^[0-7]{3}$", description="permissions of that socket, octal"
    )
    root_path: str = Field(
        default="",
        max_length=200,
        description="path prefix at which a proxy serves Tidegate, such as /vision; requests may "
        "have it or not; if blank, links follow X-Forwarded-Prefix",
    )
    keep_alive_s: float = Field(
        default=75,
        gt=0,
        le=3600,
        description="time after which an idle connection is closed; longer than that of the load "
        "balancer in front, which must not reuse a closed connection",
    )

    @field_validator("host")
    @classmethod
    def _every_address_is_one(cls, value: str) -> str:
        split_hosts(value)
        return value

    @field_validator("root_path")
    @classmethod
    def _root_path_is_a_prefix(cls, value: str) -> str:
        value = value.rstrip("/")
        if value and not is_prefix(value):
            raise ValueError("a path prefix starts with /, such as /vision")
        return value

    @model_validator(mode="after")
    def _listeners_fit_together(self) -> Self:
        if not self.hosts() and self.unix_socket is None:
            raise ValueError("TIDEGATE_HOST=none needs TIDEGATE_UNIX_SOCKET")
        if self.admin_port and self.admin_port == self.port:
            raise ValueError("TIDEGATE_ADMIN_PORT is the same as TIDEGATE_PORT")
        return self

    def hosts(self) -> tuple[str, ...]:
        """Return the hosts to listen on."""
        return split_hosts(self.host)

    def platform_facts(self) -> platforms.Facts:
        """Return what the platform's variables say. Raises SettingsInvalid."""
        try:
            return platforms.facts(os.environ)
        except ValueError as error:
            raise SettingsInvalid(f"{error}.") from error
