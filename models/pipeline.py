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
from tidegate.models.data.folders import check_disjoint, class_names, labelled, shuffled, unlabelled
from tidegate.models.errors import BuildRefused
from tidegate.models.fitting.conformal import PARTS, GateTarget, check_sizes
from tidegate.models.fitting.fit import Fitted, Score, Splits, fit, gate_fit
from tidegate.models.importers.base import Imported
from tidegate.models.parity import preprocessing
from tidegate.models.parity.export import check_export
from tidegate.models.precision.comparison import check_drop, compare
from tidegate.models.precision.convert import convert
from tidegate.models.precision.int8 import RunsOn
from tidegate.models.progress import say
from tidegate.models.sealing.golden import golden_files, listed
from tidegate.models.sealing.write import locked, write_bundle
from tidegate.service.bundle import manifest as m
from tidegate.service.bundle.evidence import Comparison, Parity
from tidegate.service.bundle.golden import check_golden
from tidegate.service.bundle.manifest import Precision
from tidegate.service.bundle.store import CALIBRATION, CARD, LABELS, MODEL, Bundle
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
    score: Score
    target: GateTarget
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
    splits = _splits(data, labels, choices.target)
    check_export(imported, spec, splits.calibrate)
    precision = choices.precision or imported.precision
    if imported.precision not in ("fp32", precision):
        raise BuildRefused(f"The model is in {imported.precision}: {precision} needs the original.")
    say(f"Fitting in {imported.precision}.")
    fitted = fit(imported.backbone, spec, splits, labels, choices.score, choices.target, model_dir)
    comparison = None
    if precision != imported.precision:
        say(f"Converting to {precision}, and fitting again.")
        backbone = convert(imported.backbone, spec, splits.calibrate, precision, choices.int8_for)
        variant = fit(backbone, spec, splits, labels, choices.score, choices.target, model_dir)
        comparison = compare(fitted, variant, splits.test, spec)
        check_drop(comparison, precision, choices.max_drop)
        fitted = variant
    facts = _facts(imported, choices, spec, labels, proof, fitted, comparison)
    say("Sealing.")
    bundle = _write(model_dir, facts, fitted)
    say(f"{bundle.path} is sealed, its golden probes passed, digest {bundle.digest[:12]}.")
    return bundle


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


def _facts(
    imported: Imported,
    choices: BuildOptions,
    spec: PreprocessSpec,
    labels: tuple[str, ...],
    proof: Parity | None,
    fitted: Fitted,
    comparison: Comparison | None,
) -> CardData:
    height, width = spec.output_size
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
        task=m.Task(
            classes=len(labels), features=len(fitted.head.centre), height=height, width=width
        ),
        labels=labels,
        preprocess=spec,
        parity=proof,
        calibration=fitted.calibration,
        gate=gate_fit(fitted, choices.score, choices.target, spec),
        reference=fitted.reference,
        splits=fitted.sizes,
        evaluation=fitted.evaluation,
        precision=choices.precision or imported.precision,
        comparison=comparison,
        notes=(*imported.notes, *overridden),
        left_out=fitted.left_out,
        score_histograms=fitted.score_histograms,
    )


def _write(model_dir: Path, facts: CardData, fitted: Fitted) -> Bundle:
    files = {
        MODEL: fitted.sealed,
        LABELS: "".join(f"{label}\n" for label in facts.labels).encode(),
        CALIBRATION: fitted.gate_file,
        CARD: model_card(facts).encode(),
        **plots(facts),
        **golden_files(
            fitted.sealed,
            fitted.head,
            facts.preprocess,
            preprocessing.golden_probes(facts.preprocess),
        ),
    }
    manifest = m.Manifest(
        name=facts.name,
        version=facts.version,
        provenance=facts.provenance,
        task=facts.task,
        preprocess=facts.preprocess,
        calibration=facts.calibration,
        gate=facts.gate,
        reference=facts.reference,
        precision=facts.precision,
        parity=facts.parity,
        evaluation=facts.evaluation,
        comparison=facts.comparison,
        files=listed(files),
    )
    return write_bundle(model_dir, manifest, files, _ask_golden_probes)


def _ask_golden_probes(bundle: Bundle) -> None:
    engine = OnnxEngine(bundle.model_path)
    check_golden(bundle, lambda images: engine.run(0, images))
