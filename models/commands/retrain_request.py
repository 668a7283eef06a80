"""`tidegate retrain-request`: file a request for retraining when drift fires."""

from __future__ import annotations

import argparse
from datetime import timedelta
from pathlib import Path

from tidegate.models.retrain.access import make_token, read_token, require_loopback
from tidegate.models.retrain.app import build, listen, serve
from tidegate.models.retrain.errors import OptionRefused
from tidegate.models.retrain.folder import RequestFolder
from tidegate.models.retrain.prometheus import Prometheus
from tidegate.models.retrain.receiver import Receiver
from tidegate.models.retrain.runner import Runner, words_of
from tidegate.service import logs


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(
        prog="tidegate retrain-request",
        description="Receive drift alerts from Alertmanager (POST /alerts) and file one request "
        "for retraining per model, version, digest and alert group, with evidence from Prometheus. "
        "Nothing is filed while the OOD rate is high. It never deploys a model, and starts nothing "
        "but the command you give. GET /requests lists what was filed; delete a request to allow "
        "another before its cool-down ends.",
    )
    options.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="where requests are filed"
    )
    options.add_argument("--host", default="127.0.0.1", help="(default: %(default)s)")
    options.add_argument(
        "--port", type=int, default=9000, help="0 lets the system choose (default: %(default)s)"
    )
    options.add_argument(
        "--prometheus",
        default="http://127.0.0.1:9090",
        metavar="URL",
        help="whom to ask for evidence (default: %(default)s)",
    )
    options.add_argument(
        "--cool-down-h",
        type=float,
        default=24.0,
        metavar="HOURS",
        help="how long a request covers the same drift (default: %(default)g)",
    )
    access = options.add_argument_group("who may use it")
    access.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="a secret that every request but GET /livez has to send as a bearer token (default: "
        "none, and only loopback is listened on)",
    )
    access.add_argument(
        "--make-token",
        action="store_true",
        help="write a random token into that file if it does not exist",
    )
    samples = options.add_argument_group("images to look at")
    samples.add_argument(
        "--review-dir", type=Path, metavar="DIR", help="DIR/<day>/<id>.json, kept by the service"
    )
    samples.add_argument(
        "--samples",
        type=int,
        default=100,
        metavar="N",
        help="ids in a request, spread over the predicted classes (default: %(default)s)",
    )
    command = options.add_argument_group("what happens next")
    command.add_argument(
        "--run",
        metavar="COMMAND",
        help="run this, without a shell, with the request's path as last argument; one at a time, "
        "once per request, even if it fails (default: only file)",
    )
    command.add_argument(
        "--run-timeout-h",
        type=float,
        default=24.0,
        metavar="HOURS",
        help="end the command after this long (default: %(default)g)",
    )
    return options


def run(options: argparse.Namespace) -> None:
    """Receive until told to stop."""
    for name, least, most in (("cool_down_h", 0, 8760), ("run_timeout_h", 0, 8760)):
        if not least < getattr(options, name) <= most:
            raise OptionRefused(f"--{name.replace('_', '-')}: give a number of hours up to {most}.")
    if not 0 <= options.samples <= 10_000:
        raise OptionRefused("--samples: give a number from 0 to 10000.")
    logs.configure("info", "auto")
    folder = RequestFolder(options.out, timedelta(hours=options.cool_down_h))
    ask = Prometheus(options.prometheus)
    words = words_of(options.run) if options.run else None
    token = _token(options)
    folder.open()
    with listen(options.host, options.port) as listener:
        if token is None:
            require_loopback(listener)
        runner = Runner(words, folder, 3600 * options.run_timeout_h) if words else None
        receiver = Receiver(
            folder,
            ask,
            options.review_dir,
            options.samples,
            runner.submit if runner else _only_file,
        )
        if runner:
            runner.start()
        serve(build(receiver, runner, token), listener)


def _token(options: argparse.Namespace) -> bytes | None:
    path: Path | None = options.token_file
    if options.make_token:
        if path is None:
            raise OptionRefused("--make-token: give --token-file FILE, too.")
        make_token(path)
    return read_token(path) if path else None


def _only_file(request: Path) -> None:
    del request
