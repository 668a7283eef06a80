"""How many images the process of the engine takes from a front end that only sends: no HTTP.

    python flood.py BUNDLE SECONDS IN_FLIGHT [observed]

The engine is the fake one. With `observed` every answer has a note, which goes to the metrics, the
drift monitors and the recent answers, as it does in the service. It prints a line when it begins to
measure, and then JSON: images/s, images per batch, and the CPU of the process and of its event loop
per image.
"""

import asyncio
import gc
import importlib
import itertools
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import uvloop

fake = importlib.import_module("sitecustomize")  # in the folder of this file
_NOTES = 64  # different ones
_CLIENTS = _NOTES // 2  # so that the last image of the same client is unlike the next one


def _service(module: str) -> Any:
    return importlib.import_module(f"tidegate.service.{module}")


def _notes(layout: Any) -> list[bytes]:
    """Return notes of different images and clients, so that each image counts."""
    rng, observing = np.random.default_rng(0), _service("observing")
    fingerprint = _service("drift.duplicates").Fingerprint
    made = []
    for number in range(_NOTES):
        seen = observing.Observation(
            tag=observing.Tag(f"{number:032x}"),
            client=f"10.0.0.{number % _CLIENTS}",
            received=time.monotonic(),
            time=time.time(),
            class_id=int(rng.integers(layout.classes)),
            probability=float(rng.random()),
            decision="accept",
            p_value=float(rng.random()),
            scores=tuple(rng.random(layout.scores).tolist()),
            fingerprint=fingerprint(number, rng.random(64, np.float32) * 255, 70.0),
            features=np.zeros(0, np.float32),
            total_s=0.002,
            queue_s=0.0005,
            decode_s=0.001,
            engine_s=0.0005,
            gates_s=0.0001,
        )
        made.append(_service("fronts.notes").pack_note(seen))
    return made


async def _feed(
    descriptors: list[int], slots: int, in_flight: int, layout: Any, *, noted: bool
) -> None:
    """Send images, and release each slot, with a note if asked to, as a front end does."""
    records, ring_module = _service("batching.records"), _service("batching.ring")
    ring = ring_module.Ring(descriptors[1], slots, layout.size)
    link: Any = None
    views = [ring.views(slot, layout) for slot in range(in_flight)]
    source = views[0].pixels.copy()
    notes = itertools.cycle(_notes(layout) if noted else [b""])
    images = itertools.count(_NOTES)

    def send(slot: int) -> None:
        views[slot].pixels[...] = source
        link.send(records.Record(records.Kind.READY, 0, 0, slot, time.monotonic() + 60))

    def take(done: Any) -> None:
        for record in done:
            if note := next(notes):
                fingerprint_at = 9 * 8  # the number of the image's pixels, after nine times
                note = b"%b%b%b" % (
                    note[:fingerprint_at],
                    next(images).to_bytes(8, "little"),
                    note[fingerprint_at + 8 :],
                )
                views[record.slot].note[: len(note)] = note
            link.send(records.Record(records.Kind.RELEASE, bool(note), slot=record.slot))
            send(record.slot)

    ended = asyncio.Event()
    link = _service("batching.link").Link(take, ended.set)
    connection = socket.socket(fileno=descriptors[0])
    connection.setblocking(False)
    await link.open(connection)
    for slot in range(in_flight):
        send(slot)
    await ended.wait()


def _observing(bundle: Any, lane: Any) -> Any:
    """Return what takes notes: all of the service's, around one version."""
    reference = _service("bundle_reference")
    model_metrics = _service("metrics").ModelMetrics(
        reference.served_model(bundle, lane.engine.info, 100)
    )
    monitor = _service("drift.monitor").Monitor(reference.drift_reference(bundle))
    observer = _service("observing").VersionObserver(lane.statistics, model_metrics, monitor)
    served = SimpleNamespace(bundle=bundle, lane=lane, observer=observer, name=bundle.manifest.name)
    service = _service("lifecycle").Service
    fake_service = SimpleNamespace(
        loaded=lambda: [served],
        catalog=SimpleNamespace(models={}),
        answers=_service("review.recent_answers").RecentAnswers(),
    )
    vars(fake_service)["remember_observed"] = service.remember_observed.__get__(fake_service)
    return _service("fronts.observations").Observations(fake_service)


