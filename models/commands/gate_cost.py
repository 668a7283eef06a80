"""`tidegate gate-cost`: time the gate per image, in the graph and on the host."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from tidegate.models.fitting.candidates import with_candidates
from tidegate.models.graphs.last_layer import LastLayer
from tidegate.models.graphs.session import quiet_session
from tidegate.models.sealing.gate_head import GateHead, head_graph
from tidegate.models.sealing.score_heads import Linear
from tidegate.service.ood.conformal import TailedFold
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
    options.add_argument(
        "--rank", type=int, default=256, help="rank of the reduced distance (default: %(default)s)"
    )
    return options


def run(options: argparse.Namespace) -> None:
    """Print the median time per image for each batch size, and for one decision."""
    rng = np.random.default_rng(0)
    features, classes = options.features, options.classes
    full = GateHead(
        energy_temperature=1.0,
        centre=np.zeros(features),
        whitening=rng.normal(size=(features, features)),
        means=rng.normal(size=(classes, features)),
        normalise=True,
        offset=rng.normal(0, 0.01, features),
    )
    rank = min(options.rank, features)
    head = replace(
        full,
        basis=rng.normal(size=(features, rank)),
        whitening=rng.normal(size=(rank, rank)),
        means=rng.normal(size=(classes, rank)),
    )
    layer = LastLayer(rng.normal(size=(classes, features)), np.zeros(classes))
    every = with_candidates(head, 1.0, layer, Linear(rng.normal(size=features)))
    for batch in (1, 2, 4, 8):
        given = {
            "logits": rng.normal(size=(batch, classes)).astype(np.float32),
            "features": rng.normal(size=(batch, features)).astype(np.float32),
        }
        heads = {
            f"energy + mahalanobis of rank {features}": full,
            f"energy + mahalanobis of rank {rank}": head,
            **{f"these + {name}": every.with_scores((name,)) for name in every.others},
        }
        for name, timed in heads.items():
            session = quiet_session(head_graph(timed))
            took = _median_s(partial(session.run, None, given)) / batch
            print(f"{name}, batch of {batch}: {1e3 * took:.3f} ms per image")
    fold = TailedFold.of(np.sort(rng.normal(size=_FOLD)))
    final = FinalFold.marginal(np.sort(rng.exponential(size=_FOLD)))
    gate = Gate(dict.fromkeys(every.names, fold), every.names, final, 0.01, 0.05)
    images = rng.normal(size=(_ROUNDS, len(every.names))).tolist()

    def verdicts() -> None:
        for scores in images:
            gate.judge(scores, 0)

    print(f"p-values and decision: {1e6 * _median_s(verdicts) / _ROUNDS:.1f} µs per image")


def _median_s(work: Callable[[], object]) -> float:
    times = []
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return float(np.median(times))
