"""What pydantic finds wrong with a serving file, in sentences for its author."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

_MOST = 100  # errors of one table that are described
_LONGEST = 60  # characters of a value in a message
_VERSIONS = {"stable", "version", "after"}


def describe(error: ValidationError, model: type[BaseModel], at: tuple[str, ...]) -> list[str]:
    """Return what is wrong and where, for the first errors; `sentence` completes it."""
    return [_describe_one(found, model, at) for found in error.errors()[:_MOST]]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return " Did you mean …?" with the nearest known word; "" if none is near."""
    near = difflib.get_close_matches(word, sorted(known), 1)
    return f" Did you mean {near[0]}?" if near else ""


def quoted(value: object) -> str:
    """Return a value as it would be written in TOML, shortened."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def sentence(text: str) -> str:
    """Return the text with a full stop, unless it ends as a sentence already."""
    return text if text.endswith((".", "?")) else f"{text}."


def _describe_one(found: ErrorDetails, model: type[BaseModel], at: tuple[str, ...]) -> str:
    loc = [str(part) for part in found["loc"] if part != "[key]"]
    place = ".".join([*at, *loc])
    if found["type"] == "missing":
        return f"{place} is missing"
    if found["type"] == "extra_forbidden":
        known = _fields(model, loc[:-1])
        hint = did_you_mean(loc[-1], known) or f" There is {', '.join(known)}."
        return f"{place} is not a setting.{hint}"
    return f"{place}: {_reason(found, loc)}"


_EXPECTED = {
    "float_type": "a number",
    "finite_number": "a number",
    "int_type": "a whole number",
    "bool_type": "true or false",
}


def _reason(found: ErrorDetails, loc: list[str]) -> str:
    value, context = quoted(found["input"]), found.get("ctx", {})
    match found["type"]:
        case "value_error":
            return f"{context['error']}"
        case "string_pattern_mismatch":
            return f"{value} must be 1 to 64 lower-case letters, digits and . _ -"
        case "too_long":
            return f"at most {context['max_length']} are possible"
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal":
            return f"must be {_bound(context)}, not {value}"
    return f"expected {_expected(found['type'], loc, context)}, not {value}"


def _expected(kind: str, loc: list[str], context: dict[str, Any]) -> str:
    match kind:
        case "string_type":
            return 'a version in quotes, such as "3"' if _is_version(loc) else "text in quotes"
        case "literal_error":
            return f"{context['expected']}"
        case "model_type" | "dict_type":
            return f"a table such as {_EXAMPLES[loc[-1]]}"
    return _EXPECTED[kind]


_EXAMPLES = {
    "canary": '{ version = "4", share = 0.05 }',
    "shadow": '{ version = "5", share = 0.2 }',
    "aliases": '{ previous = "2" }',
    "new_versions": '{ alias = "shadow", share = 0.2 }',
    "judge": "{ promote = true }",
}
_BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}


def _bound(context: dict[str, Any]) -> str:
    return next(f"{words} {context[key]:g}" for key, words in _BOUNDS.items() if key in context)


def _is_version(loc: list[str]) -> bool:
    return loc[-1] in _VERSIONS or loc[:1] == ["aliases"]


def _fields(model: type[BaseModel], loc: list[str]) -> list[str]:
    """Return the settings of the table at `loc`, below the table of `model`."""
    for part in loc:
        annotation = model.model_fields[part].annotation
        model = next(
            kind
            for kind in (annotation, *get_args(annotation))
            if isinstance(kind, type) and issubclass(kind, BaseModel)
        )
    return list(model.model_fields)
