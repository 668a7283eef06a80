"""`tidegate train`: what is wrong is said in the first second, before torch is imported."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.unit.models.training.pictures import classes
from tidegate.models.commands import train, train_source
from tidegate.models.data.training_data import TrainingData
from tidegate.models.errors import BuildRefused
from tidegate.models.training.config import TrainConfig
from tidegate.models.training.division import Shares
from tidegate.service.cli import main


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    classes(root / "enough", {"cat": 10, "dog": 10})
    classes(root / "few", {"cat": 3, "dog": 10})
    classes(root / "one", {"cat": 1})
    for split in ("train", "test"):
        classes(root / "half" / split, {"cat": 1, "dog": 1})
    (root / "settings.toml").write_text("[optimisation]\nrat = 0.1\n")
    return root


def words(
    images: Path, out: Path, *more: str, data: str = "enough", model: str = "timm:x"
) -> list[str]:
    given = ["train", "--data", str(images / data), "--model", model, "--out", str(out)]
    return [*given, "--name", "parts", "--version", "1", "--run", str(out / "run"), *more]


MISTAKES: dict[str, tuple[list[str], str]] = {
    "a version that is no name": (["--version", "A B"], "--version 'A B': use lower-case"),
    "weights that are missing": (["--weights", "none.pt"], "--weights none.pt does not exist"),
    "a probe without weights": (["--recipe", "probe"], "give --weights FILE"),
    "a setting in the file": (
        ["--config", "SETTINGS"],
        "optimisation.rat is unknown; similar: opt",
    ),
    "a setting": (["--set", "seed=x"], "The setting seed is 'x'"),
    "a size": (["--size", "7"], "The setting size is 7"),
    "shares": (["--shares", "0.5", "0.4", "0.2"], "their sum 1"),
    "groups": (["--groups", "("], "is not a regular expression"),
    "an alpha": (["--alpha-reject", "2"], "--alpha-reject 2: give a number"),
    "an OOD set": (["--ood", "textures"], "--ood textures: give NAME=DIR"),
}


@pytest.mark.parametrize(("more", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_explained_before_anything_is_written(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    given = [str(images / "settings.toml") if word == "SETTINGS" else word for word in more]

    assert main(words(images, tmp_path / "out", *given)) == 1

    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert "torch" not in sys.modules


@pytest.mark.parametrize(
    ("data", "model", "message"),
    [
        ("none", "timm:x", "none"),
        ("one", "timm:x", "at least two are needed"),
        ("few", "timm:x", "1 classes have fewer than"),
        ("enough", "resnet18", "--model resnet18: give timm:NAME"),
        ("enough", "torchvision:resnet18", "give timm:NAME"),
    ],
)
def test_a_wrong_folder_or_model_is_explained(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], data: str, model: str,
    message: str,
) -> None:  # fmt: skip
    assert main(words(images, tmp_path / "out", data=data, model=model)) == 1

    assert message in capsys.readouterr().err


def divided(images: Path, run: Path, *more: str) -> TrainingData:
    options = train.parser().parse_args(words(images, run, *more)[1:])
    shares = None if options.shares is None else Shares(*options.shares)
    return train._divided(options, run, shares, train._config(options))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--data", "OTHER"), "root was .*enough and is now .*other"),
        (("--seed", "1"), "seed was 0 and is now 1"),
        (("--shares", "0.5", "0.25", "0.25"), "shares was .*0.6.* and is now .*0.5"),
        (("--groups", "x"), "groups was None and is now x"),
        (("--divide-alike",), "keep_alike was True and is now False"),
    ],
)
def test_a_division_that_was_made_with_other_options_is_not_used(
    images: Path, tmp_path: Path, more: tuple[str, ...], message: str
) -> None:
    first = divided(images, tmp_path)
    other = classes(tmp_path / "other", {"cat": 10, "dog": 10})
    given = [str(other) if word == "OTHER" else word for word in more]

    assert divided(images, tmp_path) == first
    with pytest.raises(BuildRefused, match=message) as refused:
        divided(images, tmp_path, *given)

    assert "Give --fresh to divide the images again" in str(refused.value)
    if "--groups" not in more:  # which finds nothing in these names
        again = divided(images, tmp_path, *given, "--fresh")
        assert divided(images, tmp_path, *given) == again


@pytest.mark.parametrize(
    "option", ["--epochs=3", "--workers=0", "--set=seed=3", "--config=x.toml", "--finish"]
)
def test_an_option_that_a_linear_layer_does_not_use_is_refused(
    images: Path, tmp_path: Path, option: str
) -> None:
    (tmp_path / "weights.pt").write_bytes(b"not read")
    probe = "--recipe=probe", f"--weights={tmp_path / 'weights.pt'}"
    for more, message in ((("--model=bundle:x",), "not for a bundle"), (probe, "--recipe probe")):
        options = train.parser().parse_args([*words(images, tmp_path, option)[1:], *more])
        source = train_source.find(options, TrainConfig())

        with pytest.raises(BuildRefused, match=f"^{option.partition('=')[0]} is .*{message}"):
            source.check()


def test_an_option_is_a_setting(images: Path, tmp_path: Path) -> None:
    given = words(images, tmp_path, "--epochs", "7", "--set", "optimisation.batch=8", "--seed", "5")
    options = train.parser().parse_args(given[1:])

    config = train._config(options)

    assert (config.stages.full, config.optimisation.batch, config.seed) == (7, 8, 5)
