"""Generated images are deterministic and similar to photographs."""

from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from load_tests.__main__ import main
from load_tests.client.synthetic_images import MIX, generated, generated_mix, turned

PHOTOS = Path(__file__).parents[4] / "models/probes/photos"


def _opened(data: bytes) -> Image.Image:
    return Image.open(BytesIO(data))


def test_generated_images_are_the_same_for_the_same_seed() -> None:
    first, again = list(generated(2, (64, 48))), list(generated(2, (64, 48)))

    assert first == again
    assert first[0].data != first[1].data
    assert first != list(generated(2, (64, 48), seed=5))


def test_generated_images_compress_like_photographs() -> None:
    photographs = sorted(PHOTOS.iterdir())
    sizes = sorted(len(p.data) for p in turned(photographs, len(photographs)))

    for picture in generated(2):
        assert sizes[0] / 2 < len(picture.data) < sizes[-1]


@pytest.mark.lengthy
def test_the_mix_has_every_size_and_format_in_its_proportion() -> None:
    pictures = [_opened(picture.data) for picture in generated_mix(10)]

    for kind in MIX:
        alike = [p for p in pictures if p.size == kind[:2] and p.format == kind.format]
        assert len(alike) == kind.of_10


def test_each_copy_of_a_photograph_is_rotated_by_seven_degrees_more() -> None:
    photographs = sorted(PHOTOS.iterdir())[:2]

    pictures = list(turned(photographs, 5, (100, 75)))

    stems = [p.stem for p in photographs]
    assert [p.name for p in pictures] == [
        f"{stems[i % 2]}-{degrees:03}.jpg" for i, degrees in enumerate([0, 0, 7, 7, 14])
    ]
    assert {_opened(p.data).size for p in pictures} == {(100, 75)}
    assert len({p.data for p in pictures}) == 5


def test_the_command_writes_the_images_that_it_reports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "out"

    code = main(["images", str(out), "--from", str(PHOTOS), "--count", "7", "--size", "80x60"])

    assert code == 0
    assert len(list(out.iterdir())) == 7
    assert "7 images in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--size", "80"], "such as 500x375"),
        (["--size", "0x5"], "such as 500x375"),
        (["--count", "0"], "at least 1"),
        (["--quality", "101"], "from 1 to 95"),
        (["--from", "nowhere"], "no image below nowhere"),
        (["--from", "x", "--mix"], "not allowed with"),
    ],
)
def test_bad_options_exit_2_with_the_reason(
    tmp_path: Path, options: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["images", str(tmp_path), *options])

    assert stopped.value.code == 2
    assert reason in capsys.readouterr().err
