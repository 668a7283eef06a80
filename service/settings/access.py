"""Who may use the service."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator

from tidegate.service.api.cors import parse_origins
from tidegate.service.api.proxies import Proxies, parse_proxies
from tidegate.service.api.tls import TlsFiles
from tidegate.service.errors import SettingsInvalid
from tidegate.service.settings.theme import Theme
from tidegate.service.tokens import read_token


class AccessSettings(Theme):
    """Keys, certificates, proxies and the audit log."""

    keys: Path | None = Field(
        default=None,
        description="file with the API keys of the clients, which is followed; "
        "unset = every client may use every route but /admin",
    )
    admin_token_file: Path | None = Field(
        default=None,
        description="file with a bearer token for /admin; without it, /admin needs an API key with "
        "the scope admin",
    )
    trusted_proxies: str | None = Field(
        default=None,
        max_length=4000,
        description="networks of reverse proxies, for example 10.0.0.0/8,unix, whose "
        "X-Forwarded-For or Forwarded names the client; unset = the peer is the client",
    )
    tls_certificate: Path | None = Field(
        default=None,
        description="PEM file with the certificate and its chain, which is followed; "
        "unset = plain HTTP",
    )
    tls_key: Path | None = Field(
        default=None, description="PEM file with the key of the certificate, which is followed"
    )
    tls_client_ca: Path | None = Field(
        default=None,
        description="PEM file with the authorities of clients' certificates; with it every "
        "connection but those to the admin port needs one",
    )
    cors_origins: str | None = Field(
        default=None,
        max_length=4000,
        description="origins whose pages may use the service from a browser, for example "
        "https://app.example.com; * = all; unset = none",
    )
    audit_log: Path | None = Field(
        default=None,
        description="file that gets a JSON line for each decision, without the image; "
        "- = stderr; unset = disabled",
    )

    @field_validator("trusted_proxies")
    @classmethod
    def _every_proxy_is_a_network(cls, value: str | None) -> str | None:
        if value is not None:
            parse_proxies(value)
        return value

    @field_validator("cors_origins")
    @classmethod
    def _every_origin_is_one(cls, value: str | None) -> str | None:
        if value is not None:
            parse_origins(value)
        return value

    @model_validator(mode="after")
    def _certificate_and_key_fit_together(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("TIDEGATE_TLS_CERTIFICATE and TIDEGATE_TLS_KEY need each other")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("TIDEGATE_TLS_CLIENT_CA needs TIDEGATE_TLS_CERTIFICATE")
        return self

    def tls_files(self) -> TlsFiles | None:
        """Return the files of the certificate; None for plain HTTP."""
        if self.tls_certificate is None or self.tls_key is None:
            return None
        return TlsFiles(self.tls_certificate, self.tls_key, self.tls_client_ca)

    def proxies(self) -> Proxies | None:
        """Return the trusted proxies; None if there are none."""
        return None if self.trusted_proxies is None else parse_proxies(self.trusted_proxies)

    def origins(self) -> tuple[str, ...]:
        """Return the origins that may use the service from a browser."""
        return () if self.cors_origins is None else parse_origins(self.cors_origins)

    def admin_token(self) -> bytes | None:
        """Return the administrator's token; None if none is set. Raises SettingsInvalid."""
        if self.admin_token_file is None:
            return None
        try:
            return read_token(self.admin_token_file)
        except ValueError as error:
            raise SettingsInvalid(
                f"TIDEGATE_ADMIN_TOKEN_FILE={self.admin_token_file}: {error}."
            ) from error
