"""`tidegate retrain-request`: file a request for retraining when a drift alert fires."""

from __future__ import annotations

import argparse
from datetime import timedelta
from pathlib import Path

from tidegate.models.retrain.access import make_token, read_token, require_loopback
from tidegate.models.retrain.app import build, listen, serve
from tidegate.models.retrain.errors import OptionRefused
from tidegate.models.retrain.folder import RequestFolder
from tidegate.models.retrain.prometheus import Prometheus
from tidegate.models.retrain.publish import Publisher
from tidegate.models.retrain.receiver import Receiver
from tidegate.models.retrain.runner import Runner, words_of
from tidegate.service import logs


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(
        prog="tidegate retrain-request",
        description="Receive drift alerts from Alertmanager (POST /alerts) and file one request "
        "for retraining per model, version, digest and alert group, with evidence from Prometheus. "
        "The evidence is of the longest window of the alerts. Nothing is filed while the OOD rate "
        "is high. It runs only the command that you give, and deploys nothing: the service's "
        "serving file decides what becomes of a bundle that the command made. "
        "GET /requests lists the filed requests; delete a request to allow "
        "another one before its cool-down ends.",
    )
    _add_receiver_options(options)
    _add_access_options(options.add_argument_group("access"))
    _add_sample_options(options.add_argument_group("sample images"))
    _add_command_options(options.add_argument_group("command"))
    return options


def run(options: argparse.Namespace) -> None:
    """Receive alerts until SIGTERM or SIGINT."""
    for name, least, most in (("cool_down_h", 0, 8760), ("run_timeout_h", 0, 8760)):
        if not least < getattr(options, name) <= most:
            raise OptionRefused(
                f"--{name.replace('_', '-')}: must be above 0 and at most {most} hours."
            )
    if not 0 <= options.samples <= 10_000:
        raise OptionRefused("--samples: must be between 0 and 10000.")
    logs.configure("info", "auto")
    folder = RequestFolder(options.out, timedelta(hours=options.cool_down_h))
    run_query = Prometheus(options.prometheus)
    if options.models and not options.run:
        raise OptionRefused("--models requires --run COMMAND.")
    words = words_of(options.run) if options.run else None
    token = _token(options)
    folder.open()
    with listen(options.host, options.port) as listener:
        if token is None:
            require_loopback(listener)
        publisher = Publisher(options.models, folder) if options.models else None
        runner = Runner(words, folder, 3600 * options.run_timeout_h, publisher) if words else None
        receiver = Receiver(
            folder,
            run_query,
            options.review_dir,
            options.samples,
            runner.submit if runner else _only_file,
        )
        if runner:
            runner.start()
        serve(build(receiver, runner, token), listener)


def _add_receiver_options(options: argparse.ArgumentParser) -> None:
    options.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for the requests"
    )
    options.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: %(default)s)"
    )
    options.add_argument(
        "--port",
        type=int,
        default=9000,
        help="TCP port, 0 = chosen by the system (default: %(default)s)",
    )
    options.add_argument(
        "--prometheus",
        default="http://127.0.0.1:9090",
        metavar="URL",
        help="Prometheus server for the evidence (default: %(default)s)",
    )
    options.add_argument(
        "--cool-down-h",
        type=float,
        default=24.0,
        metavar="HOURS",
        help="time for which one request covers the same drift (default: %(default)g)",
    )


def _add_access_options(access: argparse._ArgumentGroup) -> None:
    access.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="file with the bearer token that every request except GET /livez must send (default: "
        "no token, listen on loopback only)",
    )
    access.add_argument(
        "--make-token",
        action="store_true",
        help="create the token file with a random token if it does not exist",
    )


def _add_sample_options(samples: argparse._ArgumentGroup) -> None:
    samples.add_argument(
        "--review-dir",
        type=Path,
        metavar="DIR",
        help="the service's review folder (DIR/<day>/<id>.json)",
    )
    samples.add_argument(
        "--samples",
        type=int,
        default=100,
        metavar="N",
        help="image ids per request, stratified by predicted class (default: %(default)s)",
    )


def _add_command_options(command: argparse._ArgumentGroup) -> None:
    command.add_argument(
        "--run",
        metavar="COMMAND",
        help="command to run once per filed request, even if it fails, without a shell, with the "
        "request's path as last argument; one at a time (default: none)",
    )
    command.add_argument(
        "--run-timeout-h",
        type=float,
        default=24.0,
        metavar="HOURS",
        help="time after which the command is ended (default: %(default)g)",
    )
    command.add_argument(
        "--models",
        type=Path,
        metavar="DIR",
        help="the service's folder of models: the bundle that the command writes to "
        "$RETRAIN_OUT/$RETRAIN_MODEL/$RETRAIN_VERSION is put there as that version; "
        "$RETRAIN_BUNDLE is the bundle that the request is about (default: none)",
    )


def _token(options: argparse.Namespace) -> bytes | None:
    path: Path | None = options.token_file
    if options.make_token:
        if path is None:
            raise OptionRefused("--make-token requires --token-file FILE.")
        make_token(path)
    return read_token(path) if path else None


def _only_file(request: Path) -> None:
    del request
