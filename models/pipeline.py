"""From an imported classifier and image folders to a sealed bundle: the road, on one screen.

import → prove preprocessing → read splits → (convert) → fit → evaluate → seal → probe → write
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import onnx

from tidegate.models.card.card import model_card
from tidegate.models.card.facts import CardData
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
from tidegate.models.sealing.write import locked, scratch
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
    """The folders: three ImageFolders, and sets that the gate should refuse, by name."""

    train: Path
    calibrate: Path
    test: Path
    ood: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What the maker chose."""

    name: str
    version: str
    recipe: str  # the command, for the provenance
    fit: FitOptions = field(default_factory=FitOptions)
    precision: Precision | None = None  # of the backbone; None leaves it as it was imported
    int8_for: RunsOn = "cpu"
    max_drop: float = 1.0  # points of accuracy that a variant may lose
    allow_difference: bool = False  # seal preprocessing that is not the source's, with the figures
    overrides: Mapping[str, str] = field(default_factory=dict)  # of the spec's mode rules
    labels: tuple[str, ...] | None = None
    replace: bool = False


def make(
    imported: Imported,
    data: Data,
    choices: BuildOptions,
    bundles_dir: Path,
    proved: Parity | None = None,
) -> Bundle:
    """Return the sealed bundle at `bundles_dir`/name/version, made from `imported` and `data`.

    `proved` is the proof of the preprocessing where it was given before. Raises BuildRefused,
    having written nothing, when anything that is measured on the way is not as it must be.
    """
    _check_names(data, choices)
    model_dir = bundles_dir / choices.name
    with locked(model_dir, lambda: say(f"Another build of {choices.name} is running; waiting.")):
        final = model_dir / choices.version
        if final.exists() and not choices.replace:
            raise BuildRefused(
                f"{final} is there already, and a bundle does not change: choose another --version "
                "(or say --replace)."
            )
        return _make(imported, data, choices, model_dir, proved)


def _check_names(data: Data, choices: BuildOptions) -> None:
    """Refuse, before anything is computed, names that no manifest or file could carry."""
    for option, name in (("--name", choices.name), ("--version", choices.version)):
        if not re.fullmatch(m.SLUG, name):
            raise BuildRefused(
                f"{option} {name!r}: use lower-case letters, digits, '.', '_' and '-', at most 64."
            )
    for name in data.ood:
        if name in _OWN_SPLITS or "/" in name or name.startswith("."):
            raise BuildRefused(
                f"--ood {name}=…: choose another name; a set is not called "
                f"{', '.join(sorted(_OWN_SPLITS))}, nor like a path."
            )


def _make(
    imported: Imported, data: Data, choices: BuildOptions, model_dir: Path, proof: Parity | None
) -> Bundle:
    if imported.transform is not None:
        say(f"Proving the preprocessing against {imported.transform.library}.")
        proof = preprocessing.prove(
            imported.spec, imported.transform, allow_difference=choices.allow_difference
        )
    spec = imported.spec.model_copy(update=dict(choices.overrides))
    labels = _labels(imported, data, choices)
    splits = _splits(data, labels, choices.fit.target)
    check_export(imported, spec, splits.calibrate)
    precision = choices.precision or imported.precision
    if imported.precision not in ("fp32", precision):
        raise BuildRefused(f"The model is in {imported.precision}: {precision} needs the original.")
    say(f"Fitting in {imported.precision}.")
    evaluated = _fit_and_evaluate(imported.backbone, spec, splits, labels, choices, model_dir)
    comparison = None
    if precision != imported.precision:
        say(f"Converting to {precision}, and fitting again.")
        backbone = convert(imported.backbone, spec, splits.calibrate, precision, choices.int8_for)
        variant = _fit_and_evaluate(backbone, spec, splits, labels, choices, model_dir)
        comparison = compare(evaluated, variant, splits.test)
        check_drop(comparison, precision, choices.max_drop)
        evaluated = variant
    facts = _card_data(imported, choices, labels, proof, evaluated, comparison)
    say("Sealing.")
    bundle = assemble(model_dir, _draft(facts, evaluated), _check_golden_probes)
    say(f"{bundle.path} is sealed, its golden probes passed, digest {bundle.digest[:12]}.")
    return bundle


