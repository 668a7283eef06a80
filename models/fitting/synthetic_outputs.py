"""The backbone's outputs for synthetic OOD images, with which the scores are chosen."""

from __future__ import annotations

from tidegate.models.data.outputs import NetworkOutputs, run_pixels
from tidegate.models.fitting import synthetic_ood
from tidegate.models.progress import follow
from tidegate.service.imaging.spec import PreprocessSpec
from tidegate.service.types import Pixels

PER_KIND = 40


def synthetic_outputs(
    graph: bytes, spec: PreprocessSpec, photographs: list[Pixels]
) -> dict[str, NetworkOutputs]:
    """Return the outputs for each kind of synthetic OOD image, and for shuffled `photographs`."""
    images = {
        kind: synthetic_ood.generate(kind, PER_KIND, synthetic_ood.SELECTION_SEED, spec)
        for kind in follow(list(synthetic_ood.FIT_KINDS), "Making synthetic OOD images")
    }
    images[synthetic_ood.SHUFFLED] = synthetic_ood.shuffled(
        photographs, synthetic_ood.SELECTION_SEED
    )
    return {kind: run_pixels(graph, pictures) for kind, pictures in images.items()}
