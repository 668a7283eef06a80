"""Scenarios of several versions: those that are refused, and kills while they change."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from load_tests.chaos.setting import ANSWER_S, Outcome, Server, Setting, Traffic
from load_tests.chaos.signals import gone
from load_tests.client.requests import Target
from load_tests.errors import MeasurementFailed
from load_tests.fuzz.server import QUICK, good_request
from load_tests.rollout.models_folder import Log, ModelsFolder
from load_tests.rollout.versions import DAMAGED, copied, digest_of, name_of, retrained
from load_tests.server.start import ROOT, send_request

_ENV = {**QUICK, "TIDEGATE_LOG_LEVEL": "info", "TIDEGATE_ROLLBACK_S": "0"}
_LOAD_S = 60.0
_PAUSE_S = 0.1  # between two requests of the normal client
_COMMAND = (sys.executable, "-m", "tidegate.service")
_PROMOTIONS, _PULLS = 10, 6  # that are killed
_LOADING_S = (0.5, 2.0, 3.5, 5.0)  # from a change of the serving file to the kill
_TOO_LARGE = "too-large"
REASONS = {  # what is said about each version that is refused
    "tampered": "has changed since it was sealed",
    "wrong-precision": "differ by",
    "failing-probes": "differ by",
    _TOO_LARGE: "MiB are available",
    "unsigned": "sign",
}


async def refused(setting: Setting) -> Outcome:
    """Serve versions that are tampered with, wrong, and, if root, too large for the memory."""
    with _models(setting.bundle) as models:
        for name, damage in DAMAGED.items():
            damage(setting.bundle, models.path(name), name)
        names, before = list(DAMAGED), list[str]()
        memory = models.folder / ".meminfo"
        if os.geteuid() == 0:
            copied(setting.bundle, models.path(_TOO_LARGE), _TOO_LARGE)
            names.append(_TOO_LARGE)
            shutil.copyfile("/proc/meminfo", memory)
            before = [sys.executable, "-m", "load_tests.chaos.launch", f"meminfo={memory}", "--"]
        async with _served(models, before=before) as server, _normal_client(server) as traffic:
            reasons = {}
            for name in names:
                if name == _TOO_LARGE:
                    memory.write_text("MemAvailable: 65536 kB\n", encoding="ascii")
                reasons[name] = await _refusal(server, models, name)
    skipped = "" if before else f"; {_TOO_LARGE} skipped, because it needs root"
    return refusals(reasons, traffic, skipped)


async def unsigned(setting: Setting) -> Outcome:
    """Serve a version that no trusted key has signed, after one that was."""
    with _models(setting.bundle) as models:
        retrained(setting.bundle, models.path("unsigned"), "unsigned")
        keys = models.folder / ".keys"
        key = _new_key(keys)
        _run("bundle", "sign", str(models.path("1")), "--key", str(key))
        env = {"TIDEGATE_TRUSTED_KEYS": str(keys / "trusted")}
        async with _served(models, env) as server, _normal_client(server) as traffic:
            reasons = {"unsigned": await _refusal(server, models, "unsigned")}
    return refusals(reasons, traffic)


def refusals(reasons: Mapping[str, str], traffic: Traffic, note: str = "") -> Outcome:
    """Return the outcome from the reason given for each version; "" if it was not refused."""
    wrong = [name for name, reason in reasons.items() if REASONS[name] not in reason]
    seen = f"{len(reasons) - len(wrong)} of {len(reasons)} refused, {traffic}{note}"
    if wrong:
        seen += f"; {wrong[0]}: {reasons[wrong[0]] or 'served'}"
    return Outcome(seen, not wrong and traffic.goodput == 1)


async def killed_loading(setting: Setting) -> Outcome:
    """SIGKILL while a version is loaded during traffic; then start again."""
    right = 0
    with _models(setting.bundle) as models:
        retrained(setting.bundle, models.path("2"), "2")
        for number, after_s in enumerate(_LOADING_S):
            version = "21"[number % 2]
            async with _served(models) as server, _normal_client(server):
                models.serve(version)
                await asyncio.sleep(after_s)
                os.kill(server.pid, signal.SIGKILL)
                await gone(server)
            async with _served(models) as server:
                right += await _stable(server) == digest_of(models.path(version))
    seen = f"{right} of {len(_LOADING_S)} restarts serve what the file says"
    return Outcome(seen, right == len(_LOADING_S))


async def killed_promoting(setting: Setting) -> Outcome:
    """SIGKILL to `tidegate serving promote` at several moments; each leaves one of two files."""
    with _models(setting.bundle) as models:
        retrained(setting.bundle, models.path("2"), "2")
        place = ("--models", str(models.folder))
        promote = ("serving", "promote", models.model, *place)
        stable_of = {False: "1", True: "2"}
        found = Counter[str]()

        def prepare() -> None:
            models.serve("1")
            _run("serving", "set", models.model, "canary=2:0.1", *place)

        for _ in _kills(prepare, promote, _PROMOTIONS):
            served = _serving(models)
            promoted = "canary" not in served
            found["promoted" if promoted else "not promoted"] += 1
            found["torn"] += served["stable"] != stable_of[promoted]
        async with _served(models) as server:
            digest = await _stable(server)
        right = digest == digest_of(models.path(_serving(models)["stable"]))
    seen = f"{found['not promoted']} kills before and {found['promoted']} after the change"
    return Outcome(f"{seen}, {found['torn']} torn", right and not found["torn"])


async def killed_pulling(setting: Setting) -> Outcome:
    """SIGKILL to `tidegate bundle pull` at several moments; the folder serves complete bundles."""
    with _models(setting.bundle) as models, _folder() as store:
        retrained(setting.bundle, store / "2", "2")
        models.serve("latest")
        digests = {"1": digest_of(models.path("1")), "2": digest_of(store / "2")}
        pull = ("bundle", "pull", f"{store / '2'}@sha256:{digests['2']}", str(models.folder))
        found = Counter[str]()

        def prepare() -> None:
            shutil.rmtree(models.path("2"), ignore_errors=True)

        for _ in _kills(prepare, pull, _PULLS):
            version = "2" if models.path("2").exists() else "1"
            async with _served(models) as server:
                found[version] += await _stable(server) == digests[version]
        _run(*pull)
        async with _served(models) as server:
            finished = await _stable(server) == digests["2"]
    seen = f"{found['1']} kills before and {found['2']} after the version appeared"
    right = found.total() == _PULLS and finished
    return Outcome(f"{seen}, a repeated pull is {'served' if finished else 'not served'}", right)


def _kills(prepare: Callable[[], None], words: Sequence[str], number: int) -> Iterator[None]:
    """Kill a command at `number` evenly spaced moments of the time that it takes."""
    prepare()
    begun = time.monotonic()
    _run(*words)
    took_s = time.monotonic() - begun
    for kill in range(1, number + 1):
        prepare()
        process = subprocess.Popen(  # noqa: S603 - this project's own command
            (*_COMMAND, *words), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(took_s * kill / number)
        process.kill()
        process.wait()
        yield


def _run(*words: str) -> None:
    """Run a command of the service. Raises MeasurementFailed if it fails."""
    done = subprocess.run(  # noqa: S603 - this project's own command
        (*_COMMAND, *words), cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise MeasurementFailed(f"tidegate {' '.join(words)}: {done.stderr.strip()}")


async def _refusal(server: Server, models: ModelsFolder, version: str) -> str:
    """Serve a version; return why it is refused, or "". Then serve version 1 again."""
    await _serve(server, models, version)
    listed = await _listed(server)
    await _serve(server, models, "1")
    if listed["models"][0]["digest"] != digest_of(models.path("1")):
        return ""
    return next((one["reason"] for one in listed["refused"] if one["version"] == version), "")


async def _serve(server: Server, models: ModelsFolder, version: str) -> None:
    """Change the serving file, and wait until the service has served or refused it."""
    log = Log(server.started.log)
    models.serve(version)
    await log.message(
        f"reload of {models.model}: ", "what shall be served is refused", timeout_s=_LOAD_S
    )


async def _stable(server: Server) -> str:
    """Return the digest of what is served by default, and of the valid image's answer."""
    answer = await send_request(server.target, good_request(), ANSWER_S)
    listed = await _listed(server)
    digest: str = listed["models"][0]["digest"]
    answered = answer is not None and json.loads(answer.body)["model"]["digest"] == digest
    return digest if answered else ""


