"""`tidegate gate-cost`: time the gate per image, in the graph and on the host."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from tidegate.models.fitting.candidates import with_candidates
from tidegate.models.graphs.last_layer import LastLayer
from tidegate.models.graphs.session import quiet_session
from tidegate.models.sealing.gate_head import GateHead, head_graph
from tidegate.models.sealing.score_heads import Linear
from tidegate.models.sealing.seal import without_gate
from tidegate.models.sealing.unseal import unseal
from tidegate.service.bundle.store import open_bundle
from tidegate.service.ood.conformal import TailedFold
from tidegate.service.ood.gates import FinalFold, Gate

_ROUNDS = 200
_FOLD = 10_000
_BATCHES = (1, 2, 4, 8)


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
    options.add_argument(
        "--bundle",
        type=Path,
        help="time the whole gate of this bundle, in turns with its network alone, instead",
    )
    return options


def run(options: argparse.Namespace) -> None:
    """Print the median time per image for each batch size, and for one decision."""
    rng = np.random.default_rng(0)
    if options.bundle is not None:
        _of_bundle(options.bundle, rng)
        return
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
    for batch in _BATCHES:
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


def _of_bundle(path: Path, rng: np.random.Generator) -> None:
    """Print what part of the network's CPU time the gate takes, in the graph."""
    bundle = open_bundle(path)
    sealed, spec = bundle.model_path.read_bytes(), bundle.manifest.preprocess
    network = quiet_session(without_gate(unseal(sealed), spec))
    whole = quiet_session(sealed)
    for batch in _BATCHES:
        given = {"pixels": rng.integers(0, 256, (batch, *spec.output_size, 3), np.uint8)}
        both = partial(network.run, None, given), partial(whole.run, None, given)
        ratios = sorted(_ratio(both, turn % 2) for turn in range(_ROUNDS))
        # The median of independent values is between these with a probability of 95 %.
        margin = math.ceil(0.98 * math.sqrt(_ROUNDS))
        middle = [ratios[_ROUNDS // 2 + place] for place in (0, -margin, margin)]
        part, low, high = (100 * (ratio - 1) for ratio in middle)
        print(f"batch of {batch}: {part:.1f} % of the network ({low:.1f} to {high:.1f})")


def _ratio(both: tuple[Callable[[], object], Callable[[], object]], first: int) -> float:
    """Return the CPU time of the second divided by that of the first, run in turns."""
    took = [0, 0]
    for place in (first, 1 - first, 1 - first, first):
        started = time.thread_time_ns()
        both[place]()
        took[place] += time.thread_time_ns() - started
    return took[1] / took[0]


def _median_s(work: Callable[[], object]) -> float:
    times = []
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return float(np.median(times))
