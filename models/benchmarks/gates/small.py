"""A small network of timm, trained from scratch."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from tidegate.models.data.folders import Source, class_names, labelled
from tidegate.models.data.outputs import load_pixels
from tidegate.models.importers import from_timm, timm_rules
from tidegate.models.importers.torch_runtime import require
from tidegate.models.progress import follow

NAME, SIDE = "test_resnet", 32
_EPOCHS, _BATCH, _PEAK_RATE, _WEIGHT_DECAY, _SEED = 30, 64, 5e-3, 5e-2, 0
_SHIFT = 3  # pixels, at most


def write(train: Source, folder: Path) -> list[str]:
    """Train on the ImageFolder `train`; write weights, and return the arguments to import them."""
    torch, labels = require("torch"), class_names(train)
    torch.manual_seed(_SEED)
    module = require("timm").create_model(NAME, num_classes=len(labels))
    sizes = from_timm.Overrides(size=SIDE).stated()
    spec = timm_rules.translate(
        require("timm.data").resolve_input_data_config(module, sizes, use_test_size=True)
    )
    split = labelled("train", train, labels)
    pixels = np.stack([load_pixels(item.path, spec) for item in split.items])
    levels = (pixels * spec.scale - np.array(spec.mean)) / np.array(spec.std)
    images = torch.from_numpy(levels.transpose(0, 3, 1, 2).astype(np.float32))
    class_ids = torch.from_numpy(split.class_ids)
    batches = math.ceil(len(images) / _BATCH)
    optimizer = torch.optim.AdamW(module.parameters(), lr=_PEAK_RATE, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=_PEAK_RATE, total_steps=_EPOCHS * batches
    )
    module.train()
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
