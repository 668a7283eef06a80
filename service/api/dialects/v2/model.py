"""How a model appears in the protocol: its two names, its input and its outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tidegate.service.bundle.store import Bundle
from tidegate.service.catalog import Catalog

PIXELS_SUFFIX = ".pixels"  # NAME takes encoded images, NAME.pixels takes preprocessed ones

Datatype = Literal["BYTES", "FP32", "INT32", "UINT8"]
ONE = 1  # a column


@dataclass(frozen=True, slots=True)
class Output:
    """One output, [images, columns]."""

    name: str
    datatype: Datatype
    per_class: bool = False  # a column for each class, instead of one


FEATURES = "features"
# Clients that read only the first output get the probabilities.
OUTPUTS = {
    output.name: output
    for output in (
        Output("probabilities", "FP32", per_class=True),
        Output("class_id", "INT32"),
        Output("label", "BYTES"),
        Output("decision", "BYTES"),
        Output("p_value", "FP32"),
        Output("energy_p_value", "FP32"),
        Output("mahalanobis_p_value", "FP32"),
        Output("nearest_class", "INT32"),
        Output(FEATURES, "FP32"),  # [images, features], only if it is requested by name
    )
}
PROBABILITIES = OUTPUTS["probabilities"]
_OF_IMAGES = tuple(output for output in OUTPUTS.values() if output.name != FEATURES)
_OF_PIXELS = (PROBABILITIES,)  # Triton's image_client accepts only models with one output


@dataclass(frozen=True, slots=True)
class ModelName:
    """A model's name in a request, and the model that it stands for."""

    given: str
    model: str
    takes_pixels: bool

    @property
    def input_name(self) -> str:
        """Return the name of the only input."""
        return "pixels" if self.takes_pixels else "image"

    @property
    def input_datatype(self) -> Datatype:
        """Return the datatype of the only input."""
        return "UINT8" if self.takes_pixels else "BYTES"

    @property
    def outputs(self) -> tuple[Output, ...]:
        """Return the outputs of a request that names none."""
        return _OF_PIXELS if self.takes_pixels else _OF_IMAGES


def model_name(given: str, catalog: Catalog) -> ModelName:
    """Return what a name stands for. An unknown one is returned as it is."""
    base = given.removesuffix(PIXELS_SUFFIX)
    if base != given and given not in catalog.models:
        return ModelName(given, base, takes_pixels=True)
    return ModelName(given, given, takes_pixels=False)


def model_names(catalog: Catalog) -> list[str]:
    """Return both names of every model."""
    return [name + suffix for name in sorted(catalog.models) for suffix in ("", PIXELS_SUFFIX)]


def input_dims(name: ModelName, bundle: Bundle) -> list[int]:
    """Return the input's shape without the number of images."""
    task = bundle.manifest.task
    return [task.height, task.width, 3] if name.takes_pixels else [1]


def columns(output: Output, bundle: Bundle) -> int:
    """Return how many columns an output has."""
    return bundle.manifest.task.classes if output.per_class else ONE
