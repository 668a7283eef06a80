"""The reference names what the code has: generated tables are fresh, written ones complete."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import httpx
import numpy as np
import pytest
from pydantic import BaseModel

from docs import generate
from docs.tables.commands import parsers
from tests.docs.pages import read
from tests.server import ROOT
from tidegate.models.importers.keras_rules import KerasForm
from tidegate.service.api.routes.drift import DriftBody
from tidegate.service.api.routes.feedback import Feedback, FeedbackTaken
from tidegate.service.api.schemas import BatchBody, ClassifyBody, ModelBody, Problem
from tidegate.service.bundle.golden import (
    ARM64_INT8_TOLERANCE,
    REDUCED_TOLERANCE,
    TOLERANCE,
)
from tidegate.service.bundle.manifest import FORMAT, EngineHints, Manifest
from tidegate.service.bundle.store import CALIBRATION, GOLDEN, REQUIRED
from tidegate.service.engines import cpu_engines, cpu_warm_up, warm_up
from tidegate.service.imaging.spec import Backend, Filter, Offset, PreprocessSpec, Step
from tidegate.service.metrics.tables import SHED_REASONS
from tidegate.service.types import OUTPUT_NAMES

REFERENCE = ROOT / "docs" / "reference"
WARM_UP = ROOT / "docs" / "concepts" / "warm-up.md"


@pytest.mark.parametrize("page", generate.pages(), ids=lambda page: page.name)
def test_every_generated_table_is_fresh(page: Path) -> None:
    assert generate.fresh(page) == read(page), "run `make docs`"


def test_every_table_is_on_a_page() -> None:
    text = "".join(read(page) for page in generate.pages())

    assert set(re.findall(r"<!-- generated: ([\w-]+) -->", text)) == generate.TABLES.keys()


def fields(model: type[BaseModel]) -> set[str]:
    """Return the names of a model's fields, and of those of the models inside it."""
    names = set(model.model_fields)
    for field in model.model_fields.values():
        for inner in _models(field.annotation):
            names |= fields(inner)
    return names


def _models(annotation: Any) -> set[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}
    return {model for argument in get_args(annotation) for model in _models(argument)}


def named(page: Path) -> set[str]:
    """Return the words of a page's code spans and blocks."""
    code = re.findall(r"`([^`]+)`|^```\w+\n(.*?)^```", read(page), re.MULTILINE | re.DOTALL)
    return {word for pair in code for word in re.findall(r"\w[\w.-]*\w|\w", " ".join(pair))} | {
        word for pair in code for word in re.findall(r"\w+", " ".join(pair))
    }


@pytest.mark.parametrize(
    "model", [ClassifyBody, BatchBody, DriftBody, Feedback, FeedbackTaken], ids=lambda m: m.__name__
)
def test_every_field_of_an_answer_is_described(model: type[BaseModel]) -> None:
    elsewhere = set(Problem.model_fields)  # in errors.md

    assert fields(model) - elsewhere - named(REFERENCE / "http-api.md") == set()


def test_every_field_of_a_model_is_named() -> None:
    names = set(ModelBody.model_fields) | fields(ModelBody.model_fields["engine"].annotation)  # type: ignore[arg-type]  # a model

    assert names - named(REFERENCE / "http-api.md") == set()


def test_every_field_of_a_problem_is_described() -> None:
    assert set(Problem.model_fields) - named(REFERENCE / "errors.md") == set()


def test_every_route_is_described(client: httpx.Client) -> None:
    page = read(REFERENCE / "http-api.md") + read(REFERENCE / "dialects.md")
    routes = {
        f"`{method.upper()} {path}`"
        for path, methods in client.get("/openapi.json").json()["paths"].items()
        for method in methods
    }

    assert routes
    assert {route for route in routes if route not in page} == set()


def test_every_field_and_file_of_a_bundle_is_described() -> None:
    page = REFERENCE / "bundle-format.md"
    own = fields(Manifest) - fields(PreprocessSpec)
    elsewhere = {"class_id", "confidence", "low", "high", "value", "actual", "predicted"}
    elsewhere |= {"auroc", "fpr95_keeping_inside", "fpr95_catching_outside"}

    assert own - named(page) - elsewhere == set()
    assert {name for name in REQUIRED if f"`{name}`" not in read(page)} == set()


