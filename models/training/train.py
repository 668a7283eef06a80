"""Train a timm classifier on divided images: from a request to a saved model and its record."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidegate.models.data.training_data import TrainingData
from tidegate.models.errors import BuildRefused
from tidegate.models.importers.torch_runtime import require, version
from tidegate.models.progress import say
from tidegate.models.training import contact_sheet, imbalance, network, transforms
from tidegate.models.training.config import TrainConfig
from tidegate.models.training.flips import flips
from tidegate.models.training.hold_out import hold_out
from tidegate.models.training.images import Images
from tidegate.models.training.loop import Course, Loop, Outcome
from tidegate.models.training.recipe import Choice, plan
from tidegate.models.training.run_folder import RunFolder
from tidegate.models.training.stop import Stop
from tidegate.models.training_record import TrainingRecord
from tidegate.service.cpu import usable_cores
from tidegate.service.files import sha256_of

CONTACT_SHEET = "contact-sheet.png"
_MOST_WORKERS = 8
# Settings that do not change the result, so a training may be resumed with others.
_NO_RESULT = {"workers", "device", "save_every_s", "threads"}


@dataclass(frozen=True)
class Request:
    """What to train, on what, and where its files are kept."""

    model: str  # of timm
    weights: Path | None
    data: TrainingData
    choice: Choice
    config: TrainConfig
    folder: Path
    fresh: bool = False  # begin again, and remove what is there
    finish: bool = False  # train no further: the best so far is the result


@dataclass(frozen=True)
class Trained:
    """A trained model, as timm saves one, and how it was trained."""

    model: Path
    record: TrainingRecord


def check(config: TrainConfig) -> None:
    """Raise BuildRefused for a device or an optimiser that is not available here."""
    network.check_optimiser(config.optimisation.optimiser)
    _device(config)


def train(request: Request) -> Trained:
    """Train, or go on with a training that was interrupted, or return a finished one.

    Raises BuildRefused for what the user can mend, and Stopped after Ctrl-C.
    """
    folder = RunFolder(request.folder, _identity(request))
    with folder.locked():
        return _train(request, folder)


def _train(request: Request, folder: RunFolder) -> Trained:
    if request.fresh:
        folder.clear()
    if (done := folder.finished()) is not None:
        say(f"The training in {folder.folder} is finished.")
        return Trained(folder.model, done)
    if request.config.threads is not None:
        require("torch").set_num_threads(request.config.threads)
    check(request.config)
    course, notes = _course(request, folder)
    loop = Loop(course, folder)
    with Stop() as stop:
        outcome = loop.outcome() if request.finish else loop.run(stop)
    best = folder.load_best(outcome.weights_file)
    network.save(course.network, best, request.data.classes, folder.model)
    record = _record(request, course, outcome, notes)
    folder.finish(record)
    return Trained(folder.model, record)


def _course(request: Request, folder: RunFolder) -> tuple[Course, tuple[str, ...]]:
    """Return what is trained on what, and sentences on what was decided."""
    config, classes = request.config, request.data.classes
    found = network.create(request.model, len(classes), config.size, request.weights, config.seed)
    kept, held = hold_out(request.data.train, config.stages.slice, config.seed)
    mirror, on_mirroring = flips(config.augmentation.flip, classes)
    stages = plan(
        request.choice.recipe, config, pretrained=found.pretrained, transformer=found.transformer,
        images=len(kept),
    )  # fmt: skip
    mixes = any(stage.mixing for stage in stages)
    plain = transforms.evaluation(found.data_config)
    course = Course(
        network=found,
        stages=stages,
        images=Images(kept, transforms.training(found.data_config, config.augmentation, mirror)),
        held_out=Images(held, plain),
        config=config,
        mix=transforms.mixing(config.mixing, len(classes)) if mixes else None,
        device=_device(config),
        workers=_workers(config),
    )
    counts = Counter(image.class_id for image in kept)
    notes = (
        *found.notes,
        *transforms.on_depth(image.path for image in kept),
        on_mirroring,
        *_on_mixing(config, mixes, len(kept)),
        *imbalance.advice([counts[i] for i in range(len(classes))], config.imbalance),
    )
    for line in (*notes, *_introduction(course)):
        say(line)
    sheet = folder.folder / CONTACT_SHEET
    contact_sheet.write(
        sheet, Images(kept, plain), course.images, course.mix, found.data_config, config.seed
    )
    say(f"What the network will see: {sheet}")
    return course, notes


def _on_mixing(config: TrainConfig, mixes: bool, images: int) -> tuple[str, ...]:
    wanted = config.mixing.mixup or config.mixing.cutmix
    if not wanted or mixes:
        return ()
    return (
        f"MixUp and CutMix are off: {images} training images are fewer than "
        f"mixing.least_images, {config.mixing.least_images}.",
    )


def _introduction(course: Course) -> list[str]:
    size = " × ".join(map(str, course.network.data_config["input_size"][1:]))
    lines = [
        f"Training {course.network.name} at {size} pixels on {len(course.images):,} images, on "
        f"{course.device}; {len(course.held_out):,} images of train choose the epoch."
    ]
    for number, stage in enumerate(course.stages, start=1):
        lines.append(f"Stage {number}: {stage.words}; at most {stage.epochs} epochs.")
    return lines


def _device(config: TrainConfig) -> str:
    available = require("torch").cuda.is_available()
    if config.device == "cuda" and not available:
        raise BuildRefused("--device cuda: torch finds no GPU here; leave it out for the CPU.")
    if config.device == "auto":
        return "cuda" if available else "cpu"
    return config.device


def _workers(config: TrainConfig) -> int:
    """Return how many processes load images; none with few cores, which the training needs."""
    if config.workers is not None:
        return config.workers
    cores = usable_cores()
    return 0 if cores <= 2 else min(_MOST_WORKERS, cores - 1)


def _identity(request: Request) -> dict[str, Any]:
    """Return what the result depends on, by name."""
    images = hashlib.sha256()
    for image in request.data.train:
        images.update(f"{image.path} {image.class_id}\n".encode())
    settings = request.config.model_dump(mode="json", exclude=_NO_RESULT)
    return {
        "model": request.model,
        "weights": None if request.weights is None else sha256_of(request.weights),
        "classes": list(request.data.classes),
        "training images": images.hexdigest(),
        "recipe": request.choice.recipe,
        **_flat(settings),
    }


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _record(
    request: Request, course: Course, outcome: Outcome, notes: tuple[str, ...]
) -> TrainingRecord:
    size = " × ".join(map(str, course.network.data_config["input_size"][1:]))
    return TrainingRecord(
        recipe=request.choice.recipe,
        why=request.choice.why,
        seed=request.config.seed,
        images={"training": len(course.images), "choice of the epoch": len(course.held_out)},
        settings={
            "size": size,
            "device": course.device,
            **{
                name: str(value)
                for name, value in _flat(request.config.model_dump(exclude=_NO_RESULT)).items()
                if name not in ("size", "seed") and value is not None
            },
        },
        versions=(version("torch"), version("torchvision"), version("timm")),
        stages=outcome.stages,
        epochs=outcome.epochs,
        kept=outcome.kept,
        notes=notes,
    )
