"""Train a student from a teacher, and the same network alone, for one bundle and its card."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from tidegate.models.data.training_data import TrainingData
from tidegate.models.errors import BuildRefused
from tidegate.models.fitting.side_by_side import ComparedWith
from tidegate.models.importers import from_timm, timm_source
from tidegate.models.importers.base import Imported
from tidegate.models.parity.export import check_export
from tidegate.models.progress import say
from tidegate.models.training.config import TrainConfig
from tidegate.models.training.distil_config import DistilConfig, Distillation
from tidegate.models.training.probe import first_images
from tidegate.models.training.recipe import Choice, Recipe
from tidegate.models.training.teacher import Teaching
from tidegate.models.training.train import Request, train
from tidegate.models.training.unlabelled import Unlabelled

COMPARISON = "comparison.json"
_ALONE = "alone"  # the folder of the training without a teacher
_WHY_ALONE = "The same network is trained without the teacher, to compare."


@dataclass(frozen=True)
class Task:
    """What to distil from what."""

    teacher: Imported
    model: str  # of timm, the student
    weights: Path | None  # that the student begins with
    recipe: Recipe
    data: TrainingData  # in the order of the teacher's classes
    unlabelled: Unlabelled | None
    config: DistilConfig
    folder: Path
    alone: bool = True  # train it without the teacher too
    notes: tuple[str, ...] = ()  # on the teacher, for the card
    fresh: bool = False
    finish: bool = False


@dataclass(frozen=True)
class Distilled:
    """The student, ready for the pipeline, and what it is compared with."""

    student: Imported
    compared_with: ComparedWith


def distil(task: Task) -> Distilled:
    """Train, or go on with trainings that were interrupted.

    Raises BuildRefused for what the user can mend, and Stopped after Ctrl-C.
    """
    if task.teacher.forward is not None:
        check_export(task.teacher, task.teacher.spec, first_images(task.data))
    choice = Choice(task.recipe, words(task.config.distillation, task.teacher.source))
    added = task.unlabelled
    teaching = Teaching(
        task.teacher,
        task.config.distillation,
        () if added is None else added.images,
        (*task.notes, *(() if added is None else added.lines)),
    )
    student = _trained(task, choice, task.config, task.folder, teaching)
    alone, folder = None, task.folder / _ALONE
    if task.alone:
        say(_WHY_ALONE)
        labelled = len(task.data.train)
        config = task.config.alone((labelled + len(teaching.unlabelled)) / labelled)
        alone = _trained(task, Choice(task.recipe, _WHY_ALONE), config, folder, None)
    hint = f"Import it with `tidegate import timm:local-dir:{folder / 'model'}`."
    return Distilled(student, ComparedWith(task.teacher, alone, task.folder / COMPARISON, hint))


def check_settings(config: DistilConfig) -> None:
    """Raise BuildRefused for settings of `train` that a distillation does not have."""
    if config.imbalance.two_stage:
        raise BuildRefused(
            "imbalance.two_stage trains the last layer again without the teacher: train the "
            "teacher so, or use --set imbalance.loss=logit-adjusted."
        )


def words(chosen: Distillation, teacher: str) -> str:
    """Return a sentence on what is learned."""
    parts = [
        f"soft labels at temperature {chosen.temperature:g} with weight {chosen.alpha:g}",
        *(f"{name} with weight {weight:g}" for name, weight in (
            ("features", chosen.features), ("attention maps", chosen.attention),
        ) if weight),
    ]  # fmt: skip
    listed = f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else parts[0]
    return f"It learns from the teacher, {teacher}: {listed}."


def _trained(
    task: Task, choice: Choice, config: TrainConfig, folder: Path, teaching: Teaching | None
) -> Imported:
    made = train(
        Request(
            task.model, task.weights, task.data, choice, config, folder, task.fresh, task.finish,
            teaching,
        )
    )  # fmt: skip
    imported = from_timm.load(f"{timm_source.LOCAL}{made.model}")
    licence = "unstated" if task.weights is None else imported.licence
    return replace(imported, licence=licence, training=made.record)