def test_the_format_and_the_arrays_of_a_bundle_are_those_of_the_page(demo_bundle: Path) -> None:
    page = read(REFERENCE / "bundle-format.md")
    graph, rest = page.split("## The graph")[1].split("## Arrays in calibration.npz")
    rows = {
        name
        for row in re.findall(r"^\| (`.+?) \|", rest.split("## ")[0], re.M)
        for name in row.split("`")[1::2]
    }
    optional = {"fold_b_sizes", "p_by_rank_b", "embedding_mean", "embedding_axes"}
    with np.load(demo_bundle / CALIBRATION) as calibration, np.load(demo_bundle / GOLDEN) as golden:
        assert rows - {*calibration} <= optional
        assert {*calibration} <= rows
        assert {*golden} <= named(REFERENCE / "bundle-format.md")

    assert set(re.findall(r"tidegate-bundle/\d+", page)) == {FORMAT}
    assert re.findall(r"^\| `(\w+)`", graph, re.M) == ["pixels", *OUTPUT_NAMES]


def test_every_spelling_of_a_flag_is_listed() -> None:
    page = read(REFERENCE / "cli.md")
    flags = {
        spelling
        for parser in parsers().values()
        for action in parser._actions
        if action.nargs == 0 and action.dest != "help"
        for spelling in action.option_strings
    }

    assert "--no-relative" in flags
    assert {flag for flag in flags if f"`{flag}`" not in page} == set()


def test_every_rule_of_preprocessing_is_described() -> None:
    choices = {*get_args(Filter), *get_args(Offset), *get_args(Backend)}
    steps = {model.model_fields["op"].default for model in _models(Step)}
    page = REFERENCE / "preprocess-spec.md"

    assert (fields(PreprocessSpec) | choices | steps) - named(page) == set()
    assert set(KerasForm.model_fields) - named(page) - {"loader", "keep_aspect_ratio"} == set()


def test_every_reason_for_shedding_is_described() -> None:
    part = read(REFERENCE / "metrics.md").split("## Reasons for shedding")[1]

    assert set(re.findall(r"^\| `([\w-]+)` \|", part, re.M)) == set(SHED_REASONS)


def test_warm_up_is_described_with_its_constants() -> None:
    """Fails when a constant of the warm-up changes and the page does not."""
    buckets = EngineHints().buckets
    sentences = (
        f"There are {warm_up.ROUNDS} rounds",
        f"batch by batch, for {2 * warm_up._TRIAL_S:g} s a round",
        f"take turns of {warm_up._TRIAL_S:g} s",
        f"in at least {warm_up._CLEARLY:.0%} of the comparisons".replace("%", " %"),
        f"must give {100 * (cpu_warm_up._WORTH_SHARING - 1):.0f} % more images per second",
        f"must give {100 * (cpu_warm_up._WORTH_ANOTHER - 1):.0f} % more images per second in "
        f"batches of {cpu_warm_up._COMPARED}",
        f"must give {100 * (warm_up.WORTH_IT - 1):.0f} % more images per second",
        f"with {1000 * warm_up._AROUND_S:g} ms added to every batch",
        f"({', '.join(map(str, buckets))})",
        f"(at most {cpu_engines._MOST_FOR_ONE} threads)",
        f"over {warm_up._SINGLE_IMAGE_S:g} s, the median must be {warm_up.WORTH_ALL_CORES:g} times",
        f"{100 * (warm_up._WORTH_CAPTURING - 1):.0f} % more images per second",
        f"within {_power(TOLERANCE)} ({_power(REDUCED_TOLERANCE)} for bf16, and for fp16 and int8 "
        f"on a GPU; {_power(ARM64_INT8_TOLERANCE)} for int8 on ",
    )

    assert [text for text in sentences if text not in read(WARM_UP)] == []
    assert warm_up._LEAST_RUNS == 3  # "is run three times"


def _power(value: float) -> str:
    return f"{value:.0e}".replace("e-0", "e-")
