"""Requests from images, schedules, and the command's arguments."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from load_tests.__main__ import main
from load_tests.client.requests import (
    Target,
    build_requests,
    find_images,
    shuffled_forever,
)
from load_tests.generator.arrivals import constant, poisson


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "b.JPG").write_bytes(b"jpeg")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.png").write_bytes(b"png")
    (tmp_path / "notes.txt").write_text("not an image")
    return tmp_path


def test_a_request_is_complete_http(folder: Path) -> None:
    target = Target.parse("http://127.0.0.1:8000/classify?top_k=1")

    png = build_requests([folder / "deep" / "a.png"], target, deadline_ms=250)[0]

    head, _, body = png.partition(b"\r\n\r\n")
    assert head.split(b"\r\n") == [
        b"POST /classify?top_k=1 HTTP/1.1",
        b"Host: 127.0.0.1:8000",
        b"Content-Type: image/png",
        b"Content-Length: 3",
        b"X-Request-Timeout-Ms: 250",
    ]
    assert body == b"png"


def test_only_images_are_found_and_a_folder_without_any_is_an_error(folder: Path) -> None:
    assert [p.name for p in find_images(folder)] == ["b.JPG", "a.png"]
    (folder / "b.JPG").unlink()
    (folder / "deep" / "a.png").unlink()
    with pytest.raises(FileNotFoundError, match="no image below"):
        find_images(folder)


def test_each_epoch_sends_every_image_once_in_a_seeded_order() -> None:
    images = [bytes([i]) for i in range(20)]

    first = list(itertools.islice(shuffled_forever(images, seed=1), 40))

    assert sorted(first[:20]) == sorted(first[20:]) == images
    assert first[:20] != first[20:]
    assert first == list(itertools.islice(shuffled_forever(images, seed=1), 40))
    assert first != list(itertools.islice(shuffled_forever(images, seed=2), 40))


@pytest.mark.parametrize("url", ["https://h/", "127.0.0.1:8000", "http:///classify"])
def test_only_plain_http_urls_are_accepted(url: str) -> None:
    with pytest.raises(ValueError, match="expected http://"):
        Target.parse(url)


def test_constant_arrivals_are_evenly_spaced() -> None:
    assert list(constant(4, 1)) == [0, 0.25, 0.5, 0.75]


def test_poisson_arrivals_have_the_rate_and_the_spread_of_independent_users() -> None:
    gaps = np.diff(list(poisson(rate=100, duration_s=100, seed=0)))

    assert 1 / gaps.mean() == pytest.approx(100, rel=0.05)  # 5 standard errors at 10,000 gaps
    assert gaps.std() / gaps.mean() == pytest.approx(1, abs=0.05)  # exponential gaps


def test_bad_arguments_exit_2_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["run", "--images", str(tmp_path)])

    assert stopped.value.code == 2
    assert "no image below" in capsys.readouterr().err
