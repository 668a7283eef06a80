"""A small network of timm, trained from scratch."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from tidegate.models.data.folders import class_names, labelled
from tidegate.models.data.outputs import load_pixels
from tidegate.models.importers import from_timm
from tidegate.models.importers.torch_runtime import require
from tidegate.models.progress import follow

NAME, SIDE = "test_resnet", 64
_EPOCHS, _BATCH, _PEAK_RATE, _WEIGHT_DECAY, _SEED = 40, 64, 5e-3, 5e-2, 0
_SHIFT = 4  # pixels, at most


def write(train: Path, folder: Path) -> list[str]:
    """Train on the ImageFolder `train`; write weights, and return the arguments to import them."""
    torch, labels = require("torch"), class_names(train)
    torch.manual_seed(_SEED)
    sizes = from_timm.Overrides(size=SIDE)
    spec = from_timm.load(NAME, classes=len(labels), random_weights=True, overrides=sizes).spec
    split = labelled("train", train, labels)
    pixels = np.stack([load_pixels(item.path, spec) for item in split.items])
    levels = (pixels * spec.scale - np.array(spec.mean)) / np.array(spec.std)
    images = torch.from_numpy(levels.transpose(0, 3, 1, 2).astype(np.float32))
    class_ids = torch.from_numpy(split.class_ids)
    module = require("timm").create_model(NAME, num_classes=len(labels)).train()
    batches = math.ceil(len(images) / _BATCH)
    optimizer = torch.optim.AdamW(module.parameters(), lr=_PEAK_RATE, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=_PEAK_RATE, total_steps=_EPOCHS * batches
    )
    for _ in follow(range(_EPOCHS), "Training the small network, epochs"):
        for rows in torch.randperm(len(images)).tensor_split(batches):
            shift = torch.randint(-_SHIFT, _SHIFT + 1, (2,)).tolist()
            moved = torch.roll(images[rows], shift, dims=(2, 3))
            loss = torch.nn.functional.cross_entropy(module(moved), class_ids[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    weights = folder / "weights.pt"
    torch.save(module.eval().state_dict(), weights)
    return [f"timm:{NAME}", f"--checkpoint={weights}", f"--size={SIDE}"]
