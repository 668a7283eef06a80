"""The commands against real servers, briefly: what is measured depends on the machine."""

import json
from pathlib import Path
from typing import Any

import pytest

from load_tests.__main__ import main
from tidegate.service.cli import main as tidegate

pytestmark = [pytest.mark.process, pytest.mark.slow, pytest.mark.timeout(600)]


def kept(out: Path, *words: str) -> dict[str, Any]:
    """Run a command; return its result, whether or not a limit is exceeded."""
    main([*words, "--json", str(out)])
    result: dict[str, Any] = json.loads(out.read_text("utf-8"))
    return result


def values(result: dict[str, Any]) -> dict[str, float]:
    return {finding["quantity"]: finding["value"] for finding in result["findings"]}


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_reloads_fail_no_request_and_every_answer_is_its_versions(
    demo_bundle: Path, tmp_path: Path, precision: str
) -> None:
    words = f"reload --bundle {demo_bundle} --rate 5 --every 40 --seconds 105"
    if precision == "int8":
        assert tidegate(["demo", "--precision", "int8", "--out", str(tmp_path)]) == 0
        words += f" --second {tmp_path / 'efficientnet-lite0-int8' / '1'}"

    result = kept(tmp_path / "out.json", *words.split())

    found = values(result)
    assert [reload["version"] for reload in result["reloads"]] == ["2", "1"]
    assert found["failed in the whole run"] == 0
    assert found["versions that answered"] == 2
    assert found["answers checked"] > 300
    assert found["answers that are not their digest's"] == 0


def test_a_shadow_compares_images(demo_bundle: Path, tmp_path: Path) -> None:
    # So few requests that slots are idle and nothing is late, on a busy machine too.
    words = f"shadow --bundle {demo_bundle} --rounds 1 --window-s 5 --share 1 --capacity 4"

    result = kept(tmp_path / "out.json", *words.split())

    found = values(result)
    assert found["50 %: compared by the shadow"] > 0
    assert found["50 %: failed by the shadow"] == 0