async def _listed(server: Server) -> dict[str, Any]:
    answer = await server.get(b"/models")
    if answer is None or answer.status != 200:
        raise MeasurementFailed("GET /models was not answered")
    body: dict[str, Any] = json.loads(answer.body)
    return body


def _serving(models: ModelsFolder) -> dict[str, Any]:
    """Return the model's table of the serving file. Raises MeasurementFailed if it is not TOML."""
    try:
        content = tomllib.loads((models.folder / "serving.toml").read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise MeasurementFailed(f"the serving file is damaged: {error}") from error
    table: dict[str, Any] = content[models.model]
    return table


@contextmanager
def _models(bundle: Path) -> Iterator[ModelsFolder]:
    """Yield a folder whose stable version is 1, a copy of the bundle."""
    with _folder() as folder:
        models = ModelsFolder(folder, name_of(bundle))
        models.path("1").parent.mkdir()
        copied(bundle, models.path("1"), "1")
        models.serve("1")
        yield models


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="load-tests-") as folder:
        yield Path(folder)


@asynccontextmanager
async def _served(
    models: ModelsFolder, env: Mapping[str, str] | None = None, before: Sequence[str] = ()
) -> AsyncIterator[Server]:
    async with models.served({**_ENV, **(env or {})}, before) as started:
        yield Server(started, Target.parse(started.url))


@asynccontextmanager
async def _normal_client(server: Server) -> AsyncIterator[Traffic]:
    """Send the valid image again and again while the block runs."""
    traffic, ended = Traffic(), asyncio.Event()

    async def send() -> None:
        while not ended.is_set():
            await traffic.one(server, None)
            await asyncio.sleep(_PAUSE_S)

    sending = asyncio.create_task(send())
    try:
        yield traffic
    finally:
        ended.set()
        await sending


def _new_key(folder: Path) -> Path:
    """Write a private key and, in the folder `trusted`, its public key; return the first."""
    key = ec.generate_private_key(ec.SECP256R1())
    (folder / "trusted").mkdir(parents=True)
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (folder / "trusted" / "release.pem").write_bytes(public)
    private = folder / "key.pem"
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return private
