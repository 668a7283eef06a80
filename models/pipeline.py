"""The pipeline from an imported classifier and image folders to a sealed bundle.

import → prove preprocessing → read splits → (convert) → fit → evaluate → seal → probe → write
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

import onnx

from tidegate.models.card.card import model_card
from tidegate.models.card.card_data import CardData
from tidegate.models.card.coverage import coverage_lines
from tidegate.models.card.plots import plots
from tidegate.models.data.folders import (
    Splits,
    check_disjoint,
    class_names,
    labelled,
    shuffled,
    unlabelled,
)
from tidegate.models.errors import BuildRefused
from tidegate.models.fitting.conformal import PARTS, GateTarget, check_sizes
from tidegate.models.fitting.coverage_floor import check_coverage
from tidegate.models.fitting.evaluated import EvaluatedModel, evaluate_model
from tidegate.models.fitting.fit import FitOptions, FittedModel, fit
from tidegate.models.importers.base import Imported
from tidegate.models.parity import preprocessing
from tidegate.models.parity.export import check_export
from tidegate.models.precision.comparison import check_drop, compare
from tidegate.models.precision.convert import convert
from tidegate.models.precision.int8 import RunsOn
from tidegate.models.progress import say
from tidegate.models.sealing.assemble import Draft, SealedModel, assemble
from tidegate.models.sealing.write import check_writable, locked, scratch
from tidegate.service.bundle import manifest as m
from tidegate.service.bundle.evidence import Comparison, Parity
from tidegate.service.bundle.golden import check_golden
from tidegate.service.bundle.manifest import Precision
from tidegate.service.bundle.store import Bundle
from tidegate.service.engines.onnxruntime.cpu import OnnxEngine
from tidegate.service.imaging.spec import PreprocessSpec

_OWN_SPLITS = {"train", "calibrate", "test", *PARTS}


@dataclass(frozen=True, slots=True)
class Data:
    """Three ImageFolders, and sets of images that the gate should reject, by name."""

    train: Path
    calibrate: Path
    test: Path
    ood: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """The user's choices."""

    name: str
    version: str
    recipe: str  # the command, for the provenance
    fit: FitOptions = field(default_factory=FitOptions)
    precision: Precision | None = None  # of the backbone; None: as imported
    int8_for: RunsOn = "cpu"
    max_drop: float = 1.0  # percentage points that a variant may lose
    allow_difference: bool = False  # from the source's preprocessing
    overrides: Mapping[str, str] = field(default_factory=dict)  # of the spec's mode rules
    labels: tuple[str, ...] | None = None
    replace: bool = False
    accept_weak_gate: bool = False  # that catches hardly any synthetic OOD image


def make(
    imported: Imported,
    data: Data,
    options: BuildOptions,
    bundles_dir: Path,
    proved: Parity | None = None,
) -> Bundle:
    """Return the sealed bundle at `bundles_dir`/name/version, made from `imported` and `data`.

    `proved` is an existing proof of the preprocessing. Raises BuildRefused, with nothing written,
    if a check on the way fails.
    """
    check_destination(options, bundles_dir)
    check_data(data)
    model_dir = bundles_dir / options.name
    with locked(model_dir, lambda: say(f"Another build of {options.name} is running; waiting.")):
        _check_new(model_dir / options.version, options)
        return _make(imported, data, options, model_dir, proved)


def check_destination(options: BuildOptions, bundles_dir: Path) -> None:
    """Raise BuildRefused if no bundle of this name and version can be written.

    Writes nothing: a command that trains or exports calls it first.
    """
    for option, name in (("--name", options.name), ("--version", options.version)):
        if not re.fullmatch(m.SLUG, name):
            raise BuildRefused(
                f"{option} {name!r}: use lower-case letters, digits, '.', '_' and '-', at most 64."
            )
    _check_new(bundles_dir / options.name / options.version, options)
    check_writable(bundles_dir / options.name)


def check_data(data: Data) -> None:
    """Raise BuildRefused if a folder of images is missing or has a name that is not allowed."""
    for name in data.ood:
        if name in _OWN_SPLITS or "/" in name or name.startswith("."):
            raise BuildRefused(
                f"--ood {name}=…: choose another name; {', '.join(sorted(_OWN_SPLITS))} are "
                "reserved, and a name must not be a path."
            )
    for folder in (data.train, data.calibrate, data.test, *data.ood.values()):
        if not folder.is_dir():
            raise BuildRefused(f"The folder {folder} does not exist.")


def _check_new(bundle: Path, options: BuildOptions) -> None:
    if bundle.exists() and not options.replace:
        raise BuildRefused(
            f"{bundle} already exists, and bundles do not change: choose another --version, or "
            "replace it with --replace."
        )


