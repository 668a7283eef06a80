"""Classify images in this process: the decoding, graph, gate and probabilities of the service.

There is no event loop, queue or deadline. The functions are the pipeline's own.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tidegate.service.batching.isolate import RowResult, run_isolating
from tidegate.service.bundle.signature import open_trusted
from tidegate.service.bundle.store import Bundle
from tidegate.service.deciding import best, decide
from tidegate.service.engines.choose import open_engine
from tidegate.service.engines.config import EngineConfig
from tidegate.service.errors import BundleRefused, EngineFailed, TidegateError, UploadTooLarge
from tidegate.service.imaging.decode import bound_pillow
from tidegate.service.imaging.preprocess import preprocess
from tidegate.service.offline.answers import Answer, Problem, problem_of
from tidegate.service.settings import Settings
from tidegate.service.startup import pass_golden
from tidegate.service.types import Outputs, Pixels

# The bounds of the service, unless others are given.
_PIXELS = int(Settings.model_fields["max_image_pixels"].default)
_BYTES = int(Settings.model_fields["max_upload_bytes"].default)


class Predictor:
    """Classifies images with one bundle. Not for several threads at once; picklable."""

    def __init__(
        self,
        bundle: str | os.PathLike[str],
        *,
        threads: int = 1,
        engine: str = "onnx-cpu",
        batch_size: int = 0,
        max_image_pixels: int = _PIXELS,
        max_image_bytes: int = _BYTES,
        warm_up_cache: Path | None = None,
        trusted_keys: Path | None = None,
    ) -> None:
        """Open and verify the bundle in a folder, load the engine, and run the golden probes.

        `batch_size` 0 measures which is fastest; `warm_up_cache` is a folder that keeps this choice
        for a week. `engine` is a name of TIDEGATE_ENGINE. With `trusted_keys`, a folder of public
        keys, one of them must have signed the bundle. `max_image_pixels` becomes Pillow's limit in
        this process. Raises BundleRefused, KeyUnusable or EngineUnavailable.
        """
        self._arguments: dict[str, Any] = {
            "threads": threads,
            "engine": engine,
            "batch_size": batch_size,
            "max_image_pixels": max_image_pixels,
            "max_image_bytes": max_image_bytes,
            "warm_up_cache": warm_up_cache,
            "trusted_keys": trusted_keys,
        }
        self._bundle = open_trusted(Path(bundle), trusted_keys)
        manifest = self._bundle.manifest
        config = EngineConfig(
            name=engine,
            slots=1,
            threads_per_slot=threads,
            max_batch_size=batch_size,
            warm_up_cache=warm_up_cache,
        ).for_calibration(manifest.gate.calibrated_for_engine)
        warm = open_engine(
            self._bundle.model_path, config, manifest.engine.buckets, manifest.precision
        )
        self._engine = warm.engine
        pass_golden(self._bundle, self._engine)
        bound_pillow(max_image_pixels)
        per_image = {size: seconds / size for size, seconds in warm.latency_s.items()}
        self._batch_size = batch_size or min(per_image, key=lambda size: per_image[size])

    def __reduce__(self) -> tuple[Any, ...]:
        chosen = {"engine": self._engine.info.name, "batch_size": self._batch_size}
        return _make, (self._bundle.path, self._bundle.digest, self._arguments | chosen)

    @property
    def bundle(self) -> Bundle:
        """Return the bundle that answers."""
        return self._bundle

    @property
    def engine(self) -> str:
        """Return the engine in words: name, runtime, precision."""
        info = self._engine.info
        return f"{info.name}, {info.runtime}, {info.precision} on {info.device}"

    @property
    def batch_size(self) -> int:
        """Return how many images the engine runs together."""
        return self._batch_size

    @property
    def max_image_pixels(self) -> int:
        """Return how many pixels an image may have."""
        return int(self._arguments["max_image_pixels"])

    @property
    def max_image_bytes(self) -> int:
        """Return how many bytes an encoded image may have."""
        return int(self._arguments["max_image_bytes"])

    def predict(self, images: Sequence[bytes], *, top_k: int = 5) -> list[Answer | Problem]:
        """Classify encoded images; return one result for each, in their order.

        An image that cannot be classified is a Problem, and disturbs no other. At most
        `batch_size` decoded images are in memory. Raises ValueError if `top_k` is not positive.
        """
        if top_k < 1:
            raise ValueError(f"top_k is {top_k}, and must be at least 1")
        answers: list[Answer | Problem] = []
        for start in range(0, len(images), self._batch_size):
            answers += self._predict_batch(images[start : start + self._batch_size], top_k)
        return answers

    def close(self) -> None:
        """Free the engine."""
        self._engine.close()

    def _predict_batch(self, images: Sequence[bytes], top_k: int) -> list[Answer | Problem]:
        decoded = [self._decoded(image) for image in images]
        pixels = [image for image in decoded if not isinstance(image, Problem)]
        rows = iter(self._rows(pixels))
        return [
            image if isinstance(image, Problem) else self._answer(image, next(rows), top_k)
            for image in decoded
        ]

    def _rows(self, pixels: Sequence[Pixels]) -> list[RowResult]:
        if not pixels:
            return []
        return run_isolating(lambda batch, _: self._engine.run(0, batch), pixels)

    def _decoded(self, image: bytes) -> Pixels | Problem:
        try:
            if len(image) > self.max_image_bytes:
                raise UploadTooLarge(
                    f"The image has more than {self.max_image_bytes:,} bytes, the limit."
                )
            spec = self._bundle.manifest.preprocess
            return preprocess(image, spec, self.max_image_pixels)
        except TidegateError as error:
            return problem_of(error)

    def _answer(self, pixels: Pixels, row: RowResult, top_k: int) -> Answer | Problem:
        if isinstance(row, Exception):
            return problem_of(EngineFailed("The engine could not compute this image."))
        return _said(self._bundle, pixels, row, top_k)


def _said(bundle: Bundle, pixels: Pixels, outputs: Outputs, top_k: int) -> Answer:
    decided = decide(bundle, outputs)
    scores = outputs.scores[0].tolist()
    return Answer(
        decision=decided.verdict.decision,
        predictions=best(bundle, decided, top_k),
        p_value=decided.verdict.p_value,
        score_p_values=decided.verdict.score_p_values,
        scores=dict(zip(bundle.gate.folds_a, scores, strict=True)),
        nearest_class=int(outputs.nearest_class[0]),
        probabilities=decided.probabilities,
        features=np.array(outputs.features[0]),
        pixels=pixels,
    )


def _make(bundle: Path, digest: str, arguments: dict[str, Any]) -> Predictor:
    """Make a copy in another process. Raises BundleRefused if the folder has another bundle now."""
    copy = Predictor(bundle, **arguments)
    if copy.bundle.digest != digest:
        raise BundleRefused(f"{bundle} has another bundle than when the predictor was made.")
    return copy
