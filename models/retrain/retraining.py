"""Make the next version of a model: new images, a new last layer, a fit and a comparison.

It seals a bundle and writes a report. It deploys nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tidegate.models.build_request import BuildOptions, Data, check_data, check_destination
from tidegate.models.data import training_data
from tidegate.models.data.training_data import TrainingData
from tidegate.models.errors import BuildRefused
from tidegate.models.fitting.conformal import GateTarget
from tidegate.models.fitting.fit import FitOptions
from tidegate.models.importers.base import Imported
from tidegate.models.pipeline import make
from tidegate.models.progress import say
from tidegate.models.retrain import checkpoint, new_images
from tidegate.models.retrain.comparison import Compared, compare
from tidegate.models.retrain.report import in_words, report
from tidegate.models.sealing.unseal import reopened
from tidegate.models.training import linear_head, probe, split
from tidegate.models.training.divided import divided_folders
from tidegate.models.training.division import Shares
from tidegate.service.bundle.evidence import Parity
from tidegate.service.bundle.store import Bundle
from tidegate.service.files import write_atomically

REPORT, SPLITS_FILE = "report.md", "splits.json"
OLD_TEST, HELD_OUT = "the old test images", "the new images that were held out"
_CARD = "MODEL_CARD.md"
_WHY = "The served network stays as it is; a linear layer on it is fitted again, with new images."


@dataclass(frozen=True, slots=True)
class Retraining:
    """What to make of what."""

    request: str  # its name, for the provenance and the report
    old: Bundle  # the served version
    version: str  # of the new bundle
    data: Path  # splits.json, or the folder with train, calibrate and test
    images: Path  # the labelled export
    out: Path  # NAME/VERSION is made below it
    run: Path  # folder for the report, the splits and the features
    seed: int = 0
    shares: Shares = field(default_factory=Shares)  # of the new images
    ood: Mapping[str, Path] = field(default_factory=dict)
    checkpoint: Path | None = None  # of the old version; None: a linear layer on its backbone
    settings: Mapping[str, Any] = field(default_factory=dict)  # of training with a checkpoint
    fresh: bool = False  # begin this training again
    finish: bool = False  # train no further: the best epoch so far is the result
    accept_worse: bool = False
    accept_weak_gate: bool = False

    @property
    def build(self) -> BuildOptions:
        """Return the options of the build: target of the gate and precision are the old ones."""
        gate = self.old.manifest.gate
        target = GateTarget(gate.alpha_reject, gate.alpha_review, gate.guarantee_delta)
        return BuildOptions(
            name=self.old.manifest.name,
            version=self.version,
            recipe=f"tidegate retrain {self.request}, seed {self.seed}, of bundle "
            f"{self.old.digest}",
            fit=FitOptions(target=target),
            precision=self.old.manifest.precision,
            int8_for=gate.calibrated_for_engine or "cpu",
            accept_weak_gate=self.accept_weak_gate,
        )


def check(task: Retraining) -> None:
    """Raise BuildRefused for what is known before an image is read."""
    if task.checkpoint is None:
        linear_head.check_installed()
    else:
        checkpoint.check(task.checkpoint, task.old)
    check_destination(task.build, task.out)
    task.shares.by_split()
    new_images.listed(task.images, task.old.labels)
    if not task.data.exists():
        raise BuildRefused(f"--data {task.data} does not exist.")
    if task.data.is_dir() and divided_folders(task.data) is None:
        raise BuildRefused(
            f"--data {task.data} has no folders train, calibrate and test: give them, or the "
            "splits.json of the training."
        )


def retrain(task: Retraining) -> Bundle:
    """Return the new version, sealed below `task.out`.

    Raises BuildRefused, with nothing left there, if it is clearly worse than the old one on the old
    test images and that is not accepted; the report is written nevertheless.
    """
    check(task)
    old_data = _read(task.data).ordered(task.old.labels)
    added = new_images.add(old_data, task.images, task.shares, task.seed)
    for line in added.lines:
        say(line)
    training_data.write(task.run / SPLITS_FILE, task.run, added.data, {"retrained": task.request})
    data = Data.of(added.data, task.ood)
    check_data(data, task.build)
    made, proof = _trained(task, added.data)
    new = make(made, data, task.build, task.out, proof)
    compared = {OLD_TEST: compare(task.old, new, added.data.test, OLD_TEST)}
    if added.data.held_out:
        compared[HELD_OUT] = compare(task.old, new, added.data.held_out, HELD_OUT)
    _write_report(task, new, added.lines, compared)
    if compared[OLD_TEST].is_clearly_worse and not task.accept_worse:
        shutil.rmtree(new.path)
        raise BuildRefused(
            f"On {OLD_TEST} version {task.version} is clearly worse than "
            f"{task.old.manifest.version}: see {task.run / REPORT}. --accept-worse keeps it."
        )
    return new


def _trained(task: Retraining, data: TrainingData) -> tuple[Imported, Parity | None]:
    """Return the trained model, and an existing proof of its preprocessing."""
    old = task.old
    if task.checkpoint is not None:
        settings = {"seed": task.seed, **task.settings}
        made = checkpoint.train_again(
            task.checkpoint,
            data,
            settings,
            task.run,
            old.manifest.provenance.licence,
            fresh=task.fresh,
            finish=task.finish,
        )
        return made, None
    cache = task.run.parent / "features"
    made = probe.imported(reopened(old), data, why=_WHY, seed=task.seed, cache=cache)
    return made, old.manifest.parity


def _read(data: Path) -> TrainingData:
    return split.make(data) if data.is_dir() else training_data.read(data)


def _write_report(
    task: Retraining, new: Bundle, lines: tuple[str, ...], compared: Mapping[str, Compared]
) -> None:
    names = [f"card-{bundle.manifest.version}.md" for bundle in (task.old, new)]
    for name, bundle in zip(names, (task.old, new), strict=True):
        card = bundle.path / _CARD
        if card.is_file():  # a bundle need not have one
            write_atomically(task.run / name, card.read_bytes())
    text = report(task.request, task.old, new, lines, compared, (names[0], names[1]))
    write_atomically(task.run / REPORT, text.encode())
    for what, both in compared.items():
        say(f"On {what}: {both.old.accuracy.value:.1%} → {both.new.accuracy.value:.1%}.")
        say(in_words(both))
    say(f"Report: {task.run / REPORT}")
