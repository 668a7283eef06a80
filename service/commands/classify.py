"""`tidegate classify`: classify folders, archives and tables without a server."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tidegate.service.commands import Commands
from tidegate.service.errors import JobRefused

EXIT_TERMINATED = 143  # what a shell reports for a program that SIGTERM ended


def add(commands: Commands) -> None:
    """Declare the command."""
    classify = commands.add_parser(
        "classify",
        help="classify folders, archives, tables or buckets of images into a file",
        description="Classify images with a bundle, as POST /classify does, without a server: one "
        "process for each core, one row for each image, in order.",
    )
    classify.add_argument(
        "sources",
        nargs="*",
        metavar="SOURCE",
        help="folder, image, .tar, .zip, .parquet, or s3://, gs://, az:// or https:// address",
    )
    classify.add_argument(
        "--list", metavar="FILE", help="file with one SOURCE per line; - reads the standard input"
    )
    classify.add_argument("--bundle", required=True, type=Path, help="bundle folder")
    classify.add_argument(
        "--out", required=True, type=Path, help="result: NAME.parquet, NAME.jsonl or NAME.csv"
    )
    columns = classify.add_argument_group("what a row has")
    columns.add_argument(
        "--top-k", type=_positive, default=5, metavar="N", help="classes per image (default: 5)"
    )
    columns.add_argument("--features", action="store_true", help="add the last layer's input")
    columns.add_argument(
        "--all-probabilities", action="store_true", help="add the probability of every class"
    )
    columns.add_argument(
        "--ood-action",
        choices=("reject", "flag"),
        default="reject",
        help="flag: rows of rejected images have their classes too (default: reject)",
    )
    columns.add_argument(
        "--column", default="image", help="column of .parquet sources (default: image)"
    )
    classify.add_argument(
        "--drift",
        type=Path,
        metavar="FILE",
        help="compare the set with the bundle's reference: NAME.html or NAME.json",
    )
    running = classify.add_argument_group("how it runs")
    running.add_argument(
        "--workers", type=_positive, metavar="N", help="processes (default: cores)"
    )
    running.add_argument(
        "--shard", type=_shard, default="1/1", metavar="I/N", help="only part I of N of the images"
    )
    running.add_argument("--engine", default="onnx-cpu", help="as TIDEGATE_ENGINE")
    running.add_argument(
        "--part-images",
        type=_positive,
        metavar="N",
        help="images written together (default: 10000; 1000 with --features or "
        "--all-probabilities)",
    )
    running.add_argument(
        "--image-timeout-s",
        type=_positive,
        metavar="S",
        help="seconds after which an image gets no answer (default: 60)",
    )
    running.add_argument(
        "--resume", action="store_true", help="go on with the unfinished job of this --out"
    )
    running.add_argument("--replace", action="store_true", help="replace --out, and begin again")
    running.add_argument(
        "--fail-on-error", action="store_true", help="exit with 1 if an image has no answer"
    )
    classify.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from tidegate.service.offline.run import Options, run

    options = Options(
        sources=tuple(arguments.sources),
        listing=arguments.list,
        column=arguments.column,
        bundle=arguments.bundle,
        out=arguments.out,
        top_k=arguments.top_k,
        features=arguments.features,
        all_probabilities=arguments.all_probabilities,
        rejected_too=arguments.ood_action == "flag",
        workers=arguments.workers,
        shard=arguments.shard,
        engine=arguments.engine,
        part_images=arguments.part_images,
        resume=arguments.resume,
        replace=arguments.replace,
        drift=arguments.drift,
        image_timeout_s=arguments.image_timeout_s,
    )
    try:
        with _stopped_by_sigterm():
            failed = run(options)
    except BrokenPipeError:
        raise
    except OSError as error:  # a full disk, or no permission to write
        raise JobRefused(
            f"{error.filename or options.out}: {error.strerror}. What is written stays for "
            "--resume."
        ) from error
    return 1 if failed and arguments.fail_on_error else 0


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """Exit at SIGTERM, which process 1 of a container would ignore."""

    def stop(*_: object) -> None:
        raise SystemExit(EXIT_TERMINATED)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _shard(text: str) -> tuple[int, int]:
    part, slash, parts = text.partition("/")
    if not (slash and part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with I from 1 to N, such as 3/16")
    return int(part), int(parts)
