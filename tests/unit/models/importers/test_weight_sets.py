"""Where a network is in what training programs save. Arrays stand for tensors of torch."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tidegate.models.errors import BuildRefused
from tidegate.models.importers.weight_sets import Place, choose, rows_of, weight_sets

Tensors = dict[str, NDArray[np.float32]]
SHAPES = {"conv.weight": (4, 3), "bn.num_batches_tracked": (), "fc.weight": (5, 4), "fc.bias": (5,)}


def network(prefix: str = "") -> Tensors:
    return {prefix + name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}


def chosen(content: object, key: str | None = None) -> Place:
    return choose(weight_sets(content), SHAPES, key, "ResNet")[0]


@pytest.mark.parametrize("entry", ["", "state_dict", "model", "anything", "ema/module"])
@pytest.mark.parametrize(
    "prefix", ["", "module.", "model.", "net.", "encoder.", "module._orig_mod."]
)
def test_the_weights_are_found_in_any_entry_under_any_prefix(entry: str, prefix: str) -> None:
    content: object = network(prefix)
    for word in reversed(entry.split("/") if entry else []):
        content = {"epoch": 3, word: content}

    assert chosen(content) == Place(entry, prefix)


def test_what_lightning_saves_with_the_network_is_left_out_and_named() -> None:
    left_out = {name: np.zeros(5) for name in ("criterion.weight", "val_acc.confmat")}

    assert chosen({"state_dict": network("model.") | left_out}).left_out == tuple(left_out)
    assert chosen({"state_dict": network() | left_out}).left_out == tuple(left_out)


def test_a_second_head_is_not_left_out_unless_the_prefix_is_stated() -> None:
    content = {"state_dict": network("model.") | {"head.weight": np.zeros((5, 4))}}

    with pytest.raises(BuildRefused, match=r"unexpected: head.weight. .*--state-dict PREFIX"):
        chosen(content)
    assert chosen(content, "model").left_out == ("head.weight",)


def test_optimiser_states_and_metrics_are_no_weights() -> None:
    momentum = {"exp_avg": np.zeros(3), "step": np.zeros(())}
    content = {
        "state_dict": network(),
        "optimizer_states": [{"state": {0: momentum}}],
        "optimizer": {"state": momentum},
        "callbacks": {"checkpoint": {"best": np.zeros(())}},
    }

    assert list(weight_sets(content)) == ["state_dict"]


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": network(), "state_dict_ema": network()},
        {"model": network(), "ema": {"decay": 0.99, "module": network()}},
        {"state_dict": network("model.") | network("ema_model.module.")},
        {"model": network(), "averaged": network("module.") | {"n_averaged": np.zeros(())}},
        {"model": network(), "best": network("module.") | {"n_averaged": np.zeros(())}},
    ],
)
def test_averaged_weights_are_preferred_and_the_others_named(content: dict[str, object]) -> None:
    place, others = choose(weight_sets(content), SHAPES, None, "ResNet")

    assert place.is_averaged
    assert len(others) == 1
    assert chosen(content, others[0]) == Place(*others[0].partition(":")[::2]) or ":" in others[0]
    assert not chosen(content, others[0]).is_averaged


def test_the_users_choice_is_an_entry_or_a_prefix() -> None:
    content = {"state_dict": network("student.") | network("teacher.")}

    with pytest.raises(BuildRefused, match=r"--state-dict \(state_dict:student, state_dict:teac"):
        chosen(content)
    assert chosen(content, "student").prefix == "student."
    assert chosen(content, "state_dict:teacher").prefix == "teacher."
    with pytest.raises(BuildRefused, match="no weights called 'tutor'; it has state_dict"):
        chosen(content, "tutor")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({}, "missing: fc.bias"),
        ({"conv.extra": np.zeros(3)}, r"unexpected: [a-z.]*conv.extra"),
        ({"fc.bias": np.zeros(7)}, r"of another shape: fc.bias \(7,\) for \(5,\)"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "model."])
def test_weights_of_another_network_are_refused_with_the_difference(
    prefix: str, change: Tensors, problem: str
) -> None:
    changed = network(prefix) | {prefix + name: value for name, value in change.items()}
    gone = () if change else (f"{prefix}fc.bias",)
    content = {name: value for name, value in changed.items() if name not in gone}

    with pytest.raises(BuildRefused, match=rf"does not match this ResNet: {problem}"):
        chosen(content)


def test_counters_that_old_files_lack_may_be_missing() -> None:
    old = {name: value for name, value in network().items() if "num_batches" not in name}

    assert chosen(old) == Place("")


def test_the_number_of_classes_is_that_of_the_largest_network() -> None:
    projector = {"projector.fc.weight": np.zeros((128, 4))}

    assert rows_of(weight_sets(network("model.") | projector), "fc.weight") == 5
    assert rows_of(weight_sets(network()), "head.weight") is None
