"""No module imports itself by way of others, not for types either."""

import pytest

from docs.import_graph import cycles, import_graph, main
from tests.server import ROOT


@pytest.mark.parametrize("folder", ["service", "models", "load_tests"])
def test_there_is_no_cycle(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    imports = import_graph(ROOT.joinpath(folder).relative_to(ROOT))

    assert len(imports) > 100
    assert any(imports.values())
    assert cycles(imports) == set()


def test_a_cycle_is_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set[str]()}

    assert cycles(graph) == {frozenset({"a", "b", "c"})}


def test_a_folder_without_modules_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nothing-here"]) == 2
    assert "nothing-here: no Python files" in capsys.readouterr().err
