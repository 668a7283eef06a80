from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from tidegate.service import errors
from tidegate.service.api.context import RequestContext
from tidegate.service.api.problems import (
    OUT_OF_DISTRIBUTION,
    make_problem,
    problem_of,
    respond,
    response_to,
)
from tidegate.service.problem_codes import TABLE

DESIGNED = {
    "bad-request": 400,
    "not-found": 404,
    "upload-too-large": 413,
    "image-too-large": 413,
    "unsupported-image-type": 415,
    "unsupported-encoding": 415,
    "undecodable-image": 422,
    "out-of-distribution": 422,
    "quota-exceeded": 429,
    "overloaded": 503,
    "draining": 503,
    "not-ready": 503,
    "deadline-missed": 504,
    "engine-failed": 500,
    "upload-timeout": 408,
    "unauthorized": 401,
    "forbidden": 403,
    "reload-refused": 422,
}
GROUPS = {
    errors.TidegateError,
    errors.RequestError,
    errors.ServiceError,
    errors.StartupError,
}


def error_classes() -> set[type[errors.TidegateError]]:
    return {
        cls
        for _, cls in inspect.getmembers(errors, inspect.isclass)
        if issubclass(cls, errors.TidegateError)
    }


def test_every_error_of_a_request_has_a_row() -> None:
    startup = {cls for cls in error_classes() if issubclass(cls, errors.StartupError)}

    assert TABLE.keys() == error_classes() - GROUPS - startup


def test_the_table_is_the_contract() -> None:
    rows = [*TABLE.values(), OUT_OF_DISTRIBUTION]

    assert {code: status for status, code, _ in rows} == DESIGNED


def test_the_tree_in_the_docstring_names_every_error() -> None:
    assert errors.__doc__ is not None
    for cls in error_classes():
        assert cls.__name__ in errors.__doc__


def test_a_problem_has_status_detail_and_request_id() -> None:
    problem = problem_of(errors.UndecodableImage("cut short"), RequestContext("id-1"))

    assert problem["type"] == "urn:tidegate:problem:undecodable-image"
    assert (problem["status"], problem["detail"], problem["request_id"]) == (
        422,
        "cut short",
        "id-1",
    )


@pytest.mark.parametrize(("wait_s", "header"), [(0.2, "1"), (3, "3"), (3.01, "4")])
def test_retry_after_is_whole_seconds_rounded_up(wait_s: float, header: str) -> None:
    context = RequestContext("x")
    response = respond(make_problem(503, "overloaded", "t", "d", context), context, wait_s)

    assert response.headers["retry-after"] == header


def test_the_reference_names_every_code_with_its_status() -> None:
    page = (Path(__file__).parents[3] / "docs" / "reference" / "errors.md").read_text("utf-8")

    for code, status in DESIGNED.items():
        assert f"| {status} | `{code}` |" in page


@pytest.mark.parametrize(
    "cls", [cls for cls, (status, *_) in TABLE.items() if status in (429, 503)]
)
def test_every_503_has_a_retry_after(cls: type[errors.TidegateError]) -> None:
    arguments = ("", 0.5) if "__init__" in vars(cls) else ("",)

    response = response_to(cls(*arguments), RequestContext("x"))

    assert int(response.headers["retry-after"]) >= 1
