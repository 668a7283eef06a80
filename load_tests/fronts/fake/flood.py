"""How many images the process of the engine takes from a front end that only sends: no HTTP.

    python flood.py BUNDLE SECONDS IN_FLIGHT

The engine is the fake one. It prints JSON: images/s, and the CPU of the process and of its event
loop per image.
"""

import asyncio
import importlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import uvloop

fake = importlib.import_module("sitecustomize")  # in the folder of this file


def _service(module: str) -> Any:
    return importlib.import_module(f"tidegate.service.{module}")


async def _feed(descriptors: list[int], slots: int, in_flight: int) -> None:
    """Send images, and release each slot with a note, as a front end does for an answer."""
    records, ring_module = _service("batching.records"), _service("batching.ring")
    layout = ring_module.Layout(*json.loads(sys.argv[6]))
    ring = ring_module.Ring(descriptors[1], slots, layout.size)
    link: Any = None
    pixels = [ring.views(slot, layout).pixels for slot in range(in_flight)]
    source = pixels[0].copy()

    def send(slot: int) -> None:
        pixels[slot][...] = source
        link.send(records.Record(records.Kind.READY, 0, 0, slot, time.monotonic() + 60))

    def take(done: Any) -> None:
        for record in done:
            link.send(records.Record(records.Kind.RELEASE, 0, slot=record.slot))
            send(record.slot)

    ended = asyncio.Event()
    link = _service("batching.link").Link(take, ended.set)
    connection = socket.socket(fileno=descriptors[0])
    connection.setblocking(False)
    await link.open(connection)
    for slot in range(in_flight):
        send(slot)
    await ended.wait()


async def _engine(bundle: Path, seconds: float, in_flight: int) -> dict[str, float]:
    opened = _service("bundle.store").open_bundle(bundle)
    task = opened.manifest.task
    shape = (task.height, task.width, task.classes, task.features, len(opened.gate.folds_a))
    ring_module, latency = _service("batching.ring"), _service("batching.latency")
    layout, engine = ring_module.Layout(*shape), fake.FakeEngine(opened)
    seeds = {size: 0.0003 + 0.000013 * size for size in (1, 2, 4, 8, 16, 32, 64)}
    limits = _service("batching.policy").Limits(64, 10**6)
    lane = _service("batching.lanes").Lane(engine, latency.LatencyModel(seeds), limits)
    scheduler = _service("batching.scheduler").Scheduler(
        lane,
        placement=_service("batching.placement").DecodePlacement(None, None),
        engine_timeout_s=60,
        metrics=_service("metrics").Metrics("flood"),
        on_failure=print,
    )
    ring = ring_module.Ring.create(in_flight, layout.size)
    ours, theirs = socket.socketpair()
    os.set_inheritable(ring.descriptor, True)
    command = [sys.executable, __file__, "feed", str(theirs.fileno()), str(ring.descriptor)]
    command += [str(in_flight), str(in_flight), json.dumps(shape)]
    feeder = subprocess.Popen(  # noqa: S603, ASYNC220 - this file; it returns at once
        command, pass_fds=[theirs.fileno(), ring.descriptor]
    )
    theirs.close()
    peer: Any = None
    link = _service("batching.link").Link(lambda records: peer.take(records), lambda: None)
    peer = _service("batching.peer").Peer(
        scheduler, link.send, {0: (lane, layout)}.get, lambda *_: None, lambda _: None
    )
    peer.rings.append(ring)
    ours.setblocking(False)
    await link.open(ours)
    while peer.images_read < 1000:  # noqa: ASYNC110 - records change it
        await asyncio.sleep(0.05)
    images, cpu, loop = peer.images_read, time.process_time(), time.thread_time()
    started = time.monotonic()
    await asyncio.sleep(seconds)
    images = peer.images_read - images
    took = time.monotonic() - started
    result = {
        "images_per_s": images / took,
        "cpu_us_per_image": 1e6 * (time.process_time() - cpu) / images,
        "loop_us_per_image": 1e6 * (time.thread_time() - loop) / images,
    }
    link.close()
    feeder.kill()
    feeder.wait()
    return result


if __name__ == "__main__":
    if sys.argv[1] == "feed":
        uvloop.run(_feed([int(sys.argv[2]), int(sys.argv[3])], int(sys.argv[4]), int(sys.argv[5])))
    else:
        print(
            json.dumps(uvloop.run(_engine(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))))
        )
        sys.stdout.flush()
        os._exit(0)  # the slots' threads wait for batches