def _fit_and_evaluate(
    backbone: onnx.ModelProto,
    spec: PreprocessSpec,
    splits: Splits,
    labels: tuple[str, ...],
    choices: BuildOptions,
    model_dir: Path,
) -> EvaluatedModel:
    with scratch(model_dir) as folder:
        fitted = fit(backbone, spec, splits, labels, choices.fit, folder)
        return evaluate_model(fitted, splits, folder)


def _labels(imported: Imported, data: Data, choices: BuildOptions) -> tuple[str, ...]:
    """Return one label a class: as given, as the checkpoint knows them, or the folders' names."""
    labels = choices.labels or imported.labels or class_names(data.train)
    classes = _classes(imported.backbone)
    if len(labels) != classes:
        whose = "given" if choices.labels else "of the checkpoint" if imported.labels else "folders"
        raise BuildRefused(
            f"The model has {classes} classes, but there are {len(labels)} labels ({whose}). "
            "Give one label a line with --labels, in the order of the model's outputs."
        )
    return labels


def _classes(backbone: onnx.ModelProto) -> int:
    logits = next(value for value in backbone.graph.output if value.name == "logits")
    return int(logits.type.tensor_type.shape.dim[1].dim_value)


def _splits(data: Data, labels: tuple[str, ...], target: GateTarget) -> Splits:
    """Read the folders; a folder is named as its class, or by its id where names repeat."""
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
    choices: BuildOptions,
    labels: tuple[str, ...],
    proof: Parity | None,
    evaluated: EvaluatedModel,
    comparison: Comparison | None,
) -> CardData:
    fitted, used = evaluated.fitted, evaluated.used
    model = _sealed_model(fitted)
    overridden = [
        f"The rule {name} was set to {value} by hand: training had {getattr(imported.spec, name)}."
        for name, value in choices.overrides.items()
        if getattr(imported.spec, name) != value
    ]
    return CardData(
        name=choices.name,
        version=choices.version,
        provenance=m.Provenance(
            source=imported.source,
            licence=imported.licence,
            checkpoint_sha256=imported.checkpoint_sha256,
            recipe=f"{choices.recipe}, tidegate {version('tidegate')}, "
            f"onnxruntime {version('onnxruntime')}",
        ),
        task=model.task,
        labels=labels,
        preprocess=fitted.spec,
        parity=proof,
        calibration=evaluated.calibration,
        gate=model.gate_fit(
            fitted.gate,
            fitted.mahalanobis,
            used.digests,
            used.sizes["fold_b"],
            choices.fit.target.delta,
        ),
        reference=fitted.reference,
        splits=used.sizes,
        evaluation=evaluated.evaluation,
        precision=choices.precision or imported.precision,
        comparison=comparison,
        notes=(*imported.notes, *overridden),
        left_out=used.left_out,
        score_histograms=evaluated.score_histograms,
    )


def _draft(facts: CardData, evaluated: EvaluatedModel) -> Draft:
    return Draft(
        name=facts.name,
        version=facts.version,
        provenance=facts.provenance,
        model=_sealed_model(evaluated.fitted),
        labels=facts.labels,
        calibration=facts.calibration,
        gate=facts.gate,
        gate_file=evaluated.fitted.gate_file,
        reference=facts.reference,
        probes=preprocessing.golden_probes(facts.preprocess),
        card=model_card(facts).encode(),
        card_files=plots(facts),
        precision=facts.precision,
        parity=facts.parity,
        evaluation=facts.evaluation,
        comparison=facts.comparison,
    )


def _sealed_model(fitted: FittedModel) -> SealedModel:
    return SealedModel(fitted.sealed, fitted.head, fitted.spec)


def _check_golden_probes(bundle: Bundle) -> None:
    engine = OnnxEngine(bundle.model_path)
    check_golden(bundle, lambda images: engine.run(0, images))
