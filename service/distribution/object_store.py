"""A bundle's place in an object store (S3, Google Cloud Storage, Azure) or below an https URL.

The library, obstore, has the protocols, credentials and retries; it reads the environment variables
of each cloud, such as AWS_REGION and AWS_ENDPOINT_URL.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidegate.service.distribution.place import (
    CHUNK_BYTES,
    AccessDenied,
    FileMissing,
    Interrupted,
    Progress,
)
from tidegate.service.distribution.uri import Address
from tidegate.service.errors import TransferFailed

if TYPE_CHECKING:
    from obstore.store import ObjectStore

RETRIES: dict[str, Any] = {"max_retries": 5, "retry_timeout": timedelta(minutes=2)}
# A transfer may take long, but must make progress.
_CLIENT = {"connect_timeout": "10s", "read_timeout": "60s", "timeout": "1day"}
_PREFIXES = {"s3": "AWS", "gs": "GOOGLE", "az": "AZURE"}  # of the clouds' environment variables
_SHOWN = 300  # characters of the library's message, which may quote a page
# What the library reports only in its debugging text.
_CAUSES = {
    re.compile(r'(?:message|error): "([^"]+)"'): "",
    re.compile(r"InvalidCertificate\(\s*(\w+)"): "invalid certificate: ",
}


class ObjectPlace:
    """The objects with one prefix."""

    def __init__(self, address: Address) -> None:
        self._address = address
        with self._failures(""):
            self._store = _open(address)

    def __str__(self) -> str:
        return str(self._address)

    def read(self, name: str, start: int = 0) -> Iterator[bytes]:
        """Yield the content of an object from byte `start` on."""
        import obstore

        with self._failures(name):
            options: Any = {"range": {"offset": start}} if start else {}
            result = obstore.get(self._store, name, options=options)
            for chunk in result.stream(min_chunk_size=CHUNK_BYTES):
                yield bytes(chunk)

    def names(self) -> list[str]:
        """Return the names of all objects, relative to the prefix. Raises TransferFailed."""
        import obstore

        if self._address.scheme == "https":
            raise TransferFailed(f"{self}: https cannot list files. Name one, or use --list.")
        with self._failures(""):
            return [found["path"] for batch in obstore.list(self._store) for found in batch]

    def publish(self, folder: Path, names: Sequence[str], progress: Progress) -> None:
        """Upload files one after the other; large ones in parts."""
        import obstore

        if self._address.scheme == "https":
            raise TransferFailed(f"{self}: https is for pulling only. Push to another place.")
        for name in names:
            try:
                with self._failures(name):
                    obstore.put(self._store, name, folder / name)
            except FileMissing as error:
                raise TransferFailed(
                    f"{self}: there is no bucket or container {self._address.host}."
                ) from error
            progress((folder / name).stat().st_size)

    @contextmanager
    def _failures(self, name: str) -> Iterator[None]:
        """Raise the errors of the library as those of a place."""
        from obstore import exceptions

        where = f"{self}: {name}" if name else f"{self}"
        try:
            yield
        except FileNotFoundError as error:
            raise FileMissing(f"{self}: there is no {name}.") from error
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
            raise AccessDenied(
                f"{where}: access denied. Check the credentials in the environment and what they "
                f"may do. {_short(error)}"
            ) from error
        except (exceptions.BaseError, OSError, ValueError) as error:
            raise Interrupted(f"{where}: {_short(error)}") from error


def _open(address: Address) -> ObjectStore:
    from obstore import store

    options: dict[str, Any] = {"client_options": _CLIENT, "retry_config": RETRIES}
    if address.scheme == "https":
        return store.HTTPStore(str(address), **options)
    # These options replace those of the environment, so the one that matters is read here.
    allow_http = os.environ.get(f"{_PREFIXES[address.scheme]}_ALLOW_HTTP", "").lower() == "true"
    options["client_options"] = {**_CLIENT, "allow_http": allow_http}
    options["prefix"] = address.path or None
    if address.scheme == "s3":
        return store.S3Store(address.host, **options)
    if address.scheme == "gs":
        return store.GCSStore(address.host, **options)
    return store.AzureStore(address.host, **options)


def _short(error: Exception) -> str:
    """Return the first line of the library's message, with a cause from its debugging text."""
    text, _, debug = str(error).partition("\n\n")
    text = " ".join(text.split())
    found = [words + match[1] for form, words in _CAUSES.items() if (match := form.search(debug))]
    cause = found[0] if found else ""
    if "builder error" in text:
        cause = "the URL is malformed, or it is http:// and the cloud's …_ALLOW_HTTP is not true"
    shown = text[:_SHOWN] + ("…" if len(text) > _SHOWN else "")
    return f"{shown} ({cause})" if cause else shown
