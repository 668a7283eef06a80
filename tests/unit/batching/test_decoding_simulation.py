"""Overload before decoder threads, in virtual time: what is admitted is answered.

16 decoders at 1 ms an image, three slots, ℓ(b) = 0.30 + 0.013·b ms. Without a margin on the images
ahead, those admitted last are decoded and then dropped: 0.19 to 0.94 of the capacity was answered,
and 0.85 to 1.2 with 1.25 instead of 1.4. Above 1, because what was queued at the end counts too.
"""

from __future__ import annotations

import pytest

from tests.unit.batching.decoding_simulation import DecodingWorld, goodput


@pytest.mark.lengthy
@pytest.mark.parametrize(("load", "deadline_s"), [(2, 0.015), (3, 0.015), (2, 0.1)])
@pytest.mark.parametrize("variation", [0.3, 0.8])
def test_under_overload_the_decoders_work_for_answers(
    load: float, deadline_s: float, variation: float
) -> None:
    share, outcomes = goodput(DecodingWorld(load, deadline_s, variation))

    assert share >= 0.9
    assert outcomes["missed"] <= 0.1 * outcomes["in time"]


def test_at_half_load_nothing_is_refused() -> None:
    _, outcomes = goodput(DecodingWorld(0.5, 0.1, 0.3))

    assert outcomes["in time"] == DecodingWorld.images
