"""What is done to images in training and in evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.unit.models.training.pictures import picture, put
from tidegate.models.data.training_data import Labelled
from tidegate.models.importers.from_timm import _default
from tidegate.models.importers.torch_runtime import require
from tidegate.models.training import transforms
from tidegate.models.training.config import PRESETS, Augmentation, Mixing, read
from tidegate.models.training.images import Images, batches

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("torch_as_it_was")]

CONFIG = {
    "input_size": (3, 48, 48), "interpolation": "bicubic", "mean": (0.5, 0.4, 0.3),
    "std": (0.2, 0.3, 0.4), "crop_pct": 0.9, "crop_mode": "center",
}  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return put(tmp_path / "a.png", np.kron(picture(0), np.ones((3, 2, 1), np.uint8)))


def test_evaluation_is_what_the_import_proves(file: Path) -> None:
    _, proved = _default(CONFIG)

    ours = transforms.evaluation(CONFIG)(transforms.load(file))

    np.testing.assert_array_equal(np.asarray(ours), proved.floats(file.read_bytes()))


@pytest.mark.parametrize("preset", PRESETS)
def test_the_place_of_an_image_decides_how_it_is_changed(file: Path, preset: str) -> None:
    transform = transforms.training(CONFIG, read(None, {"preset": preset}).augmentation, True)
    images = Images([Labelled(file, 0)] * 3, transform)

    first, other, again = (np.asarray(images[place][0]) for place in ((0, 7), (1, 8), (2, 7)))

    assert first.shape == (3, 48, 48)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_images_of_16_bits_are_pointed_out(file: Path) -> None:
    deep = file.parent / "deep.png"
    Image.fromarray(np.full((9, 9), 300, np.uint16)).save(deep)

    assert transforms.on_depth([file]) == ()
    (sentence,) = transforms.on_depth([file, deep])
    assert sentence.startswith("1 of the first 2 training images have more than 8 bits")
    assert np.asarray(transforms.load(deep)).min() == 255


def test_an_image_is_mirrored_only_where_it_may_be(file: Path) -> None:
    whole = Augmentation(crop=1.0, stretch=1.0, policy="none")
    square = put(file.parent / "square.png", picture(1))

    def draws(mirror: bool) -> list[Any]:
        images = Images([Labelled(square, 0)], transforms.training(CONFIG, whole, mirror))
        return [np.asarray(images[0, seed][0]) for seed in range(20)]

    plain = draws(mirror=False)
    assert all(np.array_equal(plain[0], drawn) for drawn in plain)
    mirrored = [bool(np.allclose(d[..., ::-1], plain[0], atol=0.05)) for d in draws(mirror=True)]
    assert 3 < sum(mirrored) < 17


def test_trivial_augment_leaves_a_small_image_in_sight(tmp_path: Path) -> None:
    bright = put(tmp_path / "white.png", np.full((32, 32, 3), 255, np.uint8))
    small = CONFIG | {"input_size": (3, 32, 32), "mean": (0.0,) * 3, "std": (1.0,) * 3}
    transform = transforms.training(small, Augmentation(crop=1.0), mirror=False)
    images = Images([Labelled(bright, 0)], transform)

    seen = [float((images[0, seed][0] > 0.5).float().mean()) for seed in range(200)]

    kept = sorted(seen)[len(seen) // 5 :]  # solarising and darkening leave no white, by intention
    assert min(kept) > 0.6


@pytest.mark.parametrize("mixing", [Mixing(mixup=0.4), Mixing(cutmix=1.0)], ids=["mixup", "cutmix"])
def test_targets_are_mixed_like_the_images(mixing: Mixing) -> None:
    torch = require("torch")
    torch.manual_seed(0)
    levels = torch.tensor([0.0, 1.0, 2.0, 3.0])
    images = levels.view(4, 1, 1, 1).expand(4, 3, 16, 16).clone()

    mixed, targets = transforms.mixing(mixing, 4)(images, torch.arange(4))

    assert targets.sum(dim=1).tolist() == pytest.approx([1.0] * 4)
    np.testing.assert_allclose(mixed.mean(dim=(1, 2, 3)), targets @ levels, atol=1e-5)
    assert (targets.max(dim=1).values < 1).all()


def test_a_share_of_the_batches_is_mixed() -> None:
    torch = require("torch")
    torch.manual_seed(0)
    mix = transforms.mixing(Mixing(mixup=1.0, cutmix=1.0, share=0.5), 2)

    results = [mix(torch.zeros(2, 3, 4, 4), torch.arange(2))[1].ndim for _ in range(60)]

    assert 15 < results.count(2) < 45
    assert {*results} == {1, 2}


def test_images_arrive_in_the_order_of_their_places(file: Path) -> None:
    labelled = [Labelled(file, class_id) for class_id in range(5)]
    images = Images(labelled, transforms.evaluation(CONFIG))

    for workers in (0, 2):
        found = [ids.tolist() for _, ids in batches(images, [[3, 1], [(0, 5), (4, 6)]], workers)]
        assert found == [[3, 1], [0, 4]]
