"""The bare loop: the same images, decoded, cropped, resized and run with nothing around them.

What a server adds to this is its overhead. The preprocessing is written out here on its own,
because load tests see only HTTP: it is the demo model's (RGB, EXIF applied, centre crop of side
int(S/(S+32)·min(w, h)), bicubic to S). A child process of `load_tests.overhead`, which it obeys
line by line: `<seconds>` on stdin starts a round, one JSON object on stdout answers it.
"""

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from PIL import Image, ImageOps

from load_tests.images import find_images

_WARM_UP_IMAGES = 8


def preprocess(data: bytes, size: int) -> NDArray[np.uint8]:  # [1, size, size, 3]
    """Encoded bytes to the pixels that the demo graph takes."""
    with Image.open(BytesIO(data)) as opened:
        image = ImageOps.exif_transpose(opened).convert("RGB")
    side = int(size / (size + 32) * min(image.size))
    left, top = ((dim - side + 1) // 2 for dim in image.size)
    square = image.crop((left, top, left + side, top + side))
    return np.asarray(square.resize((size, size), Image.Resampling.BICUBIC))[np.newaxis]


def single_threaded_session(model: Path) -> ort.InferenceSession:
    """One thread that never spins, as a fair single-core baseline."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def run_round(
    session: ort.InferenceSession, images: Iterator[bytes], seconds: float
) -> dict[str, float]:
    """Images, wall and CPU seconds (all threads of this process) of one round."""
    source = session.get_inputs()[0]  # pixels: uint8 [batch, S, S, 3]
    count, wall, cpu = 0, time.monotonic(), time.process_time()
    while time.monotonic() - wall < seconds:
        session.run(None, {source.name: preprocess(next(images), source.shape[1])})
        count += 1
    return {
        "images": count,
        "wall_s": time.monotonic() - wall,
        "cpu_s": time.process_time() - cpu,
    }


def main() -> None:
    """Load once, say so, then run a round for each line read; end of input ends the process."""
    parser = argparse.ArgumentParser(prog="python -m load_tests.bare", description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--offset", type=int, default=0, help="index of the first image")
    args = parser.parse_args()

    encoded = [path.read_bytes() for path in find_images(args.images)]
    images = itertools.islice(itertools.cycle(encoded), args.offset, None)
    session = single_threaded_session(args.model)
    source = session.get_inputs()[0]
    for data in encoded[:_WARM_UP_IMAGES]:
        session.run(None, {source.name: preprocess(data, source.shape[1])})
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(run_round(session, images, float(line))), flush=True)


if __name__ == "__main__":
    main()
