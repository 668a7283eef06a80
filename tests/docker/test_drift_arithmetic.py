"""The rules' expected numbers, recomputed by NumPy from the same series as promtool sees."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

TESTS = Path(__file__).parents[2] / "docker" / "prometheus" / "tests"
MINUTES = 60
Counts = NDArray[np.floating]  # [classes]


def _series(case: dict[str, Any], metric: str, label: str) -> dict[str, tuple[float, float]]:
    """label value → (start, step a minute) of a metric: starts as the maximum, steps as the sum."""
    found: dict[str, tuple[float, float]] = {}
    for series in case["input_series"]:
        name, labels = series["series"].split("{")
        if name == metric:
            key = dict(re.findall(r'(\w+)="([^"]*)"', labels))[label]
            start, step = map(float, series["values"].split("x")[0].split("+"))
            before = found.get(key, (0.0, 0.0))
            found[key] = (max(before[0], start), before[1] + step)
    return found


def _expected(case: dict[str, Any]) -> dict[str, float]:
    """record (with its selector) → the value that promtool is told to expect."""
    expected = {}
    for check in case["promql_expr_test"]:
        match = re.search(r"tidegate:[\w:]+(\{.*?\})?", check["expr"])
        assert match is not None
        expected[match.group()] = check["exp_samples"][0]["value"]
    return expected


def _class_mix(observed: Counts, reference: Counts) -> dict[str, float]:
    """Pearson's χ² between two samples, its Wilson–Hilferty z, and PSI with half counts."""
    seen = observed + reference > 0
    o, r = observed[seen], reference[seen]
    total, samples, classes = o.sum(), r.sum(), len(o)
    pooled = (o + r) / (total + samples)
    chi2 = ((o / total - r / samples) ** 2 / pooled).sum() / (1 / total + 1 / samples)
    df = classes - 1
    z = ((chi2 / df) ** (1 / 3) - (1 - 2 / (9 * df))) / np.sqrt(2 / (9 * df))
    p, q = (o + 0.5) / (total + classes / 2), (r + 0.5) / (samples + classes / 2)
    psi = ((p - q) * np.log(p / q)).sum()
    noise = df * (1 / total + 1 / samples)
    return {
        "tidegate:predictions:increase1h": total,
        "tidegate:classes_seen:count": classes,
        "tidegate:class_mix:chi2_1h": chi2,
        "tidegate:class_mix:z1h": z,
        "tidegate:class_mix:psi1h": psi,
        "tidegate:class_mix:psi_noise1h": noise,
        "tidegate:class_mix:psi_excess1h": psi - noise,
    }


def test_the_class_mix_numbers_are_numpys() -> None:
    case = yaml.safe_load((TESTS / "class_mix_numbers.yml").read_text())["tests"][0]
    steps = _series(case, "tidegate_predictions_total", "class")
    fractions = _series(case, "tidegate_reference_class_fraction", "class")
    (samples, _) = _series(case, "tidegate_reference_samples", "model")["m"]
    classes = sorted(steps.keys() | fractions.keys())
    observed = np.array([MINUTES * steps.get(c, (0.0, 0.0))[1] for c in classes])
    reference = np.array([samples * fractions.get(c, (0.0, 0.0))[0] for c in classes])

    numbers = _class_mix(observed, reference)
    numbers['tidegate:class_fraction:ratio1h{class="2"}'] = observed[2] / observed.sum()

    assert _expected(case) == pytest.approx(numbers, abs=0.5e-4)  # the file rounds to 0.0001


def test_the_ood_numbers_are_numpys() -> None:
    case = yaml.safe_load((TESTS / "ood_numbers.yml").read_text())["tests"][0]
    decisions = _series(case, "tidegate_ood_decisions_total", "decision")
    counts = {name: MINUTES * step for name, (_, step) in decisions.items()}
    alphas = {t: a for t, (a, _) in _series(case, "tidegate_ood_alpha", "threshold").items()}
    (samples, _) = _series(case, "tidegate_ood_calibration_samples", "model")["m"]
    total = sum(counts.values())
    flagged = {"reject": counts["reject"], "review": counts["reject"] + counts["review"]}

    numbers = {}
    for threshold, alpha in alphas.items():
        rate = flagged[threshold] / total
        z = (rate - alpha) / np.sqrt(alpha * (1 - alpha) * (1 / total + 1 / samples))
        numbers[f'tidegate:ood_rate:ratio1h{{threshold="{threshold}"}}'] = rate
        numbers[f'tidegate:ood_rate:z1h{{threshold="{threshold}"}}'] = z

    assert _expected(case) == pytest.approx(numbers, abs=0.5e-4)  # the file rounds to 0.0001


def test_for_a_large_reference_chi2_is_the_textbook_one_with_its_correction() -> None:
    observed, reference = np.array([30.0, 50, 20]), 1e7 * np.array([0.25, 0.45, 0.3])
    total, samples = observed.sum(), reference.sum()
    expectation = total * reference / samples

    textbook = ((observed - expectation) ** 2 / expectation).sum() / (1 + total / samples)

    chi2 = _class_mix(observed, reference)["tidegate:class_mix:chi2_1h"]
    assert chi2 == pytest.approx(textbook, rel=1e-4)  # the two differ by O(N/n) = 1e-5


@pytest.mark.parametrize("classes", [10, 1000])
@pytest.mark.parametrize("samples", [638, 50_000])
@pytest.mark.parametrize("total", [1000, 20_000])
def test_without_drift_neither_threshold_is_crossed(classes: int, samples: int, total: int) -> None:
    """The statement that the alert rests on: z has mean 0 and the PSI excess is not positive."""
    rng = np.random.default_rng(0)
    mix = 1 / np.arange(1, classes + 1)  # Zipf: many rare classes, the hard case for χ²
    mix /= mix.sum()

    runs = [
        _class_mix(rng.multinomial(total, mix) * 1.0, rng.multinomial(samples, mix) * 1.0)
        for _ in range(50)
    ]

    z = np.array([run["tidegate:class_mix:z1h"] for run in runs])
    excess = np.array([run["tidegate:class_mix:psi_excess1h"] for run in runs])
    assert abs(z.mean()) < 0.7  # five standard errors of the mean of 50 standard normals
    assert excess.max() < 0.2
