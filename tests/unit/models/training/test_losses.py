"""The losses against torch's own and against their formulas."""

from __future__ import annotations

from typing import Any

import pytest

from tidegate.models.importers.torch_runtime import require
from tidegate.models.training.config import Imbalance
from tidegate.models.training.imbalance import class_weights, log_priors
from tidegate.models.training.losses import Loss

pytestmark = pytest.mark.torch

COUNTS = (100, 30, 5)


@pytest.fixture(scope="module")
def batch() -> tuple[Any, Any, Any]:
    """Logits [8, 3], classes [8] and the same as targets [8, 3]."""
    torch = require("torch")
    generator = torch.Generator().manual_seed(0)
    class_ids = torch.tensor([0, 1, 2, 0, 1, 2, 0, 0])
    logits = 3 * torch.randn(8, 3, generator=generator)
    return logits, class_ids, torch.nn.functional.one_hot(class_ids, 3).float()


def test_the_plain_loss_is_the_cross_entropy(batch: tuple[Any, Any, Any]) -> None:
    logits, class_ids, targets = batch
    entropy = require("torch").nn.functional.cross_entropy

    for smoothing in (0.0, 0.1):
        loss = Loss(COUNTS, Imbalance(), smoothing, "cpu")(logits, targets)
        expected = entropy(logits, class_ids, label_smoothing=smoothing)
        assert float(loss) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("name", ["weighted", "class-balanced"])
def test_weights_multiply_the_loss_of_an_image(batch: tuple[Any, Any, Any], name: Any) -> None:
    logits, class_ids, targets = batch
    torch = require("torch")
    chosen = Imbalance(loss=name)
    weights = torch.as_tensor(class_weights(COUNTS, chosen)).float()

    loss = Loss(COUNTS, chosen, 0.0, "cpu")(logits, targets)

    terms = torch.nn.functional.cross_entropy(logits, class_ids, weight=weights, reduction="none")
    assert float(loss) == pytest.approx(float(terms.mean()), rel=1e-6)


def test_the_focal_loss_is_that_of_its_paper(batch: tuple[Any, Any, Any]) -> None:
    logits, class_ids, targets = batch
    p = logits.softmax(dim=1)[range(8), class_ids]

    loss = Loss(COUNTS, Imbalance(loss="focal", gamma=2.0), 0.0, "cpu")(logits, targets)

    assert float(loss) == pytest.approx(float((-((1 - p) ** 2) * p.log()).mean()), rel=1e-5)


def test_the_focal_loss_of_a_certain_image_has_a_gradient() -> None:
    torch = require("torch")
    logits = torch.tensor([[40.0, 0.0, 0.0]], requires_grad=True)
    loss = Loss(COUNTS, Imbalance(loss="focal", gamma=0.5), 0.0, "cpu")

    for target in torch.eye(3):
        (gradient,) = torch.autograd.grad(loss(logits, target[None]), logits)
        assert torch.isfinite(gradient).all()


def test_logits_are_adjusted_in_the_loss_alone(batch: tuple[Any, Any, Any]) -> None:
    logits, class_ids, targets = batch
    torch = require("torch")
    chosen = Imbalance(loss="logit-adjusted")

    loss = Loss(COUNTS, chosen, 0.0, "cpu")(logits, targets)

    priors = torch.as_tensor(log_priors(COUNTS, chosen)).float()
    expected = torch.nn.functional.cross_entropy(logits + priors, class_ids)
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)


def test_soft_targets_mix_the_losses_of_their_classes(batch: tuple[Any, Any, Any]) -> None:
    logits, _, targets = batch
    loss = Loss(COUNTS, Imbalance(loss="focal"), 0.0, "cpu")

    mixed = loss(logits, 0.3 * targets + 0.7 * targets.roll(1, dims=1))

    parts = 0.3 * loss(logits, targets) + 0.7 * loss(logits, targets.roll(1, dims=1))
    assert float(mixed) == pytest.approx(float(parts), rel=1e-5)
