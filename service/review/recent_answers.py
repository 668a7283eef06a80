"""The most recent answers, kept in memory so that feedback can be matched to them."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from tidegate.service.review.answered import Answered
from tidegate.service.review.image_store import ImageStore, StoredImage

MAX_ANSWERS = 10_000


class _Remembered(NamedTuple):
    answered: Answered
    classes: int  # of the model
    stored: StoredImage | None
    true_class: int | None = None


class RecentAnswers:
    """The last MAX_ANSWERS answers. Used on the event loop."""

    def __init__(self, images: ImageStore | None = None) -> None:
        """`images` stores the images of selected answers; None disables this."""
        self._images = images
        self._answers: OrderedDict[str, _Remembered] = OrderedDict()

    def remember(
        self, image: bytes, answered: Answered, classes: int, *, is_wanted: bool = False
    ) -> None:
        """Add an answer of a model with this many classes, and offer its image to the store.

        `image` is b"" if the client sent pixels, which are not stored. With `is_wanted` it was
        selected for review before.
        """
        stored = None
        if image and self._images is not None:
            stored = self._images.offer(image, answered, is_wanted=is_wanted)
        self._answers[answered.request_id] = _Remembered(answered, classes, stored)
        if len(self._answers) > MAX_ANSWERS:
            self._answers.popitem(last=False)

    def keep(self, request_id: str, image: bytes) -> None:
        """Offer the image of a recent answer to the store, if it is not stored yet."""
        known = self._answers.get(request_id)
        if known is not None and known.stored is None and self._images is not None:
            stored = self._images.offer(image, known.answered, is_wanted=True)
            self._answers[request_id] = known._replace(stored=stored)

    def classes_of(self, request_id: str) -> int | None:
        """Return how many classes the model has that gave an answer; None if it is unknown."""
        known = self._answers.get(request_id)
        return None if known is None else known.classes

    def label(self, request_id: str, true_class: int) -> tuple[Answered, bool] | None:
        """Record an image's true class; return its answer and whether it had no label before.

        Returns None if the answer is unknown or no longer among the recent ones.
        """
        known = self._answers.get(request_id)
        if known is None:
            return None
        self._answers[request_id] = known._replace(true_class=true_class)
        if known.stored is not None and self._images is not None:
            self._images.relabel(known.stored, known.answered, true_class)
        return known.answered, known.true_class is None
