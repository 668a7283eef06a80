"""The digit network, four convolutions, average pooling and one linear layer, and its training.

It is trained only to classify: training uses no OOD images and no scores.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidegate.models.data.folders import labelled
from tidegate.models.digits.images import LABELS
from tidegate.models.digits.loader import MEAN, STD, Loader
from tidegate.models.importers.torch_runtime import require
from tidegate.models.progress import follow

FEATURES = 128
EPOCHS, BATCH, SEED = 18, 128, 0
_PEAK_RATE, _WEIGHT_DECAY = 1e-2, 1e-2
_TURN, _ZOOM, _SHIFT = 0.2, 0.1, 0.12  # at most: radians, of the size, of half the size
_THREADS = 2  # fixed, as the number of threads changes the order of sums


def network() -> Any:
    """Return the untrained network as a torch module, [batch, 3, 28, 28] → logits [batch, 10].

    Average pooling, the usual end of a convolutional network, makes a feature independent of the
    position in the image; distances between such features work best.
    """
    nn = require("torch").nn

    def block(inputs: int, outputs: int) -> tuple[Any, ...]:
        convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        return convolution, nn.BatchNorm2d(outputs), nn.ReLU()

    return nn.Sequential(
        *block(3, 16),
        nn.MaxPool2d(2),
        *block(16, 32),
        *block(32, 64),
        nn.MaxPool2d(2),
        *block(64, FEATURES),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(FEATURES, len(LABELS)),
    )


def read_split(folder: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return an ImageFolder of digits as read by the loader: [n, 3, 28, 28] and classes [n]."""
    split, loader = labelled(folder.name, folder, LABELS), Loader()
    return np.stack(
        [loader.floats(item.path.read_bytes()) for item in split.items]
    ), split.class_ids


def train(
    images: NDArray[np.float32], class_ids: NDArray[np.int64], epochs: int = EPOCHS
) -> dict[str, NDArray[Any]]:
    """Return the trained weights by name; the same images give the same weights on one machine."""
    torch = require("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(_THREADS)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            module = network().train()
            _fit(torch, module, torch.from_numpy(images), torch.from_numpy(class_ids), epochs)
    finally:
        torch.set_num_threads(threads)
    return {name: value.numpy() for name, value in module.state_dict().items()}


def with_weights(weights: dict[str, NDArray[Any]]) -> Any:
    """Return the network with these weights, in eval mode. Raises RuntimeError on a mismatch."""
    torch = require("torch")
    module = network()
    module.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    return module.eval()


def _fit(torch: Any, module: Any, images: Any, class_ids: Any, epochs: int) -> None:
    batches = math.ceil(len(images) / BATCH)
    optimizer = torch.optim.AdamW(module.parameters(), lr=_PEAK_RATE, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=_PEAK_RATE, total_steps=epochs * batches
    )
    for _ in follow(range(epochs), "Training the digit network, epochs"):
        for rows in torch.randperm(len(images)).tensor_split(batches):
            logits = module(_moved(torch, images[rows]))
            loss = torch.nn.functional.cross_entropy(logits, class_ids[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def _moved(torch: Any, images: Any) -> Any:
    """Rotate, zoom and shift each image slightly; the new border is background."""
    n = len(images)
    turn, zoom = _between(torch, _TURN, n), 1 + _between(torch, _ZOOM, n)
    affine = torch.empty(n, 2, 3)
    affine[:, 0, 0] = affine[:, 1, 1] = zoom * turn.cos()
    affine[:, 1, 0] = zoom * turn.sin()
    affine[:, 0, 1] = -affine[:, 1, 0]
    affine[:, :, 2] = _between(torch, _SHIFT, n, 2)
    functional, ground = torch.nn.functional, -MEAN / STD
    grid = functional.affine_grid(affine, images.shape, align_corners=False)
    return functional.grid_sample(images - ground, grid, align_corners=False) + ground


def _between(torch: Any, bound: float, *shape: int) -> Any:
    return (2 * torch.rand(*shape) - 1) * bound
