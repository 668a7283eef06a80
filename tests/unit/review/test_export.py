"""What an export copies and skips, and what it reports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tidegate.service.cli import main
from tidegate.service.errors import ReviewUnreadable
from tidegate.service.review.answered import Answered
from tidegate.service.review.export import export
from tidegate.service.review.image_store import ImageStore, ReviewConfig
from tidegate.service.review.recent_answers import RecentAnswers

PNG = b"\x89PNG\r\n\x1a\n" + b"pixels" * 100
ANSWER = Answered("r1", "review", 3, "tabby, cat", 0.7, 0.02, "m", "1", "d" * 64)
CLASSES = 10
DAMAGES = ["1e999", "-1e999", "NaN", "true", '"5"', "-1", "1" + "0" * 5000, "[" * 20_000, "5.5"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of two images, the second one labelled 7."""
    config = ReviewConfig(tmp_path / "kept", 1_000_000, 1000.0, 0.0)
    images = ImageStore(config, lambda outcome: None, on_death=print)
    answers = RecentAnswers(images)
    answers.remember(PNG, ANSWER, CLASSES)
    answers.remember(PNG, ANSWER._replace(request_id="r2"), CLASSES)
    answers.label("r2", 7)
    images.close(10)
    return config.root


def labelled(root: Path) -> Path:
    return next(p for p in root.glob("*/*.json") if json.loads(p.read_bytes()).get("true_class"))


def test_an_export_has_one_folder_per_class(root: Path, tmp_path: Path) -> None:
    counts = export(root, tmp_path / "out")
    again = export(root, tmp_path / "out")

    assert counts == again == {"7": 1, "unlabelled/3-tabby_ cat": 1}
    assert [path.read_bytes() for path in tmp_path.glob("out/7/*")] == [PNG]


@pytest.mark.parametrize("damage", DAMAGES, ids=[damage[:10] for damage in DAMAGES])
def test_a_damaged_true_class_is_skipped_and_the_others_are_exported(
    root: Path, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = labelled(root)
    path.write_text(path.read_text().replace('"true_class": 7', f'"true_class": {damage}'))

    assert main(["review", "export", str(root), str(tmp_path / "out")]) == 0

    printed = capsys.readouterr()
    assert printed.out.split(maxsplit=1)[0] == "1"
    assert f"skipped {path}: " in printed.err
    assert "skipped: 1 with a damaged sidecar" in printed.err


@pytest.mark.lengthy
def test_a_damaged_sidecar_never_causes_a_traceback(root: Path, tmp_path: Path) -> None:
    path = labelled(root)
    whole = path.read_bytes()
    for place in range(len(whole)):
        for mutant in (whole[:place], whole[:place] + b"\xff" + whole[place + 1 :]):
            path.write_bytes(mutant)
            assert sum(export(root, tmp_path / "out").values()) in {1, 2}


def test_an_image_that_was_removed_during_the_export_is_skipped(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    next(iter(sorted(root.glob("*/*.png")))).unlink()

    assert main(["review", "export", str(root), str(tmp_path / "out")]) == 0
    assert "skipped: 1 removed during the export" in capsys.readouterr().err


def test_links_are_not_followed(root: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    for image in root.glob("*/*.png"):
        image.unlink()
        image.symlink_to(secret)

    with pytest.raises(ReviewUnreadable, match="None of the images"):
        export(root, tmp_path / "out")


@pytest.mark.parametrize("out", ["kept/out", "kept", "kept/../kept/2026-01-01"])
def test_an_export_into_the_review_folder_is_rejected(root: Path, tmp_path: Path, out: str) -> None:
    with pytest.raises(ReviewUnreadable, match="inside the review folder"):
        export(root, tmp_path / out)


def test_a_folder_that_cannot_be_written_is_named(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(ReviewUnreadable, match="cannot be written"):
        export(root, tmp_path / "file" / "out")


def test_an_export_without_usable_images_raises_an_error(tmp_path: Path) -> None:
    root = tmp_path / "kept"
    (root / "day").mkdir(parents=True)
    with pytest.raises(ReviewUnreadable, match="no kept images"):
        export(root, tmp_path / "out")

    (root / "day" / "x.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ReviewUnreadable, match="1 with a damaged sidecar"):
        export(root, tmp_path / "out")
