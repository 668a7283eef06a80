"""Kept images as folders of classes, for labelling or for training: torchvision's ImageFolder."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from service.errors import ReviewUnreadable

UNLABELLED = "unlabelled"


def export(root: Path, out: Path) -> dict[str, int]:
    """Copy every kept image below `out`; returns how many went to each folder.

    An image goes to a folder of its true class's id where feedback told it, else to `unlabelled/`
    and there to its predicted class. Copies that are there already are left.
    Raises ReviewUnreadable when there is nothing to export, or `out` cannot be written.
    """
    sidecars = sorted(root.glob("*/*.json"))
    if not sidecars:
        raise ReviewUnreadable(f"There are no kept images in {root}.")
    counts: dict[str, int] = {}
    try:
        for sidecar in sidecars:
            folder, image = _place(sidecar)
            target = out / folder / image.name
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                shutil.copyfile(image, target)
            counts[folder] = counts.get(folder, 0) + 1
    except OSError as error:
        raise ReviewUnreadable(f"{error.filename}: {error.strerror}.") from error
    return counts


def _place(sidecar: Path) -> tuple[str, Path]:
    try:
        said = json.loads(sidecar.read_bytes())
        image = sidecar.with_name(Path(said["file"]).name)
        if (true_class := said.get("true_class")) is not None:
            return f"{int(true_class)}", image
        label = re.sub(r"[^\w -]+", "_", str(said["label"]))[:60]
        return f"{UNLABELLED}/{int(said['class_id'])}-{label}", image
    except (ValueError, KeyError, TypeError) as error:
        raise ReviewUnreadable(f"{sidecar} does not tell of an image: {error}.") from error
