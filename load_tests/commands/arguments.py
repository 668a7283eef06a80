"""Options and number types that several commands share."""

import argparse
from pathlib import Path

FORMS = ("raw", "multipart")


def add_target(parser: argparse.ArgumentParser) -> None:
    """Add the options for the images, the server and the result file."""
    parser.add_argument("--url", default="http://127.0.0.1:8000/classify")
    parser.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="folder, searched recursively (default: a generated mix of sizes and formats)",
    )
    parser.add_argument("--form", choices=FORMS, default="raw", help="encoding of the request body")
    parser.add_argument(
        "--timeout-s", type=positive, default=10.0, help="counted from the intended send time"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="OUT", help="save the result and the hardware")


def positive(text: str) -> float:
    """Parse a finite number above 0."""
    value = _number(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text}")
    return value


def not_negative(text: str) -> float:
    """Parse a finite number of at least 0."""
    value = _number(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected 0 or more, got {text}")
    return value


def count(text: str) -> int:
    """Parse an integer of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text}")
    return int(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, got {text}") from None
