"""Choose the energy temperature that best separates images from synthetic OOD images."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tidegate.models.data.outputs import run_pixels
from tidegate.models.data.rows import Float32
from tidegate.models.evaluation.ood_metrics import auroc
from tidegate.models.fitting import synthetic_ood
from tidegate.models.progress import follow
from tidegate.service.imaging.spec import PreprocessSpec
from tidegate.service.ood.scores import energy_score
from tidegate.service.types import Pixels

TEMPERATURES = (0.25, 0.5, 1.0, 2.0, 4.0)
PER_KIND = 40


def synthetic_ood_logits(
    graph: bytes, spec: PreprocessSpec, photographs: list[Pixels]
) -> dict[str, Float32]:
    """Return logits of each kind of synthetic OOD image, and of shuffled `photographs`."""
    images = {
        kind: synthetic_ood.generate(kind, PER_KIND, synthetic_ood.SELECTION_SEED, spec)
        for kind in follow(list(synthetic_ood.FIT_KINDS), "Making synthetic OOD images")
    }
    images[synthetic_ood.SHUFFLED] = synthetic_ood.shuffled(
        photographs, synthetic_ood.SELECTION_SEED
    )
    return {kind: run_pixels(graph, pictures).logits for kind, pictures in images.items()}


def choose_temperature(inside: Float32, outside: Mapping[str, Float32]) -> float:
    """Return the temperature with the best mean AUROC over kinds; for ties, the one nearest to 1.

    `inside` [n, C] are logits of images that are in neither fold nor in the test split.
    """

    def mean_auroc(temperature: float) -> float:
        score = energy_score(inside, temperature)
        return float(
            np.mean(
                [auroc(score, energy_score(logits, temperature)) for logits in outside.values()]
            )
        )

    return max(TEMPERATURES, key=lambda t: (round(mean_auroc(t), 6), -abs(np.log(t))))
