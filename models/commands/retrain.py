"""`tidegate retrain REQUEST`: make the next version of a model from a request and labels."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from tidegate.models.commands import arguments, fitting
from tidegate.models.errors import BuildRefused
from tidegate.models.progress import say
from tidegate.models.retrain.folder import Filed, RequestFolder, read
from tidegate.models.retrain.publish import Publisher, Task
from tidegate.models.retrain.retraining import Retraining, retrain
from tidegate.models.training.config import parse_options
from tidegate.models.training.config import read as read_settings
from tidegate.models.training.division import Shares
from tidegate.service.bundle.store import Bundle, open_bundle

_GIVEN = {"RETRAIN_BUNDLE": "bundle", "RETRAIN_VERSION": "version", "RETRAIN_OUT": "out"}


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(
        prog="tidegate retrain",
        description="Make the next version of the model that a request for retraining is about: "
        "add labelled images of a review export to the old splits, fit a new last layer to the "
        "served network, fit the gate, seal, and compare both versions on the old test images and "
        "on new ones that were held out. It deploys nothing: with --models the new version is put "
        "into the service's folder, whose serving file decides what becomes of it.",
    )
    options.add_argument("request", type=Path, metavar="REQUEST", help="the request's JSON file")
    images = options.add_argument_group("images")
    images.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="PATH",
        help="splits.json of the training, or the folder with train, calibrate and test",
    )
    images.add_argument(
        "--images",
        type=Path,
        required=True,
        metavar="DIR",
        help="new images in folders named by class or class id, as `tidegate review export` writes "
        "them; what is below unlabelled/ is not used",
    )
    images.add_argument(
        "--shares",
        type=float,
        nargs=3,
        metavar="X",
        help="shares of the new images for training, for calibration and held out (default: 0.6 "
        "0.25 0.15)",
    )
    fitting.add_ood(images)
    _add_version_options(options.add_argument_group("versions"))
    training = options.add_argument_group("training")
    training.add_argument(
        "--checkpoint",
        type=Path,
        metavar="DIR",
        help="train all layers, from the old version's checkpoint: the folder `model` of its "
        "training (default: a linear layer on the served network, without torch)",
    )
    training.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="with --checkpoint, a setting as of `tidegate train`; may be repeated",
    )
    training.add_argument(
        "--fresh", action="store_true", help="with --checkpoint, begin the training again"
    )
    training.add_argument(
        "--finish",
        action="store_true",
        help="with --checkpoint, train no further, and use the best epoch so far",
    )
    options.add_argument("--seed", type=int, default=0, metavar="N", help="(default: %(default)s)")
    options.add_argument(
        "--accept-worse",
        action="store_true",
        help="keep the new version even if it is clearly worse on the old test images",
    )
    arguments.add_accept_weak_gate(options)
    return options


def _add_version_options(versions: argparse._ArgumentGroup) -> None:
    versions.add_argument(
        "--models",
        type=Path,
        metavar="DIR",
        help="the service's folder of models: the old version is read from it, and the new one is "
        "put there",
    )
    versions.add_argument(
        "--bundle",
        type=Path,
        metavar="DIR",
        help="the old version's bundle, without --models (default: $RETRAIN_BUNDLE)",
    )
    versions.add_argument(
        "--version", help="the new version, without --models (default: $RETRAIN_VERSION)"
    )
    versions.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder of the bundles, without --models (default: $RETRAIN_OUT)",
    )
    versions.add_argument(
        "--run",
        type=Path,
        metavar="DIR",
        help="folder of the report and the splits (default: runs/NAME/VERSION)",
    )


def run(options: argparse.Namespace) -> None:
    """Retrain, publish if --models is given, and print the new bundle's folder."""
    filed = read(options.request)
    if filed is None:
        raise BuildRefused(f"{options.request} is not a request for retraining.")
    given = _given(options, os.environ)
    if options.models is None:
        task = Task(filed.model, given["version"], Path(given["bundle"]), Path(given["out"]))
        print(retrain(_retraining(options, filed, task)).path)
        return
    with _published(options) as (publisher, task):
        made = retrain(_retraining(options, filed, task))
        published = publisher.publish(task)
    path = made.path if published is None else published.path
    say(f"Version {task.version} is in {options.models}; its serving file decides what is done.")
    print(path)


def _given(options: argparse.Namespace, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the old bundle, the version and the folder that were given, without --models."""
    found = {
        name: str(getattr(options, name) or environment.get(variable, ""))
        for variable, name in _GIVEN.items()
    }
    stated = [name for name in _GIVEN.values() if getattr(options, name) is not None]
    if options.models is not None and stated:
        raise BuildRefused(f"--{stated[0]} is for a retraining without --models.")
    missing = [f"--{name}" for name, value in found.items() if not value]
    if options.models is None and missing:
        raise BuildRefused(f"Give --models DIR, the service's folder, or {', '.join(missing)}.")
    return found


@contextmanager
def _published(options: argparse.Namespace) -> Iterator[tuple[Publisher, Task]]:
    if not options.models.is_dir():
        raise BuildRefused(f"--models {options.models}: there is no such folder.")
    requests = RequestFolder(options.request.resolve().parent, timedelta(hours=24))
    publisher = Publisher(options.models, requests)
    with publisher.task(options.request) as task:
        yield publisher, task


def _retraining(options: argparse.Namespace, filed: Filed, task: Task) -> Retraining:
    old = open_bundle(task.drifted)
    _check_bundle(filed, old)
    return Retraining(
        request=options.request.name,
        old=old,
        version=task.version,
        data=options.data,
        images=options.images,
        out=task.out,
        run=options.run or Path("runs") / filed.model / task.version,
        seed=options.seed,
        shares=Shares() if options.shares is None else Shares(*options.shares),
        ood=fitting.ood(options),
        checkpoint=options.checkpoint,
        settings=_settings(options),
        fresh=options.fresh,
        finish=options.finish,
        accept_worse=options.accept_worse,
        accept_weak_gate=options.accept_weak_gate,
    )


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    if options.checkpoint is None:
        for name in ("set", "fresh", "finish"):
            if getattr(options, name):
                raise BuildRefused(f"--{name} is for training with --checkpoint.")
    settings = parse_options(options.set)
    read_settings(None, settings)  # whose mistakes are reported now
    return settings


def _check_bundle(filed: Filed, old: Bundle) -> None:
    """Raise BuildRefused if the request is about another bundle."""
    manifest = old.manifest
    if (manifest.name, manifest.version) != (filed.model, filed.version):
        raise BuildRefused(
            f"The request is about {filed.model} {filed.version}, but {old.path} is "
            f"{manifest.name} {manifest.version}."
        )
    if filed.digests and not any(old.digest.startswith(digest) for digest in filed.digests):
        raise BuildRefused(
            f"The request is about the bundle with digest {', '.join(filed.digests)}, but "
            f"{old.path} has {old.short_digest}."
        )
