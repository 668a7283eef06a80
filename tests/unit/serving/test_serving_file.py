from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.serving.folders import add_version, repository
from tidegate.service.errors import ServingInvalid
from tidegate.service.serving.serving_file import Place, find


def test_without_a_file_the_only_version_of_the_only_model_is_served(tmp_path: Path) -> None:
    repository(tmp_path, parts="3")

    plan = find(Place(tmp_path)).plan()

    assert plan.default == "parts"
    assert plan.models["parts"].named == {"stable": "3"}


@pytest.mark.parametrize(
    "versions", [{"parts": "3 10"}, {"parts": "3", "cats": "1 2"}, {"resnet.v2": "1 2"}]
)
def test_without_a_file_several_versions_are_refused_with_a_file_to_write(
    tmp_path: Path, versions: dict[str, str]
) -> None:
    repository(tmp_path, **versions)

    with pytest.raises(ServingInvalid, match=r"Write which to serve .* example:\n\n") as raised:
        find(Place(tmp_path)).plan()
    example = f"{raised.value}".split("\n\n", 1)[1]
    (tmp_path / "serving.toml").write_text(example)

    plan = find(Place(tmp_path)).plan()
    assert {n: m.stable for n, m in plan.models.items()} == {
        name: there.split()[-1] for name, there in versions.items()
    }


@pytest.mark.parametrize(
    ("versions", "counted"),
    [
        ({"parts": "1 2"}, "2 versions of 1 model"),
        ({"parts": "1", "cats": "1 2"}, "3 versions of 2 models"),
    ],
)
def test_what_is_there_is_counted_in_the_right_number(
    tmp_path: Path, versions: dict[str, str], counted: str
) -> None:
    repository(tmp_path, **versions)

    with pytest.raises(ServingInvalid, match=rf" has {counted}\. "):
        find(Place(tmp_path)).plan()


def test_an_empty_folder_is_refused_with_what_is_wrong_in_it(tmp_path: Path) -> None:
    add_version(tmp_path, "parts", "2", "parts/1")

    with pytest.raises(ServingInvalid, match=r"There is no bundle in .*\n.*is parts 2: move it"):
        find(Place(tmp_path)).plan()


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    repository(tmp_path, parts="3")

    with pytest.raises(ServingInvalid, match=r"There is no serving file .*/other\.toml"):
        find(Place(tmp_path, tmp_path / "other.toml")).plan()


def test_a_named_file_is_used_instead_of_the_one_in_the_folder(tmp_path: Path) -> None:
    repository(tmp_path, parts="3 4")
    (tmp_path / "serving.toml").write_text('[parts]\nstable = "3"')
    (tmp_path / "other.toml").write_text('[parts]\nstable = "4"')

    plan = find(Place(tmp_path, tmp_path / "other.toml")).plan()

    assert plan.models["parts"].stable == "4"


def test_a_problem_names_the_file(tmp_path: Path) -> None:
    repository(tmp_path, parts="3")
    (tmp_path / "serving.toml").write_text("[parts]")

    with pytest.raises(ServingInvalid, match=f"^{tmp_path}/serving.toml: parts.stable is missing"):
        find(Place(tmp_path)).plan()


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "serving.toml").mkdir()

    with pytest.raises(ServingInvalid, match=r"serving.toml cannot be read: Is a directory"):
        find(Place(tmp_path))
