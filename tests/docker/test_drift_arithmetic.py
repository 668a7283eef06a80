"""The rules' expected numbers, recomputed by NumPy from the same series as promtool sees."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from tests.docker.class_mix import class_mix, dispersion, neighbours, rate_nats, rate_neighbours

TESTS = Path(__file__).parents[2] / "docker" / "prometheus" / "tests"
MINUTES = 60


def _series(case: dict[str, Any], metric: str, label: str) -> dict[str, tuple[float, float]]:
    """Return label value → (maximum of the starts, sum of the steps per minute) of a metric."""
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
    """Return record (with its selector) → the value that the promtool test expects."""
    expected = {}
    for check in case["promql_expr_test"]:
        match = re.search(r"tidegate:[\w:]+(\{.*?\})?", check["expr"])
        assert match is not None
        expected[match.group()] = check["exp_samples"][0]["value"]
    return expected


def test_the_class_mix_numbers_equal_numpys() -> None:
    case = yaml.safe_load((TESTS / "class_mix_numbers.yml").read_text())["tests"][0]
    steps = _series(case, "tidegate_predictions_total", "class")
    fractions = _series(case, "tidegate_reference_class_fraction", "class")
    (samples, _) = _series(case, "tidegate_reference_samples", "model")["m"]
    classes = sorted(steps.keys() | fractions.keys())
    observed = np.array([MINUTES * steps.get(c, (0.0, 0.0))[1] for c in classes])
    reference = np.array([samples * fractions.get(c, (0.0, 0.0))[0] for c in classes])

    numbers = class_mix(observed, reference)
    del numbers["tidegate:pooled:samples1h"]
    numbers['tidegate:class_fraction:ratio1h{class="2"}'] = observed[2] / observed.sum()

    assert _expected(case) == pytest.approx(numbers, abs=0.5e-4)  # the file rounds to 0.0001


def test_the_ood_numbers_equal_numpys() -> None:
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
        nats = rate_nats(flagged[threshold], total, 1, alpha, samples)
        numbers[f'tidegate:ood_rate:nats1h{{threshold="{threshold}"}}'] = nats

    assert _expected(case) == pytest.approx(numbers, abs=0.5e-4)  # the file rounds to 0.0001


def _every_minute(case: dict[str, Any], metric: str) -> NDArray[np.float64]:
    """Return the values of a metric's series, [series, minutes]."""
    series = [s for s in case["input_series"] if s["series"].startswith(metric)]
    return np.array([[float(value) for value in s["values"].split()] for s in series])


def test_the_dispersions_equal_numpys() -> None:
    case = yaml.safe_load((TESTS / "dispersion_numbers.yml").read_text())["tests"][0]
    classes = _every_minute(case, "tidegate_predictions_total")
    accepted, rejected = _every_minute(case, "tidegate_ood_decisions_total")
    now, before = (slice(t - 10, t + 1, 10) for t in (classes.shape[1] - 1, classes.shape[1] - 11))
    images = accepted + rejected
    pair = [np.array([np.diff(x[w])[0] for w in (now, before)]) for x in (rejected, images)]
    by_class = [np.diff(classes[:, window])[:, 0] for window in (now, before)]

    numbers = {
        "tidegate:class_mix:neighbours10m": neighbours(*by_class),
        "tidegate:class_mix:dispersion10m": dispersion(np.array([20.0]), 3) / 20,
        'tidegate:ood_rate:neighbours10m{threshold="reject"}': rate_neighbours(*pair),
        'tidegate:ood_rate:dispersion10m{threshold="reject"}': 1.0,
    }

    assert _expected(case) == pytest.approx(numbers, abs=0.5e-4)  # the file rounds to 0.0001


def test_for_a_large_reference_chi2_is_the_textbook_one_with_its_correction() -> None:
    observed, reference = np.array([30.0, 50, 20]), 1e7 * np.array([0.25, 0.45, 0.3])
    total, samples = observed.sum(), reference.sum()
    expectation = total * reference / samples

    textbook = ((observed - expectation) ** 2 / expectation).sum() / (1 + total / samples)

    chi2 = class_mix(observed, reference)["tidegate:class_mix:chi2_1h"]
    assert chi2 == pytest.approx(textbook, rel=1e-4)  # the two differ by O(N/n) = 1e-5
