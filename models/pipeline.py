"""The pipeline from an imported classifier and image folders to a sealed bundle.

import → prove preprocessing → read splits → (convert) → fit → evaluate → seal → probe → write
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import onnx

from tidegate.models.build_request import (
    BuildOptions,
    Data,
    check_data,
    check_destination,
    check_new,
    read_splits,
)
from tidegate.models.card.card import model_card
from tidegate.models.card.card_data import CardData
from tidegate.models.card.coverage import coverage_lines
from tidegate.models.card.plots import plots
from tidegate.models.card.side_by_side import sentences
from tidegate.models.data.folders import (
    Splits,
    class_names,
)
from tidegate.models.errors import BuildRefused
from tidegate.models.evaluation.expected_accuracy import check_expected
from tidegate.models.fitting.coverage_floor import check_coverage
from tidegate.models.fitting.evaluated import EvaluatedModel, evaluate_model
from tidegate.models.fitting.fit import FittedModel, fit
from tidegate.models.fitting.side_by_side import (
    STUDENT,
    ComparedWith,
    Contestant,
    SideBySide,
    as_json,
    measure,
)
from tidegate.models.importers.base import Imported
from tidegate.models.importers.class_words import check_order
from tidegate.models.parity import preprocessing
from tidegate.models.parity.export import check_export
from tidegate.models.parity.rivals import check_rivals
from tidegate.models.precision.comparison import check_drop, compare
from tidegate.models.precision.convert import convert
from tidegate.models.progress import say
from tidegate.models.sealing.assemble import Draft, SealedModel, assemble
from tidegate.models.sealing.write import locked, scratch
from tidegate.service.bundle import manifest as m
from tidegate.service.bundle.evidence import Comparison, Parity
from tidegate.service.bundle.golden import check_golden
from tidegate.service.bundle.store import Bundle
from tidegate.service.engines.cpu_engines import calibrated_on
from tidegate.service.files import write_atomically
from tidegate.service.imaging.spec import PreprocessSpec


def make(
    imported: Imported,
    data: Data,
    options: BuildOptions,
    bundles_dir: Path,
    proved: Parity | None = None,
    compared_with: ComparedWith | None = None,
) -> Bundle:
    """Return the sealed bundle at `bundles_dir`/name/version, made from `imported` and `data`.

    `proved` is an existing proof of the preprocessing. The card compares the model with those of
    `compared_with`. Raises BuildRefused, with nothing written, if a check on the way fails.
    """
    check_destination(options, bundles_dir)
    check_data(data, options)
    model_dir = bundles_dir / options.name
    with locked(model_dir, lambda: say(f"Another build of {options.name} is running; waiting.")):
        check_new(model_dir / options.version, options)
        return _make(imported, data, options, model_dir, proved, compared_with)


def _make(
    imported: Imported,
    data: Data,
    options: BuildOptions,
    model_dir: Path,
    proof: Parity | None,
    compared_with: ComparedWith | None,
) -> Bundle:
    for note in imported.notes:
        say(f"Note: {note}")
    if imported.transform is not None:
        say(f"Proving the preprocessing against {imported.transform.library}.")
        proof = preprocessing.prove(
            imported.spec, imported.transform, allow_difference=options.allow_difference
        )
    spec = imported.spec.model_copy(update=dict(options.overrides))
    labels = _labels(imported, data, options)
    splits = read_splits(data, labels, options.fit.target)
    check_export(imported, spec, splits.calibrate)
    check_rivals(imported, splits.calibrate)
    precision = options.precision or imported.precision
    if imported.precision not in ("fp32", precision):
        raise BuildRefused(
            f"The model is already in {imported.precision}; {precision} needs the original."
        )
    say(f"Fitting in {imported.precision}.")
    evaluated = _fit_and_evaluate(imported.backbone, spec, splits, labels, options, model_dir)
    check_expected(evaluated.evaluation.accuracy, options.expect_accuracy)
    for line in evaluated.near_duplicates:
        say(line)
    comparison, in_fp32 = None, None
    if precision != imported.precision:
        say(f"Converting to {precision} and fitting again.")
        backbone = convert(imported.backbone, spec, splits.calibrate, precision, options.int8_for)
        variant = _fit_and_evaluate(backbone, spec, splits, labels, options, model_dir)
        comparison = compare(evaluated, variant, splits.test)
        check_drop(comparison, precision, options.max_drop)
        in_fp32, evaluated = evaluated.evaluation, variant
    _say_all(coverage_lines(evaluated.coverage))
    coverage = check_coverage(
        evaluated.coverage,
        evaluated.fitted.gate.alpha_review,
        accept_weak=options.accept_weak_gate,
    )
    evaluated = replace(evaluated, coverage=coverage)
    card = _card_data(imported, options, labels, proof, evaluated, comparison)
    if in_fp32 is not None:
        card = replace(card, rejected_in_fp32=in_fp32.false_rejection.value)
    student = Contestant(STUDENT, imported.source, precision, evaluated)
    found = _side_by_side(student, compared_with, splits, labels, options, model_dir)
    card = replace(card, side_by_side=found)
    say("Sealing.")
    bundle = assemble(model_dir, _draft(card, evaluated), _check_golden_probes)
    say(f"{bundle.path} is sealed; golden probes passed; digest {bundle.short_digest}.")
    _say_all(sentences(found))
    return bundle


def _say_all(lines: Iterable[str]) -> None:
    for line in lines:
        say(line)


def _side_by_side(
    student: Contestant,
    compared_with: ComparedWith | None,
    splits: Splits,
    labels: tuple[str, ...],
    options: BuildOptions,
    model_dir: Path,
) -> SideBySide | None:
    """Return the student and the other models, each fitted and evaluated like it."""
    if compared_with is None:
        return None
    others = []
    for name, imported, converted in compared_with.models:
        say(f"Fitting and evaluating the {name}.")
        backbone, precision = imported.backbone, imported.precision
        if converted and student.precision != precision:
            precision = student.precision
            backbone = convert(
                backbone, imported.spec, splits.calibrate, precision, options.int8_for
            )
        evaluated = _fit_and_evaluate(backbone, imported.spec, splits, labels, options, model_dir)
        others.append(Contestant(name, imported.source, precision, evaluated))
    found = measure([others[0], student, *others[1:]])
    if compared_with.file is not None:
        write_atomically(compared_with.file, as_json(found))
    return replace(found, hint=compared_with.hint)


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
    if options.labels:
        check_order(imported.labels, options.labels)
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


def _card_data(
    imported: Imported,
    options: BuildOptions,
    labels: tuple[str, ...],
    proof: Parity | None,
    evaluated: EvaluatedModel,
    comparison: Comparison | None,
) -> CardData:
    fitted, used = evaluated.fitted, evaluated.used
    model, precision = _sealed_model(fitted), options.precision or imported.precision
    gate = model.gate_fit(
        fitted.gate,
        fitted.candidates,
        fitted.mahalanobis,
        used.digests,
        used.sizes["fold_b"],
        options.fit.target.delta,
        fitted.missing_images,
    )
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
            + calibrated_on(precision, gate.calibrated_for_engine).runtime(),
        ),
        task=model.task,
        labels=labels,
        preprocess=fitted.spec,
        parity=proof,
        calibration=evaluated.calibration,
        gate=gate,
        reference=fitted.reference,
        splits=used.sizes,
        evaluation=evaluated.evaluation,
        expected=evaluated.expected,
        coverage=evaluated.coverage,
        precision=precision,
        comparison=comparison,
        notes=(*imported.notes, *overridden, *evaluated.near_duplicates),
        left_out=used.left_out,
        score_histograms=evaluated.score_histograms,
        training=imported.training,
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
    manifest = bundle.manifest
    by = calibrated_on(manifest.precision, manifest.gate.calibrated_for_engine)
    engine = by.open(bundle.model_path, precision=manifest.precision)
    check_golden(bundle, lambda images: engine.run(0, images))
