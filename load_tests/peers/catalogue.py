"""The peers of the comparison: how each is installed, started and sent requests."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from load_tests.client.requests import Form, Target, build_requests
from load_tests.server.start import free_port

HERE = Path(__file__).parent
ENVIRONMENTS = HERE.parent.parent / ".peers"  # not in git; `python -m load_tests peers-install`
MAX_BATCH = 8  # default batch limit of `bad-input`, so that every peer that can batch does
OURS = "tidegate"
_QUIET = {"OMP_NUM_THREADS": "1"}  # the thread budget: one per worker, two workers


@dataclass(frozen=True)
class Peer:
    """One server: its environment, its command and its form of requests.

    In `command` and `env`, `{port}`, `{port2}` and `{port3}` are free ports, `{python}` is its
    interpreter and `{bin}` the folder of its programs.
    """

    name: str
    packages: tuple[str, ...]  # whose versions are saved
    command: tuple[str, ...]
    path: str = "/classify"
    batched_path: str | None = None  # if batches need another path
    batched_field: str | None = None  # form field of the image on that path
    headers: tuple[str, ...] = ()  # additional headers of an image's request
    env: dict[str, str] = field(default_factory=dict)
    batch: int = 1  # largest batch; the value with the least CPU per image

    @property
    def requirements(self) -> Path:
        """Requirements file of its environment."""
        return HERE / self.name / "requirements.txt"

    def python(self, environments: Path) -> Path:
        """Return its interpreter, which exists if it is installed."""
        return environments / self.name / "bin" / "python"


@dataclass(frozen=True)
class Start:
    """How to start one server and send it an image."""

    name: str
    command: tuple[str, ...]
    env: dict[str, str]
    url: str
    field: str | None = None  # the form field of the image; None sends it raw
    headers: tuple[str, ...] = ()

    @property
    def target(self) -> Target:
        """The URL for images."""
        return Target.parse(self.url)

    def requests(self, paths: list[Path], deadline_ms: float | None = None) -> list[bytes]:
        """Return complete HTTP requests of the images, in the form that this server accepts."""
        form: Form = "raw" if self.field is None else "multipart"
        built = build_requests(paths, self.target, deadline_ms, form)
        return [self._adapted(request) for request in built]

    def _adapted(self, request: bytes) -> bytes:
        head, _, body = request.partition(b"\r\n\r\n")
        lines = [head, *(header.encode("ascii") for header in self.headers)]
        if self.field is not None:
            named = b'name="%s"' % self.field.encode("ascii")
            body = body.replace(b'name="file"', named, 1)
            length = b"Content-Length: %d" % len(body)
            lines = [
                b"\r\n".join(
                    length if x.startswith(b"Content-Length") else x for x in head.split(b"\r\n")
                ),
                *lines[1:],
            ]
        return b"\r\n".join(lines) + b"\r\n\r\n" + body


def start_ours(
    bundle: Path, name: str = OURS, settings: Mapping[str, str] = MappingProxyType({})
) -> Start:
    """Return how to start our server, configured to classify every image."""
    port = free_port()
    env = {
        "TIDEGATE_BUNDLE": str(bundle.resolve()),
        "TIDEGATE_PORT": str(port),
        "TIDEGATE_OOD_ACTION": "flag",
        "TIDEGATE_LOG_LEVEL": "warning",
        **settings,
    }
    command = (sys.executable, "-m", "tidegate.service", "serve")
    return Start(name, command, env, f"http://127.0.0.1:{port}/classify")


def start_peer(peer: Peer, environments: Path, model: Path, batch: int | None = None) -> Start:
    """Return how to start a peer with the plain model folder `model` and its largest batch.

    Without `batch` it is the peer's own value. Raises FileNotFoundError if it is not installed.
    """
    python = peer.python(environments.resolve())  # because it is started in another folder
    if not python.exists():
        raise FileNotFoundError(
            f"{peer.name} is not installed: python -m load_tests peers-install {peer.name}"
        )
    batch = batch or peer.batch
    words = {"python": str(python), "bin": str(python.parent), "port": str(free_port())}
    words |= {"port2": str(free_port()), "port3": str(free_port())}
    env = {key: value.format(**words) for key, value in peer.env.items()}
    env |= {"PORT": words["port"], "MODEL_DIR": str(model.resolve()), "BATCH": str(batch)}
    batched = batch > 1 and peer.batched_path is not None
    path = peer.batched_path if batched else peer.path
    return Start(
        name=peer.name,
        command=tuple(word.format(**words) for word in peer.command),
        env={**_QUIET, **env},
        url=f"http://127.0.0.1:{words['port']}{path}",
        field=peer.batched_field if batched else None,
        headers=peer.headers,
    )


def _module(name: str) -> tuple[str, ...]:
    return ("{python}", "-m", f"load_tests.peers.{name}.server")


PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            name="fastapi",
            packages=("fastapi", "uvicorn", "uvloop", "httptools", "openvino"),
            command=(
                "{python}",
                "-m",
                "uvicorn",
                "load_tests.peers.fastapi.server:app",
                "--port",
                "{port}",
                "--workers",
                "2",
                "--no-access-log",
                "--log-level",
                "warning",
            ),
        ),
        Peer(
            name="mosec",
            batch=4,
            packages=("mosec", "openvino"),
            command=(
                *_module("mosec"),
                "--address",
                "127.0.0.1",
                "--port",
                "{port}",
                "--timeout",
                "30000",
                "--log-level",
                "warning",
            ),
        ),
        Peer(
            name="litserve",
            batch=4,
            packages=("litserve", "fastapi", "uvicorn"),
            command=_module("litserve"),
        ),
        Peer(
            name="bentoml",
            packages=("bentoml",),
            command=(
                "{bin}/bentoml",
                "serve",
                "load_tests.peers.bentoml.server:Classify",
                "--host",
                "127.0.0.1",
                "--port",
                "{port}",
            ),
            batched_path="/classify-batched",
            batched_field="images",
            env={"BENTOML_DO_NOT_TRACK": "True"},
        ),
        Peer(
            name="mlserver",
            packages=("mlserver", "fastapi", "uvicorn"),
            command=("{bin}/mlserver", "start", str(HERE / "mlserver")),
            env={
                "MLSERVER_HOST": "127.0.0.1",
                "MLSERVER_HTTP_PORT": "{port}",
                "MLSERVER_GRPC_PORT": "{port2}",
                "MLSERVER_METRICS_PORT": "{port3}",
                "MLSERVER_PARALLEL_WORKERS": "2",
            },
        ),
        Peer(
            name="ray",
            packages=("ray",),
            command=_module("ray"),
            env={"RAY_SERVE_THROUGHPUT_OPTIMIZED": "1", "RAY_USAGE_STATS_ENABLED": "0"},
        ),
        Peer(
            name="pytriton",
            batch=4,
            packages=("nvidia-pytriton",),
            command=_module("pytriton"),
            path="/v2/models/classifier/infer",
            headers=("Inference-Header-Content-Length: 0",),
        ),
    )
}
