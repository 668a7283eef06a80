"""A last layer from text: a vector for each class, by the text encoder of a network such as CLIP.

No image trains it, so nothing is known about it before it is evaluated. The bundle is calibrated,
and its gate fitted, on labelled images like any other.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tidegate.models.data.training_data import TrainingData
from tidegate.models.errors import BuildRefused
from tidegate.models.graphs.new_head import with_head, with_unit_features
from tidegate.models.importers.base import Imported
from tidegate.models.parity.export import check_export
from tidegate.models.training.probe import first_images
from tidegate.models.training.recipe import ZERO_SHOT
from tidegate.models.training_record import TrainingRecord

_SCALE = 100.0  # CLIP's, where its training ended
_FORM = "an .npz with `classes` (names) and `vectors` (a row for each), and perhaps `scale`"
_UNPROVED = (
    "The last layer is made of text vectors: no image trained or chose it, so it is unproved "
    "beyond the results below."
)


@dataclass(frozen=True, slots=True)
class TextEmbeddings:
    """A vector for each class, and the factor of the cosines."""

    classes: tuple[str, ...]
    vectors: NDArray[np.float32]  # [classes, D]
    scale: float


def read(file: Path) -> TextEmbeddings:
    """Return the vectors in a file. Raises BuildRefused if it has another form."""
    try:
        with np.load(file, allow_pickle=False) as content:
            classes = tuple(str(name) for name in content["classes"].tolist())
            vectors = np.asarray(content["vectors"], np.float32)
            scale = float(content["scale"]) if "scale" in content else _SCALE
    except OSError as error:
        raise BuildRefused(f"--text-embeddings {file}: {error.strerror or error}.") from error
    except (KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise BuildRefused(f"--text-embeddings {file} must be {_FORM}: {error}.") from error
    if vectors.ndim != 2 or len(vectors) != len(classes) or len(set(classes)) < len(classes):
        raise BuildRefused(
            f"--text-embeddings {file} has {len(classes)} classes and vectors of shape "
            f"{vectors.shape}: it must have one row for each class, and each class once."
        )
    lengths = np.linalg.norm(vectors, axis=1)
    if not (np.isfinite(lengths).all() and lengths.min() > 0 and scale > 0):
        raise BuildRefused(f"--text-embeddings {file}: a vector is not finite or zero.")
    return TextEmbeddings(classes, vectors / lengths[:, None], scale)


def imported(source: Imported, texts: TextEmbeddings, data: TrainingData, seed: int) -> Imported:
    """Return `source` with the cosines of its features and the vectors, × scale, as its logits.

    Raises BuildRefused if the vectors are not those of the classes or of this encoder, or if the
    exported graph is not its framework's model.
    """
    if sorted(texts.classes) != sorted(data.classes):
        differing = sorted({*texts.classes} ^ {*data.classes})
        raise BuildRefused(
            f"The text vectors are not of the images' classes: {', '.join(differing[:5])} is only "
            "in one of them."
        )
    if source.forward is not None:
        check_export(source, source.spec, first_images(data))
    backbone = with_unit_features(source.backbone)
    width = backbone.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    if width != texts.vectors.shape[1]:
        raise BuildRefused(
            f"The text vectors have {texts.vectors.shape[1]} numbers, and the features of the "
            f"image encoder {width}: they must come from the same network."
        )
    rows = texts.vectors[[texts.classes.index(name) for name in data.classes]]
    return replace(
        source,
        backbone=with_head(backbone, texts.scale * rows, np.zeros(len(rows), np.float32)),
        forward=None,
        source=f"an unproved zero-shot layer (text vectors) on the features of {source.source}",
        labels=data.classes,
        notes=(*source.notes, _UNPROVED),
        rivals=(),
        training=TrainingRecord(
            recipe=ZERO_SHOT,
            why="The last layer comes from text vectors; no image is trained on.",
            seed=seed,
            images={"the class means of the gate": len(data.train)},
            settings={"backbone": source.source, "scale": f"{texts.scale:g}"},
            versions=(),
            kept=ZERO_SHOT,
        ),
    )
