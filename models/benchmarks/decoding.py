"""What decoding and preprocessing a JPEG cost: whole or in part, resized with AVX2 or with VNNI.

    python -m tidegate.models.benchmarks.decoding BUNDLE PHOTO [--rounds N] [--json OUT]

One thread, CPU time, all ways in turns; medians. The photo is enlarged or reduced to each size.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from PIL import Image

from tidegate.service.bundle.store import open_bundle
from tidegate.service.imaging import _resample
from tidegate.service.imaging.decode import decode_source
from tidegate.service.imaging.jpeg_window import AVAILABLE
from tidegate.service.imaging.preprocess import apply, preprocess, size_check
from tidegate.service.imaging.spec import PreprocessSpec

SIZES = ((500, 375), (1920, 1080), (4000, 3000))
_MOST_PIXELS = 10**9


def jpeg_of(photo: Path, size: tuple[int, int]) -> bytes:
    """Return the photo as a JPEG of `size` (width, height), with chroma at half the resolution."""
    file = io.BytesIO()
    with Image.open(photo) as image:
        resized = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    resized.save(file, "JPEG", quality=90, subsampling="4:2:0")
    return file.getvalue()


def times_of(data: bytes, spec: PreprocessSpec, rounds: int) -> dict[str, float]:
    """Return the CPU milliseconds of an image: decoded whole or in part, and how it is resized."""
    check = size_check(spec, _MOST_PIXELS)
    decode: dict[str, Callable[[], object]] = {
        "whole": lambda: apply(decode_source(data, spec, check), spec),
        "in_part": lambda: preprocess(data, spec, _MOST_PIXELS),
    }
    ways = [(name, path) for path in ("avx2", _resample.PATH) for name in decode]
    times: dict[tuple[str, str], list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way in times:
            name, path = way
            _resample.choose(path)
            started = time.thread_time()
            decode[name]()
            times[way].append(1000 * (time.thread_time() - started))
    _resample.choose(_resample.PATH)
    return {f"{name}_{path}_ms": median(taken) for (name, path), taken in times.items()}


def main() -> None:
    """Measure, print and save."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("bundle", type=Path)
    options.add_argument("photo", type=Path)
    options.add_argument("--rounds", type=int, default=40)
    options.add_argument("--json", type=Path)
    chosen = options.parse_args()
    if not AVAILABLE:
        raise SystemExit("decoding in part was not built: it needs the headers of libjpeg-turbo")
    spec = open_bundle(chosen.bundle).manifest.preprocess
    found = []
    for width, height in SIZES:
        data = jpeg_of(chosen.photo, (width, height))
        times = times_of(data, spec, chosen.rounds)
        before = times["whole_avx2_ms"]
        ratios = {f"{way.removesuffix('_ms')}_ratio": ms / before for way, ms in times.items()}
        found.append({"size": f"{width} × {height}", "bytes": len(data), **times, **ratios})
        print(f"{width} × {height}:", ", ".join(f"{w} {ms:.2f}" for w, ms in times.items()))
    if chosen.json is not None:
        machine = {"cores": os.cpu_count(), "kernel": platform.release()}
        command = f"python -m tidegate.models.benchmarks.decoding … --rounds {chosen.rounds}"
        result = {"command": command, "machine": machine, "findings": found}
        text = json.dumps(result, ensure_ascii=False, indent=2) + "\n"
        chosen.json.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
