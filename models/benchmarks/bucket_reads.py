"""Reading a bucket ahead, against one object after the other, from a store with a delay.

    python -m tidegate.models.benchmarks.bucket_reads [--delay-ms 30] [--processes 2] [--json OUT]

The store is a local server with the interface of S3 that answers each request after the delay, as
over a network. The objects are read as `tidegate classify` reads them, in turns.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

from tidegate.service.offline.read_ahead import entries, threads_for
from tidegate.service.offline.sources import items
from tidegate.service.settings import Settings

BUCKET = "slow"
_OBJECT_BYTES = 100_000  # of a photograph of 500 × 375


def measure(delay_s: float, processes: int, objects: int, turns: int) -> dict[str, float]:
    """Return the objects a second of both ways, the median of their ratios, and the threads."""
    content = random.Random(0).randbytes(_OBJECT_BYTES)  # noqa: S311  # no secret
    threads = threads_for(processes)
    with slow_store(objects, content, delay_s) as environment:
        os.environ.update(environment)
        pairs = [(_per_s(objects, 1), _per_s(objects, threads)) for _ in range(turns)]
    return {
        "one_by_one_per_s": median(one for one, _ in pairs),
        "ahead_per_s": median(ahead for _, ahead in pairs),
        "ratio": median(ahead / one for one, ahead in pairs),
        "threads": threads,
    }


def _per_s(objects: int, threads: int) -> float:
    """Return the objects a second, without the listing."""
    most = int(Settings.model_fields["max_upload_bytes"].default)
    found = entries(enumerate(items([f"s3://{BUCKET}"], None, "image")), most, threads)
    next(found)
    began = time.monotonic()
    sizes = [len(content) for _, _, content in found if isinstance(content, bytes)]
    if sizes != [_OBJECT_BYTES] * (objects - 1):
        raise SystemExit("the objects were not read whole")
    return len(sizes) / (time.monotonic() - began)


@contextmanager
def slow_store(objects: int, content: bytes, delay_s: float) -> Iterator[dict[str, str]]:
    """Serve `objects` times the same content, at most a thousand; yield the environment for it."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            time.sleep(delay_s)
            is_list = urlsplit(self.path).path.strip("/") == BUCKET
            body = _listing(objects, len(content)) if is_list else content
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Last-Modified", "Mon, 30 Nov 2026 00:00:00 GMT")
            self.send_header("ETag", '"1"')
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True  # its connections stay open
        server.block_on_close = False
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield {
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
                "AWS_ALLOW_HTTP": "true",
                "AWS_ACCESS_KEY_ID": "key",
                "AWS_SECRET_ACCESS_KEY": "secret",
                "AWS_REGION": "us-east-1",
            }
        finally:
            server.shutdown()
            thread.join()


def _listing(objects: int, size: int) -> bytes:
    rows = "".join(
        f"<Contents><Key>{number:06}.jpg</Key><LastModified>2026-11-30T00:00:00.000Z</LastModified>"
        f'<ETag>"1"</ETag><Size>{size}</Size></Contents>'
        for number in range(objects)
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult><IsTruncated>false</IsTruncated>'
        f"{rows}</ListBucketResult>"
    ).encode()


def main() -> None:
    """Measure, print and save."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--delay-ms", type=float, default=30.0)
    options.add_argument("--processes", type=int, default=2)
    options.add_argument("--objects", type=int, default=200)
    options.add_argument("--turns", type=int, default=5)
    options.add_argument("--json", type=Path)
    chosen = options.parse_args()
    found = measure(chosen.delay_ms / 1e3, chosen.processes, chosen.objects, chosen.turns)
    print(", ".join(f"{name} {value:.4g}" for name, value in found.items()))
    if chosen.json is not None:
        words = f"--delay-ms {chosen.delay_ms:g} --processes {chosen.processes}"
        result = {
            "command": f"python -m tidegate.models.benchmarks.bucket_reads {words}",
            "machine": {"cores": os.cpu_count(), "kernel": platform.release()},
            "delay_ms": chosen.delay_ms,
            **found,
        }
        chosen.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
