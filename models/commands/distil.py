"""`tidegate distil`: a small student of a large teacher, trained, fitted and sealed."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from tidegate.models.build_request import Data, check_data, check_destination
from tidegate.models.commands import fitting, teacher_source, training
from tidegate.models.errors import BuildRefused
from tidegate.models.importers import timm_source
from tidegate.models.importers.torch_export import check_exporter
from tidegate.models.pipeline import make
from tidegate.models.training import unlabelled
from tidegate.models.training.distil import Task, check_settings, distil
from tidegate.models.training.distil_config import DistilConfig
from tidegate.models.training.train import check as check_training

_EPILOG = """The trainings go on where they were stopped if the same command is given again.
What is transferred, and all settings: docs/guides/distilling.md.
"""
_TRANSFER = 1.0  # the weight of --features and --attention


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(
        prog="tidegate distil",
        description="Train a small network from the answers of a large one, make its sealed "
        "bundle, and compare both, and the small one trained alone, on the same test images.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_teacher_options(options.add_argument_group("teacher"))
    images = options.add_argument_group("images")
    training.add_data_options(images)
    images.add_argument(
        "--unlabelled",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="images without classes, such as a review export: the student learns the teacher's "
        "answers to them; may be repeated",
    )
    group = options.add_argument_group("training")
    training.add_training_options(
        group,
        "the student, timm:NAME",
        ("staged", "full"),
        "staged: the last layer, then all layers; full: all layers at once (default: staged)",
    )
    group.add_argument(
        "--alone",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also train the same network without the teacher, and compare (default: yes)",
    )
    fitting.add_build_options(options)
    return options


def _add_teacher_options(teacher: argparse._ArgumentGroup) -> None:
    teacher.add_argument(
        "--teacher",
        required=True,
        metavar="MODEL",
        help="folder of a sealed bundle; or timm:NAME, timm:local-dir:FOLDER, huggingface:FOLDER",
    )
    teacher.add_argument(
        "--teacher-weights", type=Path, metavar="FILE", help="checkpoint of timm:NAME"
    )
    teacher.add_argument(
        "--temperature", type=float, metavar="T", help="of the soft labels (default: 4)"
    )
    teacher.add_argument(
        "--alpha",
        type=float,
        metavar="SHARE",
        help="weight of the soft labels; the true classes have the rest (default: 0.7)",
    )
    teacher.add_argument(
        "--features",
        action="store_true",
        help="also learn the teacher's features, by a linear projection",
    )
    teacher.add_argument(
        "--attention",
        action="store_true",
        help="also learn where the teacher looks, at the stages whose maps have the same size",
    )


def run(options: argparse.Namespace) -> None:
    """Distil, fit and seal, and print the bundle's folder."""
    config = _config(options)
    check_settings(config)
    words = f"{training.named(options.model)} --teacher {training.named(options.teacher)}"
    chosen = fitting.build_options(options, f"tidegate distil {words}, seed {config.seed}")
    ood = fitting.ood(options)
    check_destination(chosen, options.out)
    training.check_data(options)
    student = _check_student(options)
    teacher_source.check(options.teacher, options.teacher_weights)
    check_exporter()
    _check_name(student)
    check_training(config)
    folder = training.run_folder(options)
    teacher = teacher_source.load(options.teacher, options.teacher_weights)
    divided = teacher.data(training.divided(options, folder, config))
    data = Data.of(divided, ood)
    check_data(data, chosen)
    added = None
    if options.unlabelled:
        added = unlabelled.choose(options.unlabelled, divided, teacher.rejects)
    made = distil(
        Task(
            teacher=teacher.imported,
            model=student,
            weights=options.weights,
            recipe=options.recipe or "staged",
            data=divided,
            unlabelled=added,
            config=config,
            folder=folder,
            alone=options.alone,
            notes=teacher.notes(divided),
            fresh=options.fresh,
            finish=options.finish,
        )
    )
    licence = options.licence or made.student.licence
    student_made = replace(made.student, licence=licence)
    print(make(student_made, data, chosen, options.out, compared_with=made.compared_with).path)


def _check_name(student: str) -> None:
    """Raise BuildRefused unless it is the name of a network."""
    found = timm_source.find(student, None)
    if found.checkpoint is not None:  # local-dir:FOLDER
        raise BuildRefused(
            f"--model timm:{student}: give the network and its weights, --model timm:{found.name} "
            f"--weights {found.checkpoint}."
        )


def _config(options: argparse.Namespace) -> DistilConfig:
    weights = {name: _TRANSFER for name in ("features", "attention") if getattr(options, name)}
    given = {"temperature": options.temperature, "alpha": options.alpha, **weights}
    more = {f"distillation.{name}": value for name, value in given.items()}
    return training.config(options, DistilConfig, more)


def _check_student(options: argparse.Namespace) -> str:
    """Return the student's name in timm. Raises BuildRefused for another kind of model."""
    kind, _, name = options.model.partition(":")
    if kind != "timm" or not name:
        raise BuildRefused(
            f"--model {options.model}: give timm:NAME, such as timm:mobilenetv3_small_100."
        )
    if options.weights is not None and not options.weights.is_file():
        raise BuildRefused(f"--weights {options.weights} does not exist.")
    for folder in options.unlabelled:
        if not folder.is_dir():
            raise BuildRefused(f"--unlabelled {folder}: there is no such folder.")
    return str(name)
