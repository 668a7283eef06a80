"""What front ends report of their images, handed to what observes them in this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np

from tidegate.service.batching.lanes import Lane
from tidegate.service.batching.ring import Layout, SlotViews
from tidegate.service.fronts.notes import unpack_note
from tidegate.service.lifecycle import Service
from tidegate.service.observing import Observation
from tidegate.service.rollout.outcomes import Kind
from tidegate.service.rollouts import Rollout
from tidegate.service.served import Served
from tidegate.service.types import Pixels


class Observations:
    """Takes reports for the loaded versions. Used on the event loop."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def noted(self, lane: Lane, views: SlotViews) -> None:
        """Observe an answer by its note. Raises ValueError if that is not one."""
        if (served := self._served(lane)) is not None:
            # Not copied: without its pixels, an observation is not kept.
            self._observe(served, unpack_note(views.note, views.features[0]))

    def answered(
        self, lane: Lane, layout: Layout, sizes: Sequence[int], content: bytes, *, wanted: bool
    ) -> None:
        """Observe an answer whose image came with it. Raises ValueError if a part is malformed."""
        note, features, image, pixels = _parts(content, sizes)
        if len(features) != 4 * layout.features or len(pixels) not in (0, layout.pixel_bytes):
            raise ValueError("features or pixels of another size")
        seen = unpack_note(note, np.frombuffer(features, np.float32))
        shown = None
        if pixels:
            shape = layout.height, layout.width, 3
            shown = Pixels(np.frombuffer(pixels, np.uint8).reshape(shape))
        if (served := self._served(lane)) is not None:
            self._observe(served, seen, bytes(image), shown, wanted=wanted)

    def failed(self, lane: Lane, count: int, ns: int) -> None:
        """Count images that were not answered."""
        lane.statistics.failed.count += count
        lane.statistics.failed.ns += ns

    def failure(self, lane: Lane, kind: Kind, received: float, key: str) -> None:
        """Report a failure of a version to the judge of its model's rollout."""
        served = self._served(lane)
        if served is not None and (rollout := self._rollout_of(served)) is not None:
            rollout.observe_failure(served, kind, received, key)

    def sampled(self, lane: Lane, statistics: dict[str, float]) -> None:
        """Observe the input statistics of an image."""
        if (served := self._served(lane)) is not None:
            served.observer.sampled(statistics)

    def _observe(
        self,
        served: Served,
        seen: Observation,
        image: bytes = b"",
        pixels: Pixels | None = None,
        *,
        wanted: bool = False,
    ) -> None:
        if not 0 <= seen.class_id < served.bundle.manifest.task.classes:
            raise ValueError(f"class {seen.class_id}")
        if len(seen.scores) != len(served.bundle.gate.folds_a):
            raise ValueError(f"{len(seen.scores)} scores")
        served.observer.answered(None, b"", seen)
        if seen.tag.key is not None and (rollout := self._rollout_of(served)) is not None:
            rollout.observe(served, seen, image, pixels)
        # A shadow that differs may keep the image later; otherwise it is kept only if selected.
        kept = image if wanted else b""
        self._service.remember_observed(
            seen.tag.image_id, kept, seen, served.bundle, is_wanted=wanted
        )

    def _served(self, lane: Lane) -> Served | None:
        for one in self._service.loaded():
            if one.lane is lane:
                return one
        return None

    def _rollout_of(self, served: Served) -> Rollout | None:
        """Return the rollout in which a version takes part now."""
        model = self._service.catalog.models.get(served.name)
        if model is None or served not in model.versions.values():
            return None
        return model.rollout


def _parts(content: bytes, sizes: Sequence[int]) -> list[memoryview]:
    if len(sizes) != 4 or sum(sizes) != len(content) or min(sizes) < 0:
        raise ValueError("sizes that are not those of the parts")
    ends = np.cumsum(cast(list[int], sizes)).tolist()
    view = memoryview(content)
    return [view[end - size : end] for end, size in zip(ends, sizes, strict=True)]
