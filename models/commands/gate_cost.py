"""`tidegate gate-cost`: time the gate per image, in the graph and on the host."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from tidegate.models.graphs.session import quiet_session
from tidegate.models.sealing.gate_head import GateHead, head_graph
from tidegate.service.ood.gates import FinalFold, Gate

_ROUNDS = 200
_FOLD = 10_000


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(
        prog="tidegate gate-cost",
        description="Time the gate's nodes on one CPU thread, and the p-values of one image.",
    )
    options.add_argument(
        "--features", type=int, default=1280, help="feature width (default: %(default)s)"
    )
    options.add_argument(
        "--classes", type=int, default=1000, help="number of classes (default: %(default)s)"
    )
    return options


def run(options: argparse.Namespace) -> None:
    """Print the median time per image for each batch size, and for one decision."""
    rng = np.random.default_rng(0)
    features, classes = options.features, options.classes
    head = GateHead(
        energy_temperature=1.0,
        centre=np.zeros(features),
        whitening=np.tril(rng.normal(size=(features, features))),
        means=rng.normal(size=(classes, features)),
        normalise=True,
        offset=rng.normal(0, 0.01, features),
    )
    session = quiet_session(head_graph(head))
    for batch in (1, 2, 4, 8):
        given = {
            "logits": rng.normal(size=(batch, classes)).astype(np.float32),
            "features": rng.normal(size=(batch, features)).astype(np.float32),
        }
        took = _median_s(partial(session.run, None, given)) / batch
        print(f"scores, batch of {batch}: {1e3 * took:.3f} ms per image")
    fold = np.sort(rng.normal(size=_FOLD))
    gate = Gate(fold, fold, FinalFold.marginal(np.sort(-rng.random(_FOLD))), 0.01, 0.05)
    scores = rng.normal(size=(_ROUNDS, 2)).tolist()

    def verdicts() -> None:
        for energy, mahalanobis in scores:
            gate.judge(energy, mahalanobis, 0)

    print(f"p-values and decision: {1e6 * _median_s(verdicts) / _ROUNDS:.1f} µs per image")


def _median_s(work: Callable[[], object]) -> float:
    times = []
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return float(np.median(times))
