"""A bundle's place in an OCI registry: an artifact with one layer for each file.

A layer's digest is the sha256 of its file, which the bundle's manifest has too. The library, oras,
has the protocol of uploads and the login; it reads the credentials of `docker login`.
"""

from __future__ import annotations

import ipaddress
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
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
    from requests import Response

ARTIFACT_TYPE = "application/vnd.tidegate.bundle"
MAX_IMAGE_MANIFEST_BYTES = 4 << 20  # what registries accept
RETRIES = 5
_TITLE = "org.opencontainers.image.title"
_MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
_FILE_TYPE = "application/octet-stream"
_TIMEOUT_S = (10.0, 60.0)  # to connect, and between two reads
_IN_CHUNKS_BYTES = 64 << 20  # larger files are sent in parts, because oras reads a part at once


class Artifact:
    """One tag of a repository."""

    def __init__(self, address: Address) -> None:
        self._address = address
        with self._failures(""):
            self._registry, self._container = _open(address)

    def __str__(self) -> str:
        return str(self._address)

    def read(self, name: str, start: int = 0) -> Iterator[bytes]:
        """Yield the content of a layer from byte `start` on."""
        with self._failures(name):
            if name not in self._blobs:
                raise FileMissing(f"{self}: there is no {name}.")
            url = self._container.get_blob_url(self._blobs[name])
            headers = {"Range": f"bytes={start}-"} if start else {}
            with self._get(url, name, headers) as answer:
                if start and answer.status_code != 206:
                    raise Interrupted(f"{self}: the registry does not continue a transfer.")
                yield from answer.iter_content(CHUNK_BYTES)

    def publish(self, folder: Path, names: Sequence[str], progress: Progress) -> None:
        """Upload the files that the registry does not have, and then the artifact's manifest."""
        from oras import oci

        layers = []
        for name in names:
            layer = oci.NewLayer(str(folder / name), media_type=_FILE_TYPE)
            self._upload(folder / name, layer)
            progress(layer["size"])
            layers.append({**layer, "annotations": {_TITLE: name}})
        with self._failures("its manifest"):
            manifest = {
                "schemaVersion": 2,
                "mediaType": _MANIFEST_TYPE,
                "artifactType": ARTIFACT_TYPE,
                "config": self._empty_config(),
                "layers": layers,
            }
            self._check(self._registry.upload_manifest(manifest, self._container), "its manifest")

    @cached_property
    def _blobs(self) -> dict[str, str]:
        """The digest of each file's layer."""
        url = self._container.manifest_url()
        with self._get(url, "its manifest", {"Accept": _MANIFEST_TYPE}) as answer:
            content = b""
            for chunk in answer.iter_content(CHUNK_BYTES):
                content += chunk
                if len(content) > MAX_IMAGE_MANIFEST_BYTES:
                    raise TransferFailed(f"{self}: the artifact's manifest is too large.")
        try:
            layers = json.loads(content)["layers"]
            return {layer["annotations"][_TITLE]: str(layer["digest"]) for layer in layers}
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise TransferFailed(
                f"{self} is not a bundle that `tidegate bundle push` has pushed."
            ) from error

    def _upload(self, path: Path, layer: dict[str, Any]) -> None:
        with self._failures(path.name):
            in_chunks = layer["size"] > _IN_CHUNKS_BYTES
            answer = self._registry.upload_blob(
                str(path), self._container, layer, do_chunked=in_chunks
            )
            self._check(answer, path.name)

    def _empty_config(self) -> dict[str, Any]:
        import tempfile

        from oras import oci

        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            file.write(b"{}")
            file.flush()
            config: dict[str, Any] = oci.NewLayer(file.name, media_type=_EMPTY_TYPE)
            self._upload(Path(file.name), config)
        return {key: config[key] for key in ("mediaType", "size", "digest")}

    def _get(self, url: str, name: str, headers: dict[str, str]) -> Response:
        answer: Response = self._registry.do_request(
            f"{self._registry.prefix}://{url}",
            headers={"Accept-Encoding": "identity", **headers},
            stream=True,
        )
        return self._check(answer, name)

    def _check(self, answer: Response, name: str) -> Response:
        """Return an answer whose status reports success; otherwise raise an error of a place."""
        if answer.ok:
            return answer
        answer.close()
        what = f"{self}: {name}: the registry answered {answer.status_code} {answer.reason}"
        if answer.status_code == 404:
            raise FileMissing(f"{what}. Check the repository and the tag.")
        if answer.status_code in (401, 403):
            raise self._denied(name, f"{answer.status_code} {answer.reason}")
        raise Interrupted(f"{what}.")

    @contextmanager
    def _failures(self, name: str) -> Iterator[None]:
        """Raise the errors of the libraries as those of a place."""
        from oras.auth import AuthenticationException
        from requests.exceptions import RequestException

        where = f"{self}: {name}" if name else f"{self}"
        try:
            yield
        except (RequestException, OSError) as error:
            raise Interrupted(f"{where}: {error}") from error
        except (AuthenticationException, ValueError) as error:  # a challenge without an answer
            raise self._denied(name, f"{error}") from error

    def _denied(self, name: str, reason: str) -> AccessDenied:
        return AccessDenied(
            f"{self}: {name}: access denied ({reason.rstrip('.')}). "
            f"Log in with `docker login {self._address.host}`."
        )


def _open(address: Address) -> tuple[Any, Any]:
    """Return oras's registry and container for an address; plain HTTP only on this machine."""
    from oras.auth.token import TokenAuth
    from oras.provider import Registry
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    class Adapter(HTTPAdapter):
        def send(self, *args: Any, **options: Any) -> Response:
            return super().send(*args, **{**options, "timeout": _TIMEOUT_S})

    class Auth(TokenAuth):  # type: ignore[misc]  # oras has no types
        def authenticate_request(
            self, original: Response, headers: dict[str, str], refresh: bool = False
        ) -> tuple[dict[str, str], bool]:
            """Answer a challenge. oras takes a Basic one for a token's, and keeps an old token."""
            self.token = None  # it has expired, or is for reading only
            if original.headers.get("WWW-Authenticate", "").lower().startswith("basic"):
                login = getattr(self, "_basic_auth", None)
                if login is None:
                    return headers, False
                self.session.headers["Authorization"] = f"Basic {login}"
                return headers, True
            answered: tuple[dict[str, str], bool] = super().authenticate_request(
                original, headers, refresh
            )
            return answered

    class Client(Registry):  # type: ignore[misc]  # oras has no types
        def do_request(self, *args: Any, **options: Any) -> Response:
            """Send a request without oras's own retries, which last minutes for any error."""
            answer: Response = Registry.do_request.__wrapped__(self, *args, **options)
            return answer

    # oras also prints what it raises.
    logging.getLogger("oras.logger").setLevel(logging.CRITICAL)
    registry = Client(insecure=_is_loopback(address.host))
    auth = Auth()
    auth.session, auth.prefix, auth._tls_verify = registry.session, registry.prefix, True
    registry.auth = auth
    retry = Retry(
        total=RETRIES, backoff_factor=0.2, status_forcelist=(429, 502, 503), raise_on_status=False
    )
    for prefix in ("http://", "https://"):
        registry.session.mount(prefix, Adapter(max_retries=retry))
    container = registry.get_container(f"{address.host}/{address.path}")
    registry.auth.load_configs(container)
    return registry, container


def _is_loopback(host: str) -> bool:
    name = host.rpartition(":")[0] or host
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
