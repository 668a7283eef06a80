"""How often the drift report of a set names something, if nothing changed and if something did.

    python -m tidegate.models.benchmarks.set_drift BUNDLE IMAGES… [--json OUT]

IMAGES are folders with a folder for each class, which the network was not trained on. Each image is
classified once as it is, rotated and darkened. Then they are divided at random, again and again:
the gate and the reference are fitted anew to one part, and sets are drawn from the other.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tidegate.models.data.rows import Float32, Float64
from tidegate.models.fitting.drift_reference import reference_fit
from tidegate.models.fitting.feature_axes import embedding_fit
from tidegate.models.progress import follow
from tidegate.service.bundle.manifest import Manifest
from tidegate.service.drift.recent_images import P_EDGES
from tidegate.service.drift.reference import INPUTS, Bins, Reference
from tidegate.service.drift.whole_set import Effects, ImageSet, SetFeatures, compare
from tidegate.service.imaging.statistics import input_sample
from tidegate.service.offline.answers import Answer
from tidegate.service.offline.predictor import Predictor
from tidegate.service.ood.conformal import TailedFold
from tidegate.service.ood.gates import FinalFold, combined_score

UNCHANGED, OTHER_MIX = "nothing", "another mix of classes"
CHANGES: Mapping[str, Callable[[Image.Image], Image.Image]] = {
    "rotated by 90°": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "darkened to 35 %": lambda image: image.point(lambda level: round(0.35 * level)),
}
SET_IMAGES = 120
_CALIBRATED = 0.75  # of the images
_SUFFIXES = (".jpg", ".jpeg", ".png")

Index = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Seen:
    """What a bundle's graph says of images, in their order, and the statistics of their files."""

    scores: Mapping[str, Float64]  # [n] each
    predicted: NDArray[np.int64]  # [n]
    probability: Float64  # [n], of the predicted class
    inputs: Float64  # [n, statistics], in the order of INPUTS
    features: Float32  # [n, D]

    def rows(self, index: Index) -> Seen:
        """Return the images with these numbers."""
        return Seen(
            {name: values[index] for name, values in self.scores.items()},
            self.predicted[index],
            self.probability[index],
            self.inputs[index],
            self.features[index],
        )


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A gate and a reference that were fitted to one part of the images."""

    folds_a: Mapping[str, TailedFold]
    fold_b: FinalFold
    reference: Reference

    @classmethod
    def to(cls, seen: Seen, manifest: Manifest) -> Calibrated:
        """Fit to images; as many of them are fold A as in the bundle, in proportion."""
        gate, images = manifest.gate, len(seen.predicted)
        cut = images * gate.fold_a // (gate.fold_a + gate.fold_b)
        folds_a = {n: TailedFold.of(np.sort(values[:cut])) for n, values in seen.scores.items()}
        combined = combined_score(
            folds_a[name].log_p(seen.scores[name][cut:]) for name in gate.combination
        )
        fit = reference_fit(
            seen.predicted, manifest.task.classes, dict(seen.scores), seen.inputs, seen.probability
        )
        reference = Reference(
            class_counts=np.array(fit.class_counts, np.int64),
            alpha_reject=gate.alpha_reject,
            calibration_samples=images - cut,
            histograms={
                name: Bins(np.array(one.edges), np.array(one.counts, np.int64))
                for name, one in fit.histograms.items()
                if name in (*INPUTS, "confidence")
            },
            confusion=None,
            embedding=embedding_fit(seen.features),
        )
        return cls(folds_a, FinalFold.marginal(np.sort(combined)), reference)

    def named(self, seen: Seen, combination: Sequence[str]) -> frozenset[str]:
        """Return what the drift report of a set would name."""
        logs = [self.folds_a[name].log_p(seen.scores[name]) for name in combination]
        p_values = self.fold_b.p_values(combined_score(logs))
        answered = p_values > self.reference.alpha_reject
        values = dict(zip(INPUTS, seen.inputs.T, strict=True))
        values["confidence"] = seen.probability[answered]
        found = ImageSet(
            rejected=int((~answered).sum()),
            classes=np.bincount(
                seen.predicted[answered], minlength=len(self.reference.class_counts)
            ),
            p_values=np.bincount(P_EDGES.searchsorted(p_values), minlength=len(P_EDGES) + 1),
            histograms={
                name: np.bincount(bins.places(values[name]), minlength=len(bins.counts))
                for name, bins in self.reference.histograms.items()
            },
            features=SetFeatures(int(answered.sum()), seen.features[answered].mean(axis=0))
            if answered.any()
            else None,
        )
        return compare(found, self.reference, Effects()).alarms


@dataclass(frozen=True, slots=True)
class Found:
    """The reports of all sets with one change."""

    change: str
    sets: int
    named: int  # reports that name anything
    what: Mapping[str, int]  # finding → reports that name it, the most frequent first


def measure(
    seen: Mapping[str, Seen], folders: Sequence[str], manifest: Manifest, divisions: int, sets: int
) -> list[Found]:
    """Return the reports of `sets` sets with each change in each of `divisions` divisions.

    `seen` has the images as they are and with each change; `folders` names the folder of each.
    """
    rng = np.random.default_rng(0)
    reports: dict[str, list[frozenset[str]]] = {name: [] for name in (*seen, OTHER_MIX)}
    for _ in follow(range(divisions), "Dividing the images"):
        order = rng.permutation(len(folders))
        cut = round(_CALIBRATED * len(order))
        calibrated, rest = Calibrated.to(seen[UNCHANGED].rows(order[:cut]), manifest), order[cut:]
        for _ in range(sets):
            drawn = rng.choice(rest, min(SET_IMAGES, len(rest)), replace=False)
            chosen = {name: rows.rows(drawn) for name, rows in seen.items()}
            chosen[OTHER_MIX] = seen[UNCHANGED].rows(_of_few_folders(rest, folders, rng))
            for name, rows in chosen.items():
                reports[name].append(calibrated.named(rows, manifest.gate.combination))
    return [_found(change, named) for change, named in reports.items()]


def _of_few_folders(rest: Index, folders: Sequence[str], rng: np.random.Generator) -> Index:
    """Return images of a third of the folders only."""
    names = sorted(set(folders))
    few = set(rng.choice(names, max(1, len(names) // 3), replace=False).tolist())
    return np.array([index for index in rest if folders[index] in few], np.int64)[:SET_IMAGES]


def _found(change: str, named: Sequence[frozenset[str]]) -> Found:
    counts = Counter(name for names in named for name in sorted(names))
    return Found(change, len(named), sum(map(bool, named)), dict(counts.most_common()))


def see(predictor: Predictor, images: Sequence[bytes]) -> Seen:
    """Classify encoded images, each of which must have an answer."""
    order = predictor.bundle.manifest.preprocess.channel_order
    answers = list[Answer]()
    for image in follow(images, "Classifying"):
        [answer] = predictor.predict([image])
        if not isinstance(answer, Answer):
            raise SystemExit(f"an image cannot be classified: {answer.detail}")
        answers.append(answer)
    samples = [input_sample(i, a.pixels, order) for i, a in zip(images, answers, strict=True)]
    return Seen(
        {name: np.array([a.scores[name] for a in answers]) for name in answers[0].scores},
        np.array([a.predictions[0].class_id for a in answers]),
        np.array([a.predictions[0].probability for a in answers]),
        np.array([[sample[name] for name in INPUTS] for sample in samples]),
        np.stack([a.features for a in answers]),
    )


def changed(image: bytes, change: Callable[[Image.Image], Image.Image]) -> bytes:
    """Return an encoded image after a change, in its own format."""
    content = io.BytesIO()
    with Image.open(io.BytesIO(image)) as opened:
        picture = opened if opened.mode == "L" else opened.convert("RGB")
        change(picture).save(content, opened.format)
    return content.getvalue()


def _paths(folders: Sequence[Path]) -> Iterator[Path]:
    for folder in folders:
        yield from sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES)


def main() -> None:
    """Measure, print and save."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("bundle", type=Path)
    options.add_argument("images", type=Path, nargs="+")
    options.add_argument("--divisions", type=int, default=50)
    options.add_argument("--sets", type=int, default=8, help="in each division")
    options.add_argument("--json", type=Path)
    chosen = options.parse_args()
    paths = list(_paths(chosen.images))
    images = [path.read_bytes() for path in paths]
    predictor = Predictor(chosen.bundle)
    manifest = predictor.bundle.manifest
    seen = {UNCHANGED: see(predictor, images)}
    for name, change in CHANGES.items():
        seen[name] = see(predictor, [changed(image, change) for image in images])
    folders = [path.parent.name for path in paths]
    found = measure(seen, folders, manifest, chosen.divisions, chosen.sets)
    for one in found:
        print(f"{one.change}: {one.named} of {one.sets}", dict(one.what))
    if chosen.json is not None:
        words = [str(chosen.bundle), *map(str, chosen.images)]
        words += ["--divisions", str(chosen.divisions), "--sets", str(chosen.sets)]
        result = {
            "command": f"python -m tidegate.models.benchmarks.set_drift {' '.join(words)}",
            "machine": {"cores": os.cpu_count(), "kernel": platform.release()},
            "bundle": manifest.name,
            "images": len(images),
            "set_images": SET_IMAGES,
            "found": [asdict(one) for one in found],
        }
        text = json.dumps(result, ensure_ascii=False, indent=1) + "\n"
        chosen.json.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
