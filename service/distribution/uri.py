"""The address of a bundle: a folder, or a URI, that may end in `@sha256:` and its digest. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from tidegate.service.errors import TransferFailed

SCHEMES = ("https", "s3", "gs", "az", "oci")
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_OCI = re.compile(  # registry/repository:tag, as in the OCI distribution specification
    r"[A-Za-z0-9.-]+(:\d+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+:[A-Za-z0-9_][A-Za-z0-9._-]{0,127}"
)


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed address; `scheme` is "" for a folder."""

    scheme: str
    host: str  # or the bucket or container
    path: str  # without slashes at its ends; for a folder, the folder
    digest: str | None

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}/{self.path}".rstrip("/") if self.scheme else self.path


def parse(text: str) -> Address:
    """Parse a folder or a URI. Raises TransferFailed with what is accepted."""
    place, at, digest = text.rpartition("@")
    if not at or (not digest.startswith("sha256:") and "://" not in text):
        place, digest = text, ""  # the "@" of a folder's name
    elif not _DIGEST.fullmatch(digest):
        raise TransferFailed(
            f"{text}: after @ there must be sha256: and the bundle's digest, 64 hexadecimal digits."
        )
    sealed = digest.removeprefix("sha256:") or None
    if "://" not in place:
        return Address("", "", place, sealed)
    scheme, _, rest = place.partition("://")
    if scheme == "oci":
        return _oci(rest, sealed)
    parts = urlsplit(place)
    if scheme not in SCHEMES:
        raise TransferFailed(
            f"{text}: {scheme}:// is not supported. Use a folder or "
            f"{', '.join(f'{name}://' for name in SCHEMES)}."
        )
    if not parts.netloc or parts.query or parts.fragment or "@" in parts.netloc:
        raise TransferFailed(
            f"{text} must be {scheme}://, a host, bucket or container, and the path of the "
            "bundle's folder, without a user, a query or a fragment."
        )
    return Address(scheme, parts.netloc, parts.path.strip("/"), sealed)


def _oci(rest: str, digest: str | None) -> Address:
    if not _OCI.fullmatch(rest):
        raise TransferFailed(
            f"oci://{rest} must be oci://REGISTRY/REPOSITORY:TAG in lower case; the digest after @ "
            "is the bundle's, not the image's."
        )
    host, _, path = rest.partition("/")
    return Address("oci", host, path, digest)
