"""How nvJPEG differs from libjpeg-turbo, in pixels and answers, and how fast both decode.

jpeg_probe.py BUNDLE PHOTOS OUT. A decoder whose pixels differ needs a bundle proved with it. The
last part preprocesses as the service does for such a bundle, and shows what becomes of damaged
files.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from tidegate.models.benchmarks.gpu.parity import answers, differences
from tidegate.service.bundle.store import Bundle, open_bundle
from tidegate.service.engines.onnxruntime.cpu import OnnxEngine
from tidegate.service.imaging.preprocess import preprocess
from tidegate.service.types import Pixels

Image8 = NDArray[np.uint8]
Decode = Callable[[Sequence[bytes]], Sequence[Image8]]
Preprocess = Callable[[Sequence[bytes]], Sequence[Pixels]]
SECONDS = 3.0


def on_all_cores(files: Sequence[bytes]) -> Sequence[Image8]:
    """Decode as the service does, on a thread for each core."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(simplejpeg.decode_jpeg, files))


def nvimgcodec(options: str) -> Decode:
    """Return nvImageCodec's decoder; raises if it is missing."""
    codec = importlib.import_module("nvidia.nvimgcodec")
    decoder = codec.Decoder(options=options, max_num_cpu_threads=os.cpu_count())
    return lambda files: [np.asarray(image.cpu()) for image in decoder.decode(list(files))]


def as_the_service_does(bundle: Bundle, decoder: str) -> Preprocess:
    """Return preprocessing with this decoder in the spec, on two threads for each core."""
    spec = bundle.manifest.preprocess.model_copy(update={"decoder": decoder})
    threads = ThreadPoolExecutor(2 * (os.cpu_count() or 1))  # kept: each has its own decoder
    return lambda files: list(threads.map(lambda data: preprocess(data, spec, 10**9), files))


def damaged(preprocessed: Preprocess, files: Sequence[bytes]) -> dict[str, int]:
    """Count the errors for files that were cut, with an end marker, or overwritten in one place."""
    found: Counter[str] = Counter()
    for data in files:
        half = len(data) // 2
        for kind, changed in {
            "cut": data[:half] + data[-2:],
            "overwritten": data[:half] + bytes(32) + data[half + 32 :],
        }.items():
            try:
                preprocessed([changed])
                found[f"{kind}: answered"] += 1
            except Exception as error:  # noqa: BLE001 - its name is the result
                found[f"{kind}: {type(error).__name__}"] += 1
    return dict(found)


def main() -> None:
    bundle = open_bundle(Path(sys.argv[1]))
    files = [path.read_bytes() for path in sorted(Path(sys.argv[2]).rglob("*.jp*g"))]
    out = Path(sys.argv[3])
    engine = OnnxEngine(bundle.model_path, buckets=(1, 8))
    expected = on_all_cores(files)

    def classified(images: Sequence[Image8]) -> Any:
        spec = bundle.manifest.preprocess
        pngs = []
        for image in images:
            png = io.BytesIO()
            Image.fromarray(image).save(png, "PNG", compress_level=1)
            pngs.append(preprocess(png.getvalue(), spec, 10**9))
        return answers(engine, pngs)

    reference = classified(expected)
    report: dict[str, Any] = {"images": len(files)}
    for name, options in {
        "libjpeg-turbo": None,
        "nvjpeg": ":fancy_upsampling=0",
        "nvjpeg_fancy_upsampling": ":fancy_upsampling=1",
    }.items():
        try:
            decode = on_all_cores if options is None else nvimgcodec(options)
            images = decode(files)
            report[name] = {
                **_pixels(images, expected),
                **differences(classified(images), reference, bundle.gate),
                "images_per_s": {size: _rate(decode, files, size) for size in (1, 16, 64)},
            }
        except Exception as error:  # noqa: BLE001 - the other decoders are still measured
            report[name] = f"{type(error).__name__}: {error}"
        print(name, json.dumps(report[name]), flush=True)
        out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for decoder in ("pillow", "nvjpeg"):
        name = f"service_{decoder}"
        try:
            preprocessed = as_the_service_does(bundle, decoder)
            pixels = preprocessed(files)
            report[name] = {
                **_pixels(pixels, as_the_service_does(bundle, "pillow")(files)),
                **differences(answers(engine, pixels), reference, bundle.gate),
                "images_per_s": {size: _rate(preprocessed, files, size) for size in (1, 16, 64)},
                "damaged": damaged(preprocessed, files),
            }
        except Exception as error:  # noqa: BLE001 - the other decoder is still measured
            report[name] = f"{type(error).__name__}: {error}"
        print(name, json.dumps(report[name]), flush=True)
        out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _pixels(images: Sequence[Image8], expected: Sequence[Image8]) -> dict[str, float]:
    pairs = zip(images, expected, strict=True)
    apart = [np.abs(one.astype(np.int16) - other) for one, other in pairs]
    return {
        "largest_difference": float(max(each.max() for each in apart)),
        "mean_difference": float(np.mean([each.mean() for each in apart])),
        "share_that_differs": float(np.mean([(each > 0).mean() for each in apart])),
    }


def _rate(decode: Decode, files: Sequence[bytes], size: int) -> float:
    batch = [files[index % len(files)] for index in range(size)]
    decode(batch)
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < SECONDS:
        decode(batch)
        done += size
    return done / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
