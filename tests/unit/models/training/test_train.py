"""A training as a whole: it learns, is deterministic, and goes on where it was stopped."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.unit.models.training.small import COLOURS, MODEL, data, request
from tidegate.models.data.training_data import TrainingData
from tidegate.models.errors import BuildRefused
from tidegate.models.importers.torch_runtime import require
from tidegate.models.training.run_folder import RunFolder
from tidegate.models.training.stop import Stopped
from tidegate.models.training.train import Trained, train
from tidegate.service.files import sha256_of

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("torch_as_it_was")]


@pytest.fixture(scope="module")
def divided(tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    return data(tmp_path_factory.mktemp("colours"))


@pytest.fixture(scope="module")
def trained(divided: TrainingData, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train(request(divided, tmp_path_factory.mktemp("trained")))


def weights(trained: Trained) -> str:
    return sha256_of(trained.model / "model.safetensors")


def test_a_network_learns_and_its_files_say_how(trained: Trained) -> None:
    folder, record = trained.model.parent, trained.record

    assert [stage.name for stage in record.stages] == ["all", "balanced head"]
    assert record.stages[-1].best.accuracy > 0.9
    assert record.kept == "balanced head"
    assert record.images == {"training": 63, "choice of the epoch": 27}
    with (folder / "curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["stage"], row["number"]) for row in rows] == [
        (epoch.stage, str(epoch.number)) for epoch in record.epochs
    ]
    assert json.loads((trained.model / "config.json").read_text())["label_names"] == [*COLOURS]
    assert not [*folder.glob("best-*"), *folder.glob("resume*")]


def test_the_contact_sheet_shows_images_plain_and_as_they_are_drawn(trained: Trained) -> None:
    with Image.open(trained.model.parent / "contact-sheet.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB"))

    side = pixels.shape[0] // 6
    plain, drawn = pixels[:side], pixels[side : 2 * side]
    assert pixels.shape[1] == pytest.approx(8 * side, abs=20)
    assert plain[side // 2, side // 2, 2] > 100  # the first image is blue
    assert np.abs(plain.astype(int) - drawn).mean() > 3


def test_the_same_seed_gives_the_same_weights(
    trained: Trained, divided: TrainingData, tmp_path: Path
) -> None:
    again = train(request(divided, tmp_path / "again"))
    other = train(request(divided, tmp_path / "other", seed=1))

    assert weights(again) == weights(trained) != weights(other)


def test_processes_that_load_images_change_nothing(
    trained: Trained, divided: TrainingData, tmp_path: Path
) -> None:
    assert weights(train(request(divided, tmp_path, workers=2))) == weights(trained)


def test_a_finished_training_is_not_done_again(
    trained: Trained, divided: TrainingData, capsys: pytest.CaptureFixture[str]
) -> None:
    again = train(request(divided, trained.model.parent))

    assert again == trained
    assert "is finished" in capsys.readouterr().err


def test_a_folder_with_another_training_is_refused_and_may_be_cleared(
    divided: TrainingData, tmp_path: Path
) -> None:
    train(request(divided, tmp_path))
    other = request(divided, tmp_path, optimisation__batch=32)

    with pytest.raises(BuildRefused, match=r"optimisation\.batch was 16 and is now 32"):
        train(other)
    assert train(replace(other, fresh=True)).record.settings["optimisation.batch"] == "32"


class Interrupted(Exception):
    """Stands for the end of a process."""


@pytest.mark.parametrize("saves", [1, 2, 4, 6, 9, 13])
def test_a_training_that_ends_after_any_file_it_saved_goes_on_to_the_same_bits(
    trained: Trained,
    divided: TrainingData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    saves: int,
) -> None:
    count, save = 0, RunFolder.save

    def counting(self: RunFolder, state: dict[str, Any]) -> None:
        nonlocal count
        save(self, state)
        count += 1
        if count == saves:
            raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save", counting)
        with pytest.raises(Interrupted):
            train(request(divided, tmp_path, save_every_s=1e-9))
    resumed = train(request(divided, tmp_path))

    assert weights(resumed) == weights(trained)
    plain = [replace(epoch, seconds=0) for epoch in trained.record.epochs]
    assert [replace(epoch, seconds=0) for epoch in resumed.record.epochs] == plain


@pytest.mark.parametrize(
    ("saves", "message"),
    [
        (1, r"stage 1 of 2 \(all\), epoch 1 of at most 2, step 1; no epoch is done yet\. The same"),
        (
            4,
            r"epoch 2 of at most 2, step 0; the best so far is in best-0-1.safetensors\..*--finish",
        ),
        (8, r"stopped at the end of stage 1 of 2 \(all\); the best"),
        (14, "stopped at the end of the training; the best"),
    ],
)
def test_ctrl_c_saves_the_place_and_says_how_to_go_on(
    trained: Trained,
    divided: TrainingData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    saves: int,
    message: str,
) -> None:
    before = signal.getsignal(signal.SIGINT)
    count, save = 0, RunFolder.save

    def pressing(self: RunFolder, state: dict[str, Any]) -> None:
        nonlocal count
        save(self, state)
        count += 1
        if count == saves:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save", pressing)
        with pytest.raises(Stopped, match=message):
            train(request(divided, tmp_path, save_every_s=1e-9))

    assert signal.getsignal(signal.SIGINT) is before
    assert weights(train(request(divided, tmp_path))) == weights(trained)


def test_the_best_epoch_so_far_can_be_the_result(
    divided: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = request(divided, tmp_path)
    with pytest.raises(BuildRefused, match="No epoch is done"):
        train(replace(long, finish=True))
    save = RunFolder.save

    def interrupted(self: RunFolder, state: dict[str, Any]) -> None:
        save(self, state)
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save", interrupted)
        with pytest.raises(Interrupted):
            train(long)

    found = train(replace(long, finish=True))

    assert len(found.record.epochs) == 1
    assert found.record.kept == "all"
    assert [(s.name, s.epochs, s.ended) for s in found.record.stages] == [
        ("all", 1, "ended by --finish")
    ]


def test_another_process_in_the_folder_is_refused_and_what_a_killed_one_left_is_removed(
    divided: TrainingData, tmp_path: Path
) -> None:
    (tmp_path / ".resume.pt.0123456789abcdef").write_bytes(b"half")
    lock = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX)"
    words = [sys.executable, "-c", f"{lock}; print(flush=True); sys.stdin.read()"]
    with subprocess.Popen(
        [*words, str(tmp_path / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        other.stdout.readline()
        with (
            pytest.raises(BuildRefused, match="Another process trains in"),
            RunFolder(tmp_path, {}).locked(),
        ):
            pass
        other.stdin.close()

    with RunFolder(tmp_path, {}).locked():
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_damaged_file_is_named(divided: TrainingData, tmp_path: Path) -> None:
    (tmp_path / "resume.pt").write_bytes(b"torn")

    with pytest.raises(BuildRefused, match=r"resume.pt is damaged: give --fresh"):
        train(request(divided, tmp_path))


def test_several_batches_of_a_step_and_mixing_train_too(
    divided: TrainingData, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {
        "preset": "heavy",
        "mixing.least_images": 0,
        "optimisation.accumulate": 3,
    }
    found = train(
        request(divided, tmp_path, **{k.replace(".", "__"): v for k, v in changes.items()})
    )

    assert found.record.stages[0].best.nll < np.log(3)


def test_trained_weights_are_the_start_of_another_training(
    trained: Trained, divided: TrainingData, tmp_path: Path
) -> None:
    two = replace(
        divided,
        classes=divided.classes[:2],
        train=tuple(image for image in divided.train if image.class_id < 2),
    )
    file = trained.model / "model.safetensors"

    found = train(request(two, tmp_path, weights=file, stages__slice=0.5))

    assert [stage.name for stage in found.record.stages] == ["head", "all", "balanced head"]
    assert found.record.epochs[0].accuracy > 0.7  # the last layer alone; chance is 0.5
    with pytest.raises(BuildRefused, match="does not match this ResNet"):
        train(request(two, tmp_path / "wrong", weights=file, model="resnet18"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"optimisation__optimiser": "adamww"},
            r"'adamww', which timm does not have; similar: adamw",
        ),
        ({"optimisation__optimiser": "adahessian"}, "'adahessian', which needs second derivatives"),
        ({"device": "cuda"}, "torch finds no GPU here"),
        ({"model": "mixer_s32_224", "size": 64}, r"mixer_s32_224: .* requires \(224, 224\)\."),
        ({"model": "inception_v3", "size": 64}, "inception_v3 does not run on images of 64 × 64"),
    ],
)
def test_a_setting_that_does_not_work_here_is_named(
    divided: TrainingData, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    if "device" in changes and require("torch").cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(BuildRefused, match=message):
        train(request(divided, tmp_path, **changes))


def test_an_unknown_model_names_similar_ones(divided: TrainingData, tmp_path: Path) -> None:
    with pytest.raises(BuildRefused, match=r"no model 'resnet-18'; similar: resnet18"):
        train(request(divided, tmp_path, model="resnet-18"))


def test_the_model_of_the_tests_is_one_of_timms() -> None:
    assert require("timm").is_model(MODEL)