async def _engine(
    bundle: Path, seconds: float, in_flight: int, *, observed: bool
) -> dict[str, float]:
    opened = _service("bundle.store").open_bundle(bundle)
    task = opened.manifest.task
    shape = (task.height, task.width, task.classes, task.features, len(opened.gate.folds_a))
    ring_module, latency = _service("batching.ring"), _service("batching.latency")
    layout, engine = ring_module.Layout(*shape), fake.FakeEngine(opened)
    seeds = {size: 0.0003 + 0.000013 * size for size in (1, 2, 4, 8, 16, 32, 64)}
    limits = _service("batching.policy").Limits(64, 10**6)
    lane = _service("batching.lanes").Lane(engine, latency.LatencyModel(seeds), limits)
    metrics = _service("metrics").Metrics("flood")
    scheduler = _service("batching.scheduler").Scheduler(
        lane,
        placement=_service("batching.placement").DecodePlacement(None, None),
        engine_timeout_s=60,
        metrics=metrics,
        on_failure=print,
    )
    ring = ring_module.Ring.create(in_flight, layout.size)
    ours, theirs = socket.socketpair()
    os.set_inheritable(ring.descriptor, True)
    command = [sys.executable, __file__, "feed", str(theirs.fileno()), str(ring.descriptor)]
    command += [str(in_flight), str(in_flight), json.dumps(shape), str(int(observed))]
    feeder = subprocess.Popen(  # noqa: S603, ASYNC220 - this file; it returns at once
        command, pass_fds=[theirs.fileno(), ring.descriptor]
    )
    theirs.close()
    peer: Any = None
    link = _service("batching.link").Link(lambda records: peer.take(records), lambda: None)
    peer = _service("batching.peer").Peer(
        scheduler,
        link.send,
        {0: (lane, layout)}.get,
        _observing(opened, lane).noted if observed else lambda *_: None,
        lambda _: None,
    )
    peer.rings.append(ring)
    ours.setblocking(False)
    await link.open(ours)
    while peer.images_read < 1000:  # noqa: ASYNC110 - records change it
        await asyncio.sleep(0.05)
    gc.collect()
    gc.freeze()  # as the service does when it is ready
    print("measuring", flush=True)
    images, cpu, loop = peer.images_read, time.process_time(), time.thread_time()
    batches = sum(total.count for total in lane.statistics.batches.values())
    started = time.monotonic()
    await asyncio.sleep(seconds)
    images = peer.images_read - images
    batches = sum(total.count for total in lane.statistics.batches.values()) - batches
    took = time.monotonic() - started
    result = {
        "images_per_s": images / took,
        "images_per_batch": images / batches,
        "cpu_us_per_image": 1e6 * (time.process_time() - cpu) / images,
        "loop_us_per_image": 1e6 * (time.thread_time() - loop) / images,
    }
    link.close()
    feeder.kill()
    feeder.wait()
    return result


def main() -> None:
    """Run one of the two processes."""
    if sys.argv[1] == "feed":
        records, ring, slots, in_flight = map(int, sys.argv[2:6])
        layout = _service("batching.ring").Layout(*json.loads(sys.argv[6]))
        noted = sys.argv[7] == "1"
        uvloop.run(_feed([records, ring], slots, in_flight, layout, noted=noted))
        return
    bundle, seconds, in_flight = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    observed = sys.argv[4:] == ["observed"]
    print(json.dumps(uvloop.run(_engine(bundle, seconds, in_flight, observed=observed))))
    sys.stdout.flush()
    os._exit(0)  # the slots' threads wait for batches


if __name__ == "__main__":
    main()
