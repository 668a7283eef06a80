"""A picture of what the network sees in training."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from tidegate.models.importers.torch_runtime import require
from tidegate.models.training.images import Images, seed_of
from tidegate.service.files import write_atomically

_COLUMNS, _DRAWS = 8, 5
_PLACE = 3  # among the seeds
_LEAST_SIDE = 96  # pixels of a tile


def write(
    path: Path,
    plain: Images,
    random: Images,
    mix: Callable[[Any, Any], tuple[Any, Any]] | None,
    data_config: Mapping[str, Any],
    seed: int,
) -> None:
    """Write a PNG: a row of images as in evaluation, and below them as training draws them.

    The images are spread over the data set, and so over the classes. With `mix`, the last two rows
    are mixed batches.
    """
    torch = require("torch")
    count = min(_COLUMNS, len(plain))
    chosen = [round(i * (len(plain) - 1) / max(1, count - 1)) for i in range(count)]
    rows = [torch.stack([plain[index][0] for index in chosen])]
    for draw in range(_DRAWS):
        places = [(index, seed_of(seed, _PLACE, draw, index)) for index in chosen]
        batch = torch.stack([random[place][0] for place in places])
        if mix is not None and draw >= _DRAWS - 2:
            torch.manual_seed(seed_of(seed, _PLACE, draw))
            batch, _ = mix(batch, torch.tensor([int(random.class_ids[i]) for i in chosen]))
        rows.append(batch)
    images = torch.cat(rows)
    mean, std = (torch.tensor(data_config[name]).view(-1, 1, 1) for name in ("mean", "std"))
    levels = (images * std + mean).clamp(0, 1)
    grid = require("torchvision.utils").make_grid(levels, nrow=count, padding=2, pad_value=1.0)
    sheet = Image.fromarray((grid.permute(1, 2, 0) * 255).round().byte().numpy())
    side = images.shape[-1]
    if side < _LEAST_SIDE:
        factor = -(-_LEAST_SIDE // side)
        sheet = sheet.resize(
            (sheet.width * factor, sheet.height * factor), Image.Resampling.NEAREST
        )
    content = io.BytesIO()
    sheet.save(content, "PNG")
    write_atomically(path, content.getvalue())
