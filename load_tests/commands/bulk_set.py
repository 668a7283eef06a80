"""`python -m load_tests bulk-set`: write a large set of varied images as tar archives."""

import argparse
import itertools
import time
from pathlib import Path

from load_tests.bulk.image_set import ImageSet, write_shard
from load_tests.client.requests import find_images
from load_tests.commands.arguments import count, not_negative


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(
        prog="python -m load_tests bulk-set",
        description="Write a large, deterministic set of images as tar archives: parts of "
        "photographs, mirrored, lighter or darker, with broken and hostile files among them.",
    )
    options.add_argument("out", type=Path, metavar="OUT", help="folder, created if missing")
    options.add_argument(
        "--from", type=Path, dest="photographs", metavar="DIR", required=True, help="photographs"
    )
    options.add_argument("--count", type=count, default=2_000, help="images (default: %(default)s)")
    options.add_argument(
        "--bad", type=not_negative, default=0.05, help="share of bad files (default: %(default)s)"
    )
    options.add_argument(
        "--shard-images", type=count, default=2_000, help="in an archive (default: %(default)s)"
    )
    options.add_argument("--seed", type=int, default=0)
    return options


def run(options: argparse.Namespace, command_line: str) -> int:
    """Write the archives that are missing, and print their size."""
    images = ImageSet(find_images(options.photographs), options.bad, options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    began, size = time.monotonic(), 0
    for shard in itertools.count():
        numbers = range(options.count)[shard * options.shard_images :][: options.shard_images]
        if not numbers:
            break
        path = options.out / f"shard-{shard:03}.tar"
        partial = path.with_suffix(".part")
        if not path.exists():
            write_shard(images, numbers, partial)
            partial.replace(path)
        size += path.stat().st_size
    print(
        f"{options.count} images in {options.out}, {size / 1e6:,.0f} MB, "
        f"{time.monotonic() - began:.0f} s"
    )
    return 0
