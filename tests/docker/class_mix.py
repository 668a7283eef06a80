"""The rules' statistics of two samples of classes in NumPy: the oracle of the drift tests."""

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.floating]  # [classes]


def class_mix(observed: Counts, reference: Counts, window: str = "1h") -> dict[str, float]:
    """Return record → value: the formulae are written out in docker/prometheus/rules/drift.yml.

    `observed` are the predictions over the dispersion φ.
    """
    seen = observed + reference > 0
    o, r = observed[seen], reference[seen]
    total, samples, classes = o.sum(), r.sum(), len(o)
    pooled, df = o + r, classes - 1
    chi2, mean, variance = _chi2(o, r)
    spread = variance / (9 * mean**2)
    p, q = (o + 0.5) / (total + classes / 2), (r + 0.5) / (samples + classes / 2)
    psi = ((p - q) * np.log(p / q)).sum()
    noise = df * (1 / total + 1 / samples)
    o_share, r_share = o / total, r / samples
    middle = (o_share + r_share) / 2
    numbers = {
        "predictions:effective": total,
        "classes_seen:count": classes,
        "pooled:samples": pooled.sum(),
        "class_mix:chi2_": chi2,
        "class_mix:chi2_mean": mean,
        "class_mix:chi2_variance": variance,
        "class_mix:z": ((chi2 / mean) ** (1 / 3) - 1 + spread) / np.sqrt(spread),
        "class_mix:effect": (chi2 - mean) * (1 / total + 1 / samples),
        "class_mix:psi": psi,
        "class_mix:psi_noise": noise,
        "class_mix:psi_excess": psi - noise,
        "class_mix:total_variation": np.abs(o_share - r_share).sum() / 2,
        "class_mix:jensen_shannon": (_kl(o_share, middle) + _kl(r_share, middle)) / 2,
    }
    return {f"tidegate:{name}{window}": float(value) for name, value in numbers.items()}


def _chi2(o: Counts, r: Counts) -> tuple[float, float, float]:
    """Pearson's χ² of two samples, with its exact mean and variance given o + r (Dawson 1954)."""
    total, samples, classes, pooled = o.sum(), r.sum(), len(o), o + r
    m = total + samples
    chi2 = ((o / total - r / samples) ** 2 / pooled).sum() * m / (1 / total + 1 / samples)
    rows_v, rows_w = (m - 2) / (m - 1), (m**2 / (total * samples) - 4) / (m - 2)
    columns_v = (classes - 1) * (m - classes) / (m - 1)
    columns_w = (m * (1 / pooled).sum() - classes**2) / (m - 2)
    variance = 2 * m / (m - 3) * (rows_v - rows_w) * (columns_v - columns_w)
    variance += m**2 / (m - 1) * rows_w * columns_w
    return chi2, (classes - 1) * m / (m - 1), variance


def _kl(p: Counts, q: Counts) -> float:
    """Kullback–Leibler divergence in nats, with 0·ln 0 = 0."""
    some = p > 0
    return float((p[some] * np.log(p[some] / q[some])).sum())


def neighbours(first: Counts, second: Counts) -> float:
    """Return χ² of two neighbouring windows over its degrees of freedom: 1 if independent."""
    seen = first + second > 0
    a, b = first[seen], second[seen]
    total, before = a.sum(), b.sum()
    chi2 = ((a / total - b / before) ** 2 / (a + b)).sum() * (total + before)
    return float(chi2 / (1 / total + 1 / before) / max(seen.sum() - 1, 1))


def dispersion(known: Counts, classes: int) -> float:
    """Return φ from the χ² of neighbouring windows, with `classes` in the current one."""
    median = np.median(known) / (1 - 2 / (9 * max(classes - 1, 1))) ** 3
    return float(np.clip(median, 1, 64))


def rate_neighbours(flagged: Counts, images: Counts) -> float:
    """Return the same for rejections, [2] each: the index of dispersion, at most 64."""
    apart = flagged[0] / images[0] - flagged[1] / images[1]
    share = flagged.sum() / images.sum()
    return float(min(apart**2 / share / (1 / images).sum(), 64))


def rate_nats(flagged: float, images: float, phi: float, alpha: float, calibration: float) -> float:
    """Return the evidence that the share of flagged images differs from alpha, in nats."""
    o, r = flagged / phi, alpha * calibration
    pooled = (o + r) / (images / phi + calibration)
    return float(o * np.log(max(flagged / images, 1e-9) / pooled) + r * np.log(alpha / pooled))


def class_shift(observed: Counts, reference: Counts) -> Counts:
    """Return the evidence that each class's share has changed, in nats."""
    total, samples = observed.sum(), reference.sum()
    pooled = np.maximum(observed + reference, 1)  # a class without images has no evidence
    share = (total + samples) / pooled
    return np.asarray(
        observed * np.log(np.maximum(observed, 1e-9) * share / total)
        + reference * np.log(np.maximum(reference, 1e-9) * share / samples)
    )


def needed(observed: Counts, reference: Counts) -> float:
    """Return the evidence that a class needs for a series: Bonferroni's 1e-5 over the classes."""
    return float(np.log(1e5 * (observed + reference > 0).sum()))
