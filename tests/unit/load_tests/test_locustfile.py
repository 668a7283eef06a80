"""The Locust file's classification of responses, without Locust itself."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

FakeDecorator = Callable[[Callable[..., object]], Callable[..., object]]


class FakeLocust(ModuleType):
    """A stub of the Locust names that the locustfile imports; decorators return their argument."""

    FastHttpUser = object
    task: FakeDecorator = staticmethod(lambda function: function)
    events = SimpleNamespace(init=SimpleNamespace(add_listener=lambda function: function))

    @staticmethod
    def constant(seconds: float) -> float:
        return seconds


@pytest.fixture
def locustfile(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.setitem(sys.modules, "locust", FakeLocust("locust"))
    yield importlib.import_module("load_tests.locustfile")
    sys.modules.pop("load_tests.locustfile")


@pytest.mark.parametrize(
    ("status", "headers", "code", "failure"),
    [
        (200, {}, None, None),
        (422, {}, "out-of-distribution", None),
        (422, {}, "undecodable-image", "422 undecodable-image"),
        (503, {"Retry-After": "2"}, "overloaded", "503 overloaded, with Retry-After"),
        (503, {}, "overloaded", "503 overloaded, without Retry-After"),
        (503, {}, None, "503, without Retry-After"),
        (504, {}, "deadline-missed", "504 deadline-missed"),
        (500, {}, None, "500"),
    ],
)
def test_answers_pass_and_every_rejection_is_a_separate_kind(
    locustfile: ModuleType,
    status: int,
    headers: dict[str, str],
    code: str | None,
    failure: str | None,
) -> None:
    body = b'{"type": "https://tidegate.dev/problems/%s"}' % code.encode() if code else b"oops"

    assert locustfile.verdict(status, headers, body) == failure


def test_images_are_read_with_their_type_and_the_deadline(
    locustfile: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.PNG").write_bytes(b"png")
    (tmp_path / "notes.txt").write_text("no image")

    requests = locustfile.read_requests({"LOAD_IMAGES": str(tmp_path), "LOAD_DEADLINE_MS": "250"})

    assert requests == [(b"png", {"Content-Type": "image/png", "X-Request-Timeout-Ms": "250"})]


@pytest.mark.parametrize("named", [True, False])
def test_without_images_it_exits_with_a_message(
    locustfile: ModuleType, tmp_path: Path, named: bool
) -> None:
    environment = {"LOAD_IMAGES": str(tmp_path)} if named else {}

    with pytest.raises(SystemExit, match="LOAD_IMAGES"):
        locustfile.read_requests(environment)


def test_it_imports_nothing_of_this_repository() -> None:
    source = Path(__file__).parents[3] / "load_tests" / "locustfile.py"

    assert "load_tests" not in "".join(
        line for line in source.read_text(encoding="utf-8").splitlines() if "import" in line
    )
