"""What `tidegate distil --teacher` names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tidegate.models.data.folders import labelled
from tidegate.models.data.outputs import load_pixels
from tidegate.models.data.training_data import TrainingData
from tidegate.models.errors import BuildRefused
from tidegate.models.graphs.session import quiet_session
from tidegate.models.importers import from_huggingface, from_timm
from tidegate.models.importers.base import Imported
from tidegate.models.sealing.unseal import reopened
from tidegate.service.bundle.store import MANIFEST, Bundle, open_bundle
from tidegate.service.errors import RequestError
from tidegate.service.types import OUTPUT_NAMES

_BUNDLE = "bundle:"


@dataclass(frozen=True)
class TeacherSource:
    """A teacher, and its bundle if it is one."""

    imported: Imported
    bundle: Bundle | None = None

    def data(self, divided: TrainingData) -> TrainingData:
        """Return the images with the class ids of the teacher.

        Raises BuildRefused if its classes are others.
        """
        labels, classes = self.imported.labels, _classes(self.imported)
        if labels is not None:
            return divided.ordered(labels)
        if classes != len(divided.classes):
            raise BuildRefused(
                f"The teacher has {classes} classes, but the images have {len(divided.classes)}: "
                "a student learns the classes of its teacher."
            )
        return divided

    def notes(self, data: TrainingData) -> tuple[str, ...]:
        """Return sentences on what is not certain about the teacher, for the card."""
        if self.imported.labels is None:
            return ("The teacher's classes have no names; they are taken in the images' order.",)
        if self.bundle is None:
            return ()
        own = labelled("train", data.listed("train"), data.classes).digest
        if self.bundle.manifest.gate.splits.get("train") == own:
            return ()
        return (
            "The teacher's bundle was made with other training images than these. If some of the "
            "test images are among them, its accuracy here is too good: give its own splits.json "
            "as --data.",
        )

    @property
    def rejects(self) -> Callable[[Path], bool]:
        """Return whether the gate of the teacher's bundle rejects an image; never without one."""
        bundle = self.bundle
        if bundle is None:
            return lambda path: False
        session = quiet_session(bundle.model_path.read_bytes())

        def rejected(path: Path) -> bool:
            try:
                pixels = load_pixels(path, bundle.manifest.preprocess)
            except RequestError:
                return True
            logits, _, scores, _ = session.run(OUTPUT_NAMES, {"pixels": pixels[None]})
            decided = bundle.gate.judge(scores[0].tolist(), int(logits[0].argmax()))
            return decided.decision == "reject"

        return rejected


def check(word: str, weights: Path | None) -> None:
    """Raise BuildRefused for what is known about a teacher without a framework."""
    if (folder := _folder(word)) is not None:
        if weights is not None:
            raise BuildRefused("--teacher-weights is for timm:NAME, not for a bundle.")
        open_bundle(folder)
        return
    kind, _, name = word.partition(":")
    if kind not in ("timm", "huggingface") or not name:
        raise BuildRefused(
            f"--teacher {word}: give the folder of a sealed bundle, timm:NAME with "
            "--teacher-weights, timm:local-dir:FOLDER, or huggingface:FOLDER. `tidegate import` "
            "makes a bundle of every other model."
        )
    if weights is not None and not weights.is_file():
        raise BuildRefused(f"--teacher-weights {weights} does not exist.")


def load(word: str, weights: Path | None) -> TeacherSource:
    """Return the teacher that `check` has accepted. Raises BuildRefused as its importer does."""
    if (folder := _folder(word)) is not None:
        bundle = open_bundle(folder)
        return TeacherSource(reopened(bundle), bundle)
    kind, _, name = word.partition(":")
    if kind == "huggingface":
        return TeacherSource(from_huggingface.load(Path(name)))
    return TeacherSource(from_timm.load(name, checkpoint=weights))


def _folder(word: str) -> Path | None:
    """Return the folder of a bundle, or None if `word` names something else."""
    folder = Path(word.removeprefix(_BUNDLE))
    is_bundle = word.startswith(_BUNDLE) or (folder / MANIFEST).is_file()
    return folder if is_bundle else None


def _classes(imported: Imported) -> int:
    logits = next(value for value in imported.backbone.graph.output if value.name == "logits")
    return int(logits.type.tensor_type.shape.dim[1].dim_value)
