"""A student learns from its teacher: the loss, what is refused, and trainings as a whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.models.training.small import STUDENT, TRANSFERRED, a_teacher, data, distillation
from tidegate.models.data.training_data import TrainingData
from tidegate.models.errors import BuildRefused
from tidegate.models.graphs.backbone import to_backbone
from tidegate.models.importers.base import Imported
from tidegate.models.importers.torch_export import export
from tidegate.models.importers.torch_runtime import require
from tidegate.models.training import network
from tidegate.models.training.config import read_as
from tidegate.models.training.distil_config import DistilConfig, Distillation
from tidegate.models.training.run_folder import RunFolder
from tidegate.models.training.teacher import Teacher
from tidegate.models.training.train import Request, train
from tidegate.models.training.transfer import Lesson, Transfer
from tidegate.service.files import sha256_of

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("torch_as_it_was")]


@pytest.fixture(scope="module")
def divided(tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    return data(tmp_path_factory.mktemp("colours"))


@pytest.fixture(scope="module")
def plenty(tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    return data(tmp_path_factory.mktemp("more-colours"), 60)


@pytest.fixture(scope="module")
def teacher(divided: TrainingData, tmp_path_factory: pytest.TempPathFactory) -> Imported:
    return a_teacher(divided, tmp_path_factory.mktemp("teacher"))


def student(name: str = STUDENT, size: int = 32) -> network.Network:
    return network.create(name, 3, size, None, 0)


def transfer(teacher: Imported, chosen: Distillation, own: network.Network) -> Transfer:
    config = read_as(DistilConfig, None, {"threads": 1})
    lesson = Lesson.of(teacher, chosen, own)
    return Transfer(lesson, own, head_only=False, device="cpu", config=config)


def batch(own: network.Network) -> tuple[Any, Any]:
    """Return views as the student gets them, and the same as uint8."""
    torch = require("torch")
    levels = torch.randint(0, 256, (5, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(own.data_config[n]).view(-1, 1, 1) for n in ("mean", "std"))
    return (levels / 255 - mean) / std, levels.permute(0, 2, 3, 1).byte().numpy()


def test_the_loss_is_that_of_its_paper(teacher: Imported) -> None:
    own, torch = student(), require("torch")
    inputs, views = batch(own)
    module = own.module.eval()
    chosen = Distillation(temperature=3, alpha=0.6)

    loss = transfer(teacher, chosen, own).loss(inputs, module, lambda logits: logits.sum() * 0 + 7)

    p = torch.from_numpy(Teacher(teacher).see(views).logits / 3).softmax(dim=1)
    log_q = (module(inputs) / 3).log_softmax(dim=1)
    expected = 0.6 * 9 * (p * (p.log() - log_q)).sum(dim=1).mean() + 0.4 * 7
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_teacher_sees_the_students_view_in_its_own_size(teacher: Imported) -> None:
    own = student(size=64)
    torch, zero = require("torch"), Distillation(alpha=1.0)
    inputs = torch.zeros(2, 3, 64, 64)  # the mean colour

    made = transfer(teacher, zero, own)

    mean = (np.array(own.data_config["mean"]) * 255).round().astype(np.uint8)
    np.testing.assert_array_equal(made._views(inputs), np.broadcast_to(mean, (2, 64, 64, 3)))
    assert made.loss(inputs, own.module, lambda logits: logits).item() >= 0


@pytest.mark.parametrize("what", ["features", "attention"])
def test_a_transfer_falls_when_it_is_learnt(teacher: Imported, what: str) -> None:
    own, torch = student(), require("torch")
    inputs, _ = batch(own)
    made = transfer(teacher, Distillation(**{"alpha": 1e-9, what: 1.0}), own)
    optimiser = torch.optim.Adam([*own.module.parameters(), *made.parameters], lr=0.003)
    losses = []

    for _ in range(40):
        loss = made.loss(inputs, own.module.train(), lambda logits: 0 * logits.sum())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))

    assert losses[-1] < 0.5 * losses[0]
    assert not own.last_layer._forward_pre_hooks


def test_a_network_is_its_own_best_teacher(teacher: Imported) -> None:
    """The maps that are compared are the same tensors in the graph and in torch."""
    own = student("test_resnet")
    exported = replace(teacher, backbone=_exported(own))
    inputs, _ = batch(own)
    made = transfer(exported, Distillation(alpha=1e-9, attention=1.0), own)

    loss = made.loss(inputs, own.module.eval(), lambda logits: 0 * logits.sum())

    assert loss.item() < 1e-3


def _exported(own: network.Network) -> Any:
    return to_backbone(export(own.module.eval(), (32, 32))).model


def test_networks_without_common_maps_are_refused(teacher: Imported) -> None:
    with pytest.raises(BuildRefused, match=r"the teacher has .*8 × 8.*, and test_vit has none"):
        Lesson.of(teacher, Distillation(attention=1.0), student("test_vit", 160))
    with pytest.raises(BuildRefused, match=r"needs 2 sizes in common.*another --size"):
        Lesson.of(teacher, Distillation(attention=1.0), student(size=100))


def weights(made: Request) -> str:
    return sha256_of(train(made).model / "model.safetensors")


def test_a_student_learns_and_its_record_says_from_what(
    divided: TrainingData, teacher: Imported, tmp_path: Path
) -> None:
    record = train(
        distillation(divided, teacher, tmp_path, {**TRANSFERRED, "stages.full": 6})
    ).record

    assert record.stages[-1].best.accuracy > 0.6
    assert record.settings["distillation.temperature"] == "4.0"
    assert "A note." in record.notes


def test_answers_to_unlabelled_images_are_learnt(
    plenty: TrainingData, teacher: Imported, tmp_path: Path
) -> None:
    labelled = tuple(image for at, image in enumerate(plenty.train) if at % 3 == 0)
    others = tuple(image.path for image in plenty.train if image not in labelled)
    few = replace(plenty, train=labelled)
    more = {"stages.slice": 0.5, "stages.full": 6, "optimisation.label_smoothing": 0.1}

    record = train(distillation(few, teacher, tmp_path, more, others)).record

    assert record.images == {
        "training": 30, "choice of the epoch": 30, "soft labels alone": 120,
    }  # fmt: skip
    assert record.stages[-1].best.accuracy > 0.8


def test_mixing_and_other_sampling_work_with_unlabelled_images(
    plenty: TrainingData, teacher: Imported, tmp_path: Path
) -> None:
    labelled, others = plenty.train[::2], tuple(i.path for i in plenty.train[1::2])
    more: dict[str, Any] = {
        "preset": "heavy", "mixing.least_images": 0, "imbalance.sampling": "balanced",
    }  # fmt: skip

    record = train(
        distillation(replace(plenty, train=labelled), teacher, tmp_path, more, others)
    ).record

    assert record.stages[0].best.nll < 2


class Interrupted(Exception):
    """Stands for the end of a process."""


@pytest.mark.parametrize("saves", [2, 5])
def test_a_distillation_goes_on_to_the_same_bits(
    divided: TrainingData, teacher: Imported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    saves: int,
) -> None:  # fmt: skip
    whole = weights(distillation(divided, teacher, tmp_path / "whole", TRANSFERRED))
    count, save = 0, RunFolder.save

    def counting(self: RunFolder, state: dict[str, Any]) -> None:
        nonlocal count
        save(self, state)
        count += 1
        if count == saves:
            raise Interrupted

    resumed = distillation(
        divided, teacher, tmp_path / "resumed", {**TRANSFERRED, "save_every_s": 1e-9}
    )
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save", counting)
        with pytest.raises(Interrupted):
            train(resumed)

    assert weights(resumed) == whole


def test_another_teacher_is_another_training(
    divided: TrainingData, teacher: Imported, tmp_path: Path
) -> None:
    train(distillation(divided, teacher, tmp_path, {}))
    other = replace(teacher, checkpoint_sha256="1" * 64)

    with pytest.raises(BuildRefused, match=r"teacher was .* and is now 1111"):
        train(distillation(divided, other, tmp_path, {}))
