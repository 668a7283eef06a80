"""In a program images get the answers of `POST /classify`, and a bad image disturbs no other."""

from __future__ import annotations

import hashlib
import inspect
import pickle
import re
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import fields
from pathlib import Path

import httpx
import numpy as np
import pyarrow
import pytest
from PIL import Image

from tests.server import DEMO_BUNDLE, PHOTOS, ROOT, Server
from tests.unit.bundle.tiny_bundle import put, sound_files
from tidegate.service.bundle.store import LABELS
from tidegate.service.errors import BundleRefused
from tidegate.service.offline.answers import Answer, Problem
from tidegate.service.offline.predictor import Predictor
from tidegate.service.offline.tables import Rows

pytestmark = pytest.mark.lengthy

PATHS = sorted(PHOTOS.glob("*.*"))


@pytest.fixture(scope="module")
def predictor() -> Iterator[Predictor]:
    opened = Predictor(DEMO_BUNDLE, batch_size=3)
    yield opened
    opened.close()


def test_the_answers_are_those_of_the_service(
    predictor: Predictor, server: Server, client: httpx.Client
) -> None:
    images = [path.read_bytes() for path in PATHS]

    answers = predictor.predict(images, top_k=3)

    assert len(answers) == len(PATHS) > predictor.batch_size
    for image, answer in zip(images, answers, strict=True):
        online = client.post("/classify?top_k=3", content=image)
        assert isinstance(answer, Answer)
        assert (answer.decision == "reject") == (online.status_code == 422)
        assert answer.p_value == pytest.approx(online.json()["ood"]["p_value"], abs=1e-6)
        if online.status_code == 200:
            assert answer.decision == online.json()["decision"]
            said = online.json()["predictions"]
            assert [p.class_id for p in answer.predictions] == [p["class_id"] for p in said]
            ours = [p.probability for p in answer.predictions]
            assert ours == pytest.approx([p["probability"] for p in said], abs=1e-6)


@pytest.mark.parametrize(
    ("image", "code"),
    [
        (b"", "unsupported-image-type"),
        (b"# Tidegate\n", "unsupported-image-type"),
        (PATHS[0].read_bytes()[:900], "undecodable-image"),
        (bytes(17 << 20), "upload-too-large"),
    ],
)
def test_a_bad_image_is_a_problem_and_disturbs_no_other(
    predictor: Predictor, client: httpx.Client, image: bytes, code: str
) -> None:
    good = PATHS[0].read_bytes()
    [alone] = predictor.predict([good])

    first, problem, last = predictor.predict([good, image, good])

    assert isinstance(problem, Problem)
    assert isinstance(alone, Answer)
    for answer in (first, last):
        assert isinstance(answer, Answer)
        np.testing.assert_allclose(answer.probabilities, alone.probabilities, atol=1e-6)
    if image:  # online an empty body is no image at all
        online = client.post("/classify", content=image)
        assert (problem.code, problem.status) == (online.json()["code"], online.status_code)
    assert problem.code == code
    assert problem.detail


def test_arrays_have_the_stated_shapes(predictor: Predictor) -> None:
    [answer] = predictor.predict([PATHS[0].read_bytes()])

    task = predictor.bundle.manifest.task
    assert isinstance(answer, Answer)
    assert answer.probabilities.shape == (task.classes,)
    assert answer.features.shape == (task.features,)
    assert answer.pixels.shape == (task.height, task.width, 3)
    assert predictor.predict([]) == []


@pytest.mark.parametrize("path", ["path", None])
def test_a_table_becomes_a_table_of_rows(predictor: Predictor, path: str | None) -> None:
    good = (PHOTOS / "coffee.png").read_bytes()
    table = pyarrow.table(
        {"image": [{"bytes": good}, None, {"bytes": b"none"}], "path": ["a", "b", "c"]}
    )
    rows = Rows("image", path, top_k=2, features=True)

    made = rows.classify(predictor, table)

    assert made.schema.equals(rows.schema(predictor.bundle))
    first, *others = made.to_pylist()
    assert "index" not in first
    assert (first["path"], first["decision"], len(first["top_k"])) == (
        "a" if path else "",
        "accept",
        2,
    )
    assert first["sha256"] == hashlib.sha256(good).hexdigest()
    assert [row["error"] for row in others] == ["unsupported-image-type"] * 2


def test_a_copy_in_another_process_is_made_of_the_folder(predictor: Predictor) -> None:
    copy = pickle.loads(pickle.dumps(predictor))  # noqa: S301 - our own object

    assert copy.bundle.digest == predictor.bundle.digest
    assert copy.batch_size == predictor.batch_size
    assert copy.engine == predictor.engine


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A small bundle, of which a predictor is made quickly."""
    return put(tmp_path / "tiny" / "1", sound_files())


def test_all_processes_use_the_engine_that_one_has_chosen(tiny: Path) -> None:
    with closing(Predictor(tiny, engine="auto", batch_size=1)) as predictor:
        copied = pickle.dumps(predictor)

    assert b"auto" not in copied


def test_a_copy_is_never_of_another_bundle(tiny: Path) -> None:
    with closing(Predictor(tiny, batch_size=1)) as predictor:
        copied = pickle.dumps(predictor)
    shutil.rmtree(tiny)
    put(tiny, sound_files() | {LABELS: b"cow\nhorse\ncow\nfrog\n"})

    with pytest.raises(BundleRefused, match="another bundle"):
        pickle.loads(copied)  # noqa: S301 - our own object


def test_pillow_has_the_bound_too(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # restored at the end
    Predictor(tiny, batch_size=1, max_image_pixels=12_345).close()

    assert Image.MAX_IMAGE_PIXELS == 12_345


@pytest.mark.parametrize("top_k", [0, -1])
def test_a_number_of_classes_that_is_none_is_refused(predictor: Predictor, top_k: int) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        predictor.predict([PATHS[0].read_bytes()], top_k=top_k)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleRefused):
        Predictor(tmp_path)


@pytest.mark.slow
def test_the_example_of_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "reference" / "python.md").read_text("utf-8")
    [example] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    paths = {"models/bundles/efficientnet-lite0/1": DEMO_BUNDLE, "photo.jpg": PHOTOS / "rocket.jpg"}
    for name, path in paths.items():
        example = example.replace(f'"{name}"', repr(str(path)))

    exec(example, {"__name__": "page"})  # noqa: S102 - the page's

    assert "decision='accept'" in capsys.readouterr().out


def test_the_page_lists_every_field_and_argument() -> None:
    page = (ROOT / "docs" / "reference" / "python.md").read_text("utf-8")
    names = {field.name for kind in (Answer, Problem, Rows) for field in fields(kind)}
    names |= set(inspect.signature(Predictor).parameters)
    names |= {name for name in vars(Predictor) if not name.startswith("_")}

    assert [name for name in sorted(names) if not re.search(rf"\b{name}\b", page)] == []
