"""Synthetic OOD images are the same everywhere, and the report sees more than the fit."""

from __future__ import annotations

import numpy as np
import pytest

from tidegate.models.demo.spec import PREPROCESS
from tidegate.models.fitting import synthetic_ood


@pytest.mark.lengthy
@pytest.mark.parametrize("kind", synthetic_ood.KINDS)
def test_more_images_are_added_at_the_end(kind: str) -> None:
    few = synthetic_ood.generate(kind, 2, synthetic_ood.REPORT_SEED, PREPROCESS)
    more = synthetic_ood.generate(kind, 5, synthetic_ood.REPORT_SEED, PREPROCESS)

    assert all(np.array_equal(a, b) for a, b in zip(few, more, strict=False))
    assert len({pixels.tobytes() for pixels in more}) == 5


def test_every_group_has_kinds_that_the_fit_sees_and_kinds_that_it_does_not() -> None:
    groups = {kind.group for kind in synthetic_ood.KINDS.values()}
    fitted = {synthetic_ood.KINDS[name].group for name in synthetic_ood.FIT_KINDS}
    unseen = {
        kind.group
        for name, kind in synthetic_ood.KINDS.items()
        if name not in synthetic_ood.FIT_KINDS
    }

    assert fitted == groups
    assert unseen == groups


@pytest.mark.lengthy
@pytest.mark.parametrize("kind", ["text", "pages", "tables", "line charts", "line drawings"])
def test_paper_is_light_with_some_ink(kind: str) -> None:
    images = synthetic_ood.generate(kind, 12, synthetic_ood.REPORT_SEED, PREPROCESS)
    contrast = [float(pixels.max()) - float(pixels.min()) for pixels in images]

    assert np.mean([np.median(pixels) for pixels in images]) > 150
    assert min(contrast) > 60


@pytest.mark.parametrize("kind", ["windows", "dialogs", "messages"])
def test_screens_are_light_and_dark(kind: str) -> None:
    images = synthetic_ood.generate(kind, 24, synthetic_ood.REPORT_SEED, PREPROCESS)
    levels = np.array([np.median(pixels) for pixels in images])

    assert (levels < 100).any()
    assert (levels > 155).any()
