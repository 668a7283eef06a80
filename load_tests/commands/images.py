"""`python -m load_tests images`: write the images of a load test."""

import argparse
from collections.abc import Iterable
from pathlib import Path

from load_tests.client.requests import find_images
from load_tests.client.synthetic_images import (
    QUALITY,
    SIZE,
    Picture,
    generated,
    generated_mix,
    turned,
)
from load_tests.commands.arguments import count


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(
        prog="python -m load_tests images",
        description="Write deterministic test images: photographs rotated by 0, 7, 14 degrees and "
        "so on and cropped to one size, or generated images.",
    )
    options.add_argument("out", type=Path, metavar="OUT", help="folder, created if missing")
    source = options.add_mutually_exclusive_group()
    source.add_argument(
        "--from", type=Path, dest="photographs", metavar="DIR", help="folder of photographs"
    )
    source.add_argument("--mix", action="store_true", help="generate several sizes and formats")
    options.add_argument(
        "--size", type=_size, default=SIZE, metavar="WxH", help="pixels (default: 500x375)"
    )
    options.add_argument("--count", type=count, default=18, help="images (default: %(default)s)")
    options.add_argument(
        "--quality", type=_quality, default=QUALITY, help="of JPEG and WebP (default: %(default)s)"
    )
    options.add_argument("--seed", type=int, default=0, help="of generated images")
    return options


def run(options: argparse.Namespace, command_line: str) -> int:
    """Write the images and print their mean size."""
    pictures = _pictures(options)
    options.out.mkdir(parents=True, exist_ok=True)
    sizes = []
    for picture in pictures:
        (options.out / picture.name).write_bytes(picture.data)
        sizes.append(len(picture.data))
    mean_kb = sum(sizes) / len(sizes) / 1000
    print(f"{len(sizes)} images in {options.out}, {mean_kb:.1f} kB each on average")
    return 0


def _pictures(options: argparse.Namespace) -> Iterable[Picture]:
    if options.photographs:
        photographs = find_images(options.photographs)
        return turned(photographs, options.count, options.size, options.quality)
    if options.mix:
        return generated_mix(options.count, options.quality, options.seed)
    return generated(options.count, options.size, options.quality, options.seed)


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"expected a size such as 500x375, got {text}")
    return int(width), int(height)


def _quality(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 95:
        raise argparse.ArgumentTypeError(f"expected a quality from 1 to 95, got {text}")
    return int(text)
