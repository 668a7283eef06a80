"""What there is to compare with: how each peer is installed, started and asked."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from load_tests.client.requests import Form, Target, build_requests
from load_tests.server.start import free_port

HERE = Path(__file__).parent
ENVIRONMENTS = HERE.parent.parent / ".peers"  # not in git; `python -m load_tests peers-install`
MAX_BATCH = 8  # where every peer that can is asked to batch
OURS = "tidegate"
_QUIET = {"OMP_NUM_THREADS": "1"}  # the thread budget: one per worker, two workers


@dataclass(frozen=True)
class Peer:
    """One server: its environment, its command and its way of taking an image.

    In `command` and `env`, `{port}` and `{port2}`, `{port3}` stand for free ports, `{python}` for
    its interpreter and `{bin}` for the folder of its programs.
    """

    name: str
    packages: tuple[str, ...]  # whose versions are worth keeping
    command: tuple[str, ...]
    path: str = "/classify"
    batched_path: str | None = None  # when that is another
    batched_field: str | None = None  # and takes a form with the image in this field
    headers: tuple[str, ...] = ()  # that an image's request needs besides
    env: dict[str, str] = field(default_factory=dict)
    batch: int = 1  # images per batch at most, where it spends the least CPU per image

    @property
    def requirements(self) -> Path:
        """What its environment is made of."""
        return HERE / self.name / "requirements.txt"

    def python(self, environments: Path) -> Path:
        """Its interpreter, which exists when it is installed."""
        return environments / self.name / "bin" / "python"


@dataclass(frozen=True)
class Start:
    """One server about to be started: what to run, and how to send it an image."""

    name: str
    command: tuple[str, ...]
    env: dict[str, str]
    url: str
    field: str | None = None  # the form field of the image; None sends it raw
    headers: tuple[str, ...] = ()

    @property
    def target(self) -> Target:
        """Where its images go."""
        return Target.parse(self.url)

    def requests(self, paths: list[Path], deadline_ms: float | None = None) -> list[bytes]:
        """Whole HTTP requests of the images, as this server takes them."""
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


def start_ours(bundle: Path) -> Start:
    """Our own server, answering every image in full."""
    port = free_port()
    env = {
        "TIDEGATE_BUNDLE": str(bundle.resolve()),
        "TIDEGATE_PORT": str(port),
        "TIDEGATE_OOD_ACTION": "flag",
        "TIDEGATE_LOG_LEVEL": "warning",
    }
    command = (sys.executable, "-m", "tidegate.service", "serve")
    return Start(OURS, command, env, f"http://127.0.0.1:{port}/classify")


def start_peer(peer: Peer, environments: Path, model: Path, batch: int | None = None) -> Start:
    """A peer with the plain model folder `model`, forming batches of at most `batch`, or its own.

    Raises FileNotFoundError when it is not installed.
    """
    python = peer.python(environments.resolve())  # it is started in another folder
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
            packages=("fastapi", "uvicorn", "uvloop", "httptools"),
            command=(
                *("{python}", "-m", "uvicorn", "load_tests.peers.fastapi.server:app"),
                *("--port", "{port}", "--workers", "2", "--no-access-log"),
                *("--log-level", "warning"),
            ),
        ),
        Peer(
            name="mosec",
            batch=4,
            packages=("mosec",),
            command=(
                *_module("mosec"),
                *("--address", "127.0.0.1", "--port", "{port}", "--timeout", "30000"),
                *("--log-level", "warning"),
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
                *("{bin}/bentoml", "serve", "load_tests.peers.bentoml.server:Classify"),
                *("--host", "127.0.0.1", "--port", "{port}"),
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
