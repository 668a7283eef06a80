"""Read the class names that a training program saved with the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tidegate.models.errors import BuildRefused

_DEPTH = 3  # of entries within entries
_BY_NAME = ("class_to_idx", "class_to_id", "label2id", "label_to_idx")
_BY_ID = ("idx_to_class", "id_to_class", "id2label", "idx_to_label")
_LISTS = ("classes", "class_names", "label_names", "categories", "labels")


def class_words(content: object) -> tuple[str, ...] | None:
    """Return the classes' names by class id, as a checkpoint's content states them, or None.

    Raises BuildRefused if it states two orders.
    """
    stated = dict.fromkeys(_stated(content, _DEPTH))
    if len(stated) > 1:
        first, second, *_ = stated
        raise BuildRefused(
            f"The checkpoint states its classes twice, as {_short(first)} and as "
            f"{_short(second)}: give --labels FILE in the order of the model's outputs."
        )
    return next(iter(stated), None)


def check_order(stated: tuple[str, ...] | None, given: tuple[str, ...]) -> None:
    """Raise BuildRefused if the labels `given` are those `stated` by the model in another order."""
    if stated is None or stated == given or sorted(stated) != sorted(given):
        return
    index = next(
        i for i, (ours, theirs) in enumerate(zip(given, stated, strict=True)) if ours != theirs
    )
    raise BuildRefused(
        f"Class {index} is {given[index]!r} in --labels, but {stated[index]!r} in the model's own "
        "class names: the labels must be in the order of the model's outputs. Without --labels, "
        "the model's own names are used."
    )


def _stated(content: object, depth: int) -> Iterator[tuple[str, ...]]:
    if not isinstance(content, Mapping):
        content = getattr(content, "__dict__", None)  # such as timm's arguments
    if not isinstance(content, Mapping) or depth < 0:
        return
    for key, value in content.items():
        if (names := _names(key, value)) is not None:
            yield names
        elif isinstance(key, str) and not hasattr(value, "shape"):
            yield from _stated(value, depth - 1)


def _names(key: object, value: Any) -> tuple[str, ...] | None:
    if key in _LISTS and isinstance(value, list | tuple):
        names = list(value)
    elif key in _BY_NAME and isinstance(value, Mapping):
        names = _in_order({number: name for name, number in value.items()})
    elif key in _BY_ID and isinstance(value, Mapping):
        names = _in_order(value)
    else:
        return None
    if len(names) < 2 or not all(isinstance(name, str) for name in names):
        return None
    return tuple(names)


def _in_order(by_id: Mapping[Any, Any]) -> list[Any]:
    try:
        numbered = {int(number): name for number, name in by_id.items()}
    except (TypeError, ValueError):
        return []
    return (
        [numbered[i] for i in range(len(numbered))] if {*numbered} == {*range(len(by_id))} else []
    )


def _short(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
