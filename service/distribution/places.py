"""From an address to its place; a library that is missing is reported with its extra."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from tidegate.service.distribution.folder import Folder
from tidegate.service.distribution.place import Place, RemotePlace
from tidegate.service.distribution.uri import Address
from tidegate.service.errors import TransferFailed


def open_place(address: Address) -> Place:
    """Return the place at an address. Raises TransferFailed if the extra for it is missing."""
    return open_remote(address) if address.scheme else Folder(Path(address.path))


def open_remote(address: Address) -> RemotePlace:
    """Return the place at a URI. Raises TransferFailed if the extra for it is missing."""
    if address.scheme == "oci":
        _require("oras", "oci", address)
        from tidegate.service.distribution.registry import Artifact

        return Artifact(address)
    _require("obstore", "remote", address)
    from tidegate.service.distribution.object_store import ObjectPlace

    return ObjectPlace(address)


def _require(library: str, extra: str, address: Address) -> None:
    if importlib.util.find_spec(library) is None:
        raise TransferFailed(
            f"{address.scheme}:// needs the package {library}: pip install 'tidegate[{extra}]' "
            f"(in a checkout: pip install -e '.[{extra}]')."
        )
