"""The broken uploads, and the behaviour of a server that receives them."""

import asyncio
import sys
from pathlib import Path

import pytest
from PIL import Image

from load_tests.comparison import bad_input
from load_tests.comparison.bad_input import IN_FLIGHT, OTHERS, Behaviour, observe
from load_tests.comparison.broken_uploads import black_png, write_broken
from load_tests.peers.catalogue import Start
from load_tests.server.start import free_port

pytestmark = pytest.mark.process

TOY = Path(__file__).parents[1] / "toy_server.py"


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.new("RGB", (50, 40), (200, 10, 10)).save(tmp_path / "photo.jpg")
    return tmp_path / "photo.jpg"


def _observe(photo: Path, *behaviours: str) -> Behaviour:
    port = free_port()
    command = (sys.executable, str(TOY), str(port), *behaviours)
    start = Start("toy", command, {}, f"http://127.0.0.1:{port}/")
    return asyncio.run(observe(start, [photo]))


def test_the_bomb_is_a_small_and_valid_picture(tmp_path: Path) -> None:
    (tmp_path / "black.png").write_bytes(black_png(300))

    with Image.open(tmp_path / "black.png") as image:
        image.load()
        assert (image.size, image.mode, image.getextrema()) == ((300, 300), "RGB", ((0, 0),) * 3)


def test_each_upload_is_broken_as_its_name_says(photo: Path, tmp_path: Path) -> None:
    written = write_broken(photo, tmp_path)

    assert photo.read_bytes().startswith(written["truncated"].read_bytes())
    assert written["empty"].stat().st_size == 0
    assert 400_000 < written["bomb"].stat().st_size < 600_000
    with pytest.raises(OSError, match=r"(?i)truncated"), Image.open(written["truncated"]) as image:
        image.load()


def test_a_correct_server_has_a_correct_result(photo: Path) -> None:
    seen = _observe(photo)

    assert (seen.truncated, seen.text, seen.empty, seen.bomb) == (422, 422, 422, 422)
    assert seen.company_answered == OTHERS
    assert seen.truncated_in_company == 422
    assert seen.serves_after
    assert 0 <= seen.answered_after_sigterm <= IN_FLIGHT
    assert seen.exit_s is not None
    assert seen.left == 0


def test_processes_that_outlive_sigterm_are_counted(
    photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bad_input, "LEFT_AFTER_S", 5.0)

    seen = _observe(photo, "orphan")

    assert seen.exit_s is not None
    assert seen.left == 1
