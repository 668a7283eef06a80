"""The bare loop: decode, preprocess and run one image after another, without a server.

The difference between a server and this loop is the server's overhead. The work is that of
`load_tests.peers.plain_classifier`. `load_tests.comparison.baseline` starts this process and
controls it line by line: `<seconds>` or `<seconds> <threads>` on stdin starts a round, and one JSON
object on stdout reports it. More than one thread is only for the model and for the latency of a
single image: several such loops would compete for the cores.
"""

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from load_tests.client.requests import find_images
from load_tests.peers.plain_classifier import Classifier

_WARM_UP_IMAGES = 8


def run_round(classifier: Classifier, images: Iterator[bytes], seconds: float) -> dict[str, float]:
    """Return images, wall and CPU seconds (all threads of this process), median ms per image."""
    times: list[float] = []
    begun = now = time.monotonic()
    cpu = time.process_time()
    while now - begun < seconds:
        classifier.logits([classifier.recipe.prepare(next(images))])
        before, now = now, time.monotonic()
        times.append(now - before)
    return {
        "images": len(times),
        "wall_s": now - begun,
        "cpu_s": time.process_time() - cpu,
        "p50_ms": median(times) * 1e3,
    }


def main() -> None:
    """Load the model, report it, then run a round for each line of input."""
    parser = argparse.ArgumentParser(
        prog="python -m load_tests.comparison.baseline_process", description=__doc__
    )
    parser.add_argument(
        "--model", type=Path, required=True, help="folder, see load_tests.peers.plain_classifier"
    )
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--offset", type=int, default=0, help="index of the first image")
    parser.add_argument(
        "--threads", type=int, nargs="*", default=[1], help="numbers that rounds can use"
    )
    args = parser.parse_args()

    encoded = [path.read_bytes() for path in find_images(args.images)]
    images = itertools.islice(itertools.cycle(encoded), args.offset, None)
    classifiers = {threads: Classifier(args.model, threads) for threads in args.threads}
    for classifier in classifiers.values():
        for data in encoded[:_WARM_UP_IMAGES]:
            classifier.logits([classifier.recipe.prepare(data)])
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        seconds, _, threads = line.partition(" ")
        result = run_round(classifiers[int(threads or 1)], images, float(seconds))
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
