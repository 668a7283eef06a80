from __future__ import annotations

from pathlib import Path

import pytest

from tidegate.models.errors import BuildRefused
from tidegate.models.importers.user_transforms import load

CODE = """
chain = ["resize", "normalise"]

def build():
    return chain + ["crop"]

def broken():
    raise RuntimeError("no data")
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my_transforms.py"
    path.write_text(CODE)
    return path


def test_an_object_or_the_result_of_a_function_is_loaded(file: Path) -> None:
    assert load(f"{file}:chain") == ["resize", "normalise"]
    assert load(f"{file}:build") == ["resize", "normalise", "crop"]


def test_a_module_in_the_current_folder_is_found(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])

    assert load("my_transforms:chain") == ["resize", "normalise"]


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("chain", "give FILE.py:NAME or MODULE:NAME"),
        ("{file}:", "give FILE.py:NAME"),
        ("{file}:absent", "has no absent"),
        ("{file}:broken", "broken.. raises RuntimeError: no data"),
        ("{file}x.py:chain", "cannot be imported: FileNotFoundError"),
        ("no_such_module:chain", "cannot be imported: ModuleNotFoundError"),
    ],
)
def test_what_cannot_be_loaded_is_explained(file: Path, word: str, problem: str) -> None:
    with pytest.raises(BuildRefused, match=problem):
        load(word.format(file=file))
