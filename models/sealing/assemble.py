"""Assemble a bundle's folder from its parts; the only module that writes a manifest."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import onnx
from pydantic import BaseModel

from tidegate.models.graphs.engine_mark import engine_of
from tidegate.models.sealing.gate_head import GateHead
from tidegate.models.sealing.golden import golden_files, listed
from tidegate.models.sealing.write import write_bundle
from tidegate.service.bundle import manifest as m
from tidegate.service.bundle.evidence import Comparison, Coverage, Evaluation, Parity
from tidegate.service.bundle.store import CALIBRATION, CARD, LABELS, MODEL, Bundle
from tidegate.service.imaging.spec import PreprocessSpec
from tidegate.service.ood.gates import Gate
from tidegate.service.types import ENERGY

Part = TypeVar("Part", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class SealedModel:
    """A sealed graph and its parts."""

    graph: bytes
    head: GateHead
    spec: PreprocessSpec

    @property
    def task(self) -> m.Task:
        """Return the sizes of the graph's input and outputs."""
        height, width = self.spec.output_size
        return m.Task(
            classes=len(self.head.means),
            features=len(self.head.centre),
            height=height,
            width=width,
        )

    def gate_fit(
        self,
        gate: Gate,
        candidates: Mapping[str, float],
        mahalanobis: m.MahalanobisFit,
        splits: Mapping[str, str],
        fold_b: int,
        delta: float | None = None,
        missing_images: Sequence[int] = (),
    ) -> m.GateFit:
        """Describe a gate that was calibrated for this model.

        `candidates` are the criteria by which its combination was chosen, `splits` the digests of
        the splits that it was fitted on, `fold_b` the total images of all folds B, `delta` the
        failure probability of a PAC guarantee; None: marginal guarantee. `missing_images` are per
        class, for a threshold of its own.
        """
        return m.GateFit(
            scores=tuple(gate.folds_a),
            combination=gate.combination,
            candidates=dict(candidates),
            energy_temperature=self.head.energy_temperature,
            mahalanobis=mahalanobis,
            guarantee="marginal" if delta is None else "pac",
            guarantee_delta=delta,
            alpha_reject=gate.alpha_reject,
            alpha_review=gate.alpha_review,
            fold_a=len(gate.folds_a[ENERGY].scores),
            fold_b=fold_b,
            own_threshold=tuple(gate.own_folds_b),
            missing_images=tuple(missing_images),
            splits=dict(splits),
            calibrated_for_model=sha256(self.graph).hexdigest(),
            calibrated_for_preprocess=self.spec.digest,
            calibrated_for_engine=engine_of(onnx.load_model_from_string(self.graph)),
        )


@dataclass(frozen=True, slots=True)
class Draft:
    """Everything that goes into a bundle."""

    name: str
    version: str
    provenance: m.Provenance
    model: SealedModel
    labels: tuple[str, ...]  # [classes]
    calibration: m.Calibration
    gate: m.GateFit
    gate_file: bytes  # calibration.npz
    reference: m.ReferenceFit
    probes: Mapping[str, bytes]  # golden probes: name in the bundle → image file
    card: bytes
    card_files: Mapping[str, bytes] = field(default_factory=dict)
    precision: m.Precision = "fp32"
    parity: Parity | None = None
    evaluation: Evaluation | None = None
    coverage: Coverage | None = None
    comparison: Comparison | None = None


def rounded(part: Part) -> Part:
    """Return a part of the manifest with its numbers rounded to nine significant digits.

    What was measured with exponentials or means differs in the last bits between libraries, about
    1e-16 of a value. The chance that this crosses a step of the rounding is 1e-6 for ten values.
    """
    return type(part).model_validate_json(json.dumps(_rounded(part.model_dump(mode="json"))))


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.9g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


def assemble(
    model_dir: Path, draft: Draft, check: Callable[[Bundle], None] = lambda bundle: None
) -> Bundle:
    """Write `draft` below `model_dir`, the folder of its name, and return the bundle.

    Call it under `locked`. `check` runs on the written bundle before it gets its final name.
    Raises BuildRefused if the graph's scores of the probes differ from float64's, or what `check`
    raises; nothing remains then.
    """
    model = draft.model
    files = {
        MODEL: model.graph,
        LABELS: "".join(f"{label}\n" for label in draft.labels).encode(),
        CALIBRATION: draft.gate_file,
        CARD: draft.card,
        **draft.card_files,
        **golden_files(model.graph, model.head, model.spec, draft.probes),
    }
    manifest = m.Manifest(
        name=draft.name,
        version=draft.version,
        provenance=draft.provenance,
        task=model.task,
        preprocess=model.spec,
        calibration=rounded(draft.calibration),
        gate=rounded(draft.gate),
        reference=rounded(draft.reference),
        precision=draft.precision,
        parity=draft.parity and rounded(draft.parity),
        evaluation=draft.evaluation and rounded(draft.evaluation),
        coverage=draft.coverage and rounded(draft.coverage),
        comparison=draft.comparison and rounded(draft.comparison),
        files=listed(files),
    )
    return write_bundle(model_dir, manifest, files, check)
