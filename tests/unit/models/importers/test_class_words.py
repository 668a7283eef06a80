from __future__ import annotations

from argparse import Namespace

import pytest

from tidegate.models.errors import BuildRefused
from tidegate.models.importers.class_words import check_order, class_words

NAMES = ("cat", "dog", "eel")


@pytest.mark.parametrize(
    "content",
    [
        {"class_to_idx": {"dog": 1, "eel": 2, "cat": 0}},
        {"idx_to_class": {2: "eel", 0: "cat", 1: "dog"}},
        {"id2label": {"2": "eel", "0": "cat", "1": "dog"}},
        {"classes": ["cat", "dog", "eel"]},
        {"hyper_parameters": {"class_names": ["cat", "dog", "eel"], "lr": 0.1}},
        {"args": Namespace(classes=("cat", "dog", "eel"))},
        {"class_to_idx": {"cat": 0, "dog": 1, "eel": 2}, "classes": ["cat", "dog", "eel"]},
    ],
)
def test_class_names_in_a_checkpoint_are_read_in_the_order_of_their_ids(content: object) -> None:
    assert class_words(content) == NAMES


@pytest.mark.parametrize(
    "content",
    [
        {"classes": 3},
        {"classes": ["cat"]},
        {"labels": [0.1, 0.2]},
        {"class_to_idx": {"cat": 1, "dog": 2}},
        {"class_to_idx": {"cat": "first", "dog": "second"}},
        "weights",
        None,
    ],
)
def test_what_names_no_classes_is_ignored(content: object) -> None:
    assert class_words(content) is None


def test_two_orders_in_one_checkpoint_are_refused() -> None:
    with pytest.raises(BuildRefused, match="states its classes twice, as cat, dog and as dog, cat"):
        class_words({"classes": ["cat", "dog"], "class_to_idx": {"dog": 0, "cat": 1}})


def test_labels_in_another_order_than_the_models_own_are_refused() -> None:
    with pytest.raises(
        BuildRefused, match="Class 0 is 'dog' in --labels, but 'cat' in the model's"
    ):
        check_order(NAMES, ("dog", "cat", "eel"))


def test_other_words_for_the_same_classes_are_accepted() -> None:
    check_order(NAMES, ("Katze", "Hund", "Aal"))
    check_order(NAMES, NAMES)
    check_order(None, NAMES)