def _make(
    imported: Imported, data: Data, options: BuildOptions, model_dir: Path, proof: Parity | None
) -> Bundle:
    if imported.transform is not None:
        say(f"Proving the preprocessing against {imported.transform.library}.")
        proof = preprocessing.prove(
            imported.spec, imported.transform, allow_difference=options.allow_difference
        )
    spec = imported.spec.model_copy(update=dict(options.overrides))
    labels = _labels(imported, data, options)
    splits = read_splits(data, labels, options.fit.target)
    check_export(imported, spec, splits.calibrate)
    precision = options.precision or imported.precision
    if imported.precision not in ("fp32", precision):
        raise BuildRefused(
            f"The model is already in {imported.precision}; {precision} needs the original."
        )
    say(f"Fitting in {imported.precision}.")
    evaluated = _fit_and_evaluate(imported.backbone, spec, splits, labels, options, model_dir)
    comparison = None
    if precision != imported.precision:
        say(f"Converting to {precision} and fitting again.")
        backbone = convert(imported.backbone, spec, splits.calibrate, precision, options.int8_for)
        variant = _fit_and_evaluate(backbone, spec, splits, labels, options, model_dir)
        comparison = compare(evaluated, variant, splits.test)
        check_drop(comparison, precision, options.max_drop)
        evaluated = variant
    for line in coverage_lines(evaluated.coverage):
        say(line)
    coverage = check_coverage(
        evaluated.coverage,
        evaluated.fitted.gate.alpha_review,
        accept_weak=options.accept_weak_gate,
    )
    evaluated = replace(evaluated, coverage=coverage)
    card = _card_data(imported, options, labels, proof, evaluated, comparison)
    say("Sealing.")
    bundle = assemble(model_dir, _draft(card, evaluated), _check_golden_probes)
    say(f"{bundle.path} is sealed; golden probes passed; digest {bundle.short_digest}.")
    return bundle


def _fit_and_evaluate(
    backbone: onnx.ModelProto,
    spec: PreprocessSpec,
    splits: Splits,
    labels: tuple[str, ...],
    options: BuildOptions,
    model_dir: Path,
) -> EvaluatedModel:
    with scratch(model_dir) as folder:
        fitted = fit(backbone, spec, splits, labels, options.fit, folder)
        return evaluate_model(fitted, splits, folder)


def _labels(imported: Imported, data: Data, options: BuildOptions) -> tuple[str, ...]:
    """Return one label per class: the given ones, the checkpoint's, or the folders' names."""
    labels = options.labels or imported.labels or class_names(data.train)
    classes = _classes(imported.backbone)
    if len(labels) != classes:
        source = (
            "--labels" if options.labels else "the checkpoint" if imported.labels else "the folders"
        )
        raise BuildRefused(
            f"The model has {classes} classes, but there are {len(labels)} labels (from {source}). "
            "Give --labels FILE with one label per line, in the order of the model's outputs."
        )
    return labels


def _classes(backbone: onnx.ModelProto) -> int:
    logits = next(value for value in backbone.graph.output if value.name == "logits")
    return int(logits.type.tensor_type.shape.dim[1].dim_value)


def read_splits(data: Data, labels: tuple[str, ...], target: GateTarget) -> Splits:
    """Read the folders, which are named by class label, or by class id if labels repeat.

    Raises BuildRefused if an image is in two of them, or if there are too few for `target`.
    """
    keys = labels if len(set(labels)) == len(labels) else tuple(map(str, range(len(labels))))
    splits = Splits(
        train=labelled("train", data.train, keys),
        calibrate=shuffled(labelled("calibrate", data.calibrate, keys)),
        test=labelled("test", data.test, keys),
        ood={name: unlabelled(name, folder) for name, folder in data.ood.items()},
    )
    check_disjoint(splits.every())
    n = len(splits.calibrate.items)
    check_sizes(round(PARTS["fold_a"] * n), round(PARTS["fold_b"] * n), target)
    return splits


def _card_data(
    imported: Imported,
    options: BuildOptions,
    labels: tuple[str, ...],
    proof: Parity | None,
    evaluated: EvaluatedModel,
    comparison: Comparison | None,
) -> CardData:
    fitted, used = evaluated.fitted, evaluated.used
    model = _sealed_model(fitted)
    overridden = [
        f"The rule {name} was overridden with {value}; training used "
        f"{getattr(imported.spec, name)}."
        for name, value in options.overrides.items()
        if getattr(imported.spec, name) != value
    ]
    return CardData(
        name=options.name,
        version=options.version,
        provenance=m.Provenance(
            source=imported.source,
            licence=imported.licence,
            checkpoint_sha256=imported.checkpoint_sha256,
            recipe=f"{options.recipe}, tidegate {version('tidegate')}, "
            f"onnxruntime {version('onnxruntime')}",
        ),
        task=model.task,
        labels=labels,
        preprocess=fitted.spec,
        parity=proof,
        calibration=evaluated.calibration,
        gate=model.gate_fit(
            fitted.gate,
            fitted.candidates,
            fitted.mahalanobis,
            used.digests,
            used.sizes["fold_b"],
            options.fit.target.delta,
            fitted.missing_images,
        ),
        reference=fitted.reference,
        splits=used.sizes,
        evaluation=evaluated.evaluation,
        expected=evaluated.expected,
        coverage=evaluated.coverage,
        precision=options.precision or imported.precision,
        comparison=comparison,
        notes=(*imported.notes, *overridden),
        left_out=used.left_out,
        score_histograms=evaluated.score_histograms,
    )


def _draft(card: CardData, evaluated: EvaluatedModel) -> Draft:
    return Draft(
        name=card.name,
        version=card.version,
        provenance=card.provenance,
        model=_sealed_model(evaluated.fitted),
        labels=card.labels,
        calibration=card.calibration,
        gate=card.gate,
        gate_file=evaluated.fitted.gate_file,
        reference=card.reference,
        probes=preprocessing.golden_probes(card.preprocess),
        card=model_card(card).encode(),
        card_files=plots(card),
        precision=card.precision,
        parity=card.parity,
        evaluation=card.evaluation,
        coverage=card.coverage,
        comparison=card.comparison,
    )


def _sealed_model(fitted: FittedModel) -> SealedModel:
    return SealedModel(fitted.sealed, fitted.head, fitted.spec)


def _check_golden_probes(bundle: Bundle) -> None:
    engine = OnnxEngine(bundle.model_path)
    check_golden(bundle, lambda images: engine.run(0, images))
