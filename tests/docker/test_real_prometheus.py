"""A real Prometheus that scrapes two replicas' registries gives the same numbers as NumPy."""

import json
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.docker import boards
from tests.docker.class_mix import class_mix
from tests.docker.programs import prometheus
from tests.fakes import FakeNvml
from tests.http_server import QuietHandler, serving
from tests.unit.models.retrain.world import payload
from tidegate.models.retrain.alerts import Notification, drifts
from tidegate.models.retrain.evidence import gather, serving_state
from tidegate.models.retrain.prometheus import Prometheus
from tidegate.service.bundle.manifest import SMOOTHING
from tidegate.service.metrics import Metrics, ModelMetrics, ServedModel
from tidegate.service.metrics.tables import MODEL_INFO
from tidegate.service.nvml import GpuCollector

ROOT = Path(__file__).parents[2]
RULES = ROOT / "docker" / "prometheus" / "rules"
PATIENCE_S = 120
CLASSES, SAMPLES, IMAGES = 40, 500, 1600
DISPERSION = 8  # as long as no neighbouring windows are known
INFO = dict.fromkeys(MODEL_INFO, "x")


class Replica:
    """One instance's metrics behind a real HTTP server."""

    def __init__(self, reference: NDArray[np.int64], digest: str = "d") -> None:
        self.metrics = Metrics("0")
        self.metrics.set_clients(frozenset({"shop"}))
        smoothed = (reference + SMOOTHING) / (reference + SMOOTHING).sum()
        self.model = ModelMetrics(
            ServedModel(
                name="m",
                version="1",
                digest=digest,
                info=INFO,
                labels=[f"class {c}" for c in range(CLASSES)],
                class_fraction=smoothed.tolist(),
                reference_samples=int(reference.sum()),
                alphas={"reject": 0.005, "review": 0.05},
                calibration_samples=500,
                scores=("energy", "mahalanobis"),
                score_bounds=[0.0],
                max_class_series=10,
                confidence_at_most={0.5: 0.2},
            ),
        )
        self.metrics.show_model(self.model)
        self.metrics.start_reloads("m")
        self.metrics.set_aliases([("m", "1", digest, "stable")])
        self.metrics.registry.register(GpuCollector(FakeNvml(gpus=1)))
        self.scrapes = 0

    def predict(self, classes: Sequence[int]) -> None:
        for c in classes:
            self.model.predicted(c, 0.75)
            self.model.decided("accept", 0.5, (-9.0, 1.0))

    def serve(self, images: int) -> None:
        """Record the metrics of a replica that answers `images` images and rejects one."""
        metrics, drift = self.metrics, self.model.drift
        for place in range(images):
            self.predict([place % CLASSES])
            self.model.decided("review", 0.02, (-9.0, 1.0))
            metrics.request("/classify", 200, 0.02)
            metrics.client_request("shop", 200)
            for stage in metrics.stages.values():
                stage.observe(0.002)
            metrics.batch_size.observe(1)
            metrics.batch_parts({"copy_in": 0.001, "compute": 0.01, "copy_out": 0.001})
            metrics.slot_busy.inc(0.01)
        metrics.request("/classify", 503, 0.001)
        metrics.shed("queue-full")
        metrics.reviewed("stored")
        self.model.feedback(0.8, correct=True)
        for detector in ("ood-rate", "class-mix"):
            drift.detector(detector, alarm=False, evidence=0.1)
        drift.learned({"ood-rate": 1.0, "class-mix": 1.0}, 7, 0)
        drift.histogram("p-value", alarm=False, z=0.1, psi_excess=0.0)
        drift.embedding(alarm=False, z=0.1, distance=0.0)
        drift.expected_accuracy(0.9)
        drift.label_shift([1 / CLASSES] * CLASSES, 0.1)


@contextmanager
def _served(replica: Replica) -> Iterator[str]:
    """Serve the replica's metrics; yield the address."""

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            body = replica.metrics.render()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            replica.scrapes += 1

    with serving(Handler) as port:
        yield f"127.0.0.1:{port}"


def _query(url: str, expression: str, from_now_s: float = 0) -> dict[tuple[str, str], float]:
    """Return (record, class) → value at `from_now_s` from now; empty while it starts."""
    query = urllib.parse.urlencode({"query": expression, "time": time.time() + from_now_s})
    try:
        with urllib.request.urlopen(f"{url}/api/v1/query?{query}", timeout=10) as answer:  # noqa: S310  # loopback
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    except (urllib.error.URLError, ConnectionError):
        return {}
    return {
        (one["metric"].get("__name__", ""), one["metric"].get("class", "")): float(one["value"][1])
        for one in found
    }


def _wait_for(reached: Callable[[], bool], else_say: Callable[[], str] = str) -> None:
    """Poll a state of another process, which sends no event."""
    pause = threading.Event()
    end = time.monotonic() + PATIENCE_S
    while not reached():
        assert time.monotonic() < end, else_say()
        pause.wait(0.2)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_promql_on_two_scraped_replicas_equals_numpy(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    mix = 1 / np.arange(1, CLASSES + 1)
    reference = rng.multinomial(SAMPLES, mix / mix.sum())
    mix[5] *= 3
    drawn = rng.choice(CLASSES, IMAGES, p=mix / mix.sum())
    replicas = [Replica(reference), Replica(reference)]

    with ExitStack() as stack:
        addresses = [stack.enter_context(_served(replica)) for replica in replicas]
        url = stack.enter_context(prometheus(tmp_path, *addresses)).url
        _wait_for(lambda: all(replica.scrapes >= 2 for replica in replicas))
        for replica, part in zip(replicas, np.array_split(drawn, 2), strict=True):
            replica.predict(part.tolist())
        _wait_for(lambda: _settled(url))
        # A time at which every rule has been evaluated.
        recorded = _query(url, '{__name__=~"tidegate:.*1h|tidegate:class_reference:samples"}', -3)

    observed = _by_class(recorded, "tidegate:class_predictions:increase1h")
    sealed = _by_class(recorded, "tidegate:class_reference:samples")
    assert sealed == pytest.approx(reference)
    # increase() extrapolates each replica's samples by half a scrape interval at either end.
    assert observed == pytest.approx(np.bincount(drawn, minlength=CLASSES), rel=0.15)
    for name, value in class_mix(observed / DISPERSION, sealed).items():
        assert recorded[name, ""] == pytest.approx(value, rel=1e-3, abs=1e-3), name


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_requests_evidence_is_of_one_of_two_bundles_with_one_version(tmp_path: Path) -> None:
    digests, images = ("a" * 12, "b" * 12), (200, 100)
    replicas = [Replica(np.full(CLASSES, 20), digest) for digest in digests]
    total = "sum(tidegate_ood_decisions_total)"

    with ExitStack() as stack:
        addresses = [stack.enter_context(_served(replica)) for replica in replicas]
        url = stack.enter_context(prometheus(tmp_path, *addresses)).url
        _wait_for(lambda: all(replica.scrapes >= 2 for replica in replicas))
        for replica, count in zip(replicas, images, strict=True):
            replica.serve(count)
        seen = f"min(count_over_time(({total} == {2 * sum(images)})[1m:1s]))"
        _wait_for(lambda: _query(url, seen).get(("", ""), 0.0) >= 10)
        for digest, count in zip(digests, images, strict=True):
            alert = payload(job="tidegate", model="m", version="1", digest=digest, window="1h")
            [drift] = drifts(Notification.parse(json.dumps(alert).encode()))
            state = serving_state(Prometheus(url), drift.subject, time.time())
            evidence, labels = gather(Prometheus(url), drift, time.time())

            assert state.digests == {digest}
            assert len(state.instances) == 1
            assert evidence["missing"] == []
            # serve() counts an accepted and a reviewed image for each image.
            assert evidence["ood"]["images"] == pytest.approx(2 * count, rel=0.15)
            assert evidence["windows"]["1h"]["predictions:increase"] == pytest.approx(
                count, rel=0.15
            )
            assert evidence["monitors"]["embedding"] == {"alarm": 0.0, "z": 0.1}
            assert {row["label"] for row in evidence["shifted_classes"]} <= set(labels.values())
            assert labels["7"] == "class 7"


def _by_class(recorded: dict[tuple[str, str], float], name: str) -> NDArray[np.float64]:
    return np.array([recorded[name, str(c)] for c in range(CLASSES)])


def _settled(url: str) -> bool:
    """Return whether ten seconds of the final counts have been recorded."""
    seen = _query(
        url, f"min(count_over_time((sum(tidegate_predictions_total) == {IMAGES})[1m:1s]))"
    )
    return seen.get(("", ""), 0.0) >= 10


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_panel_has_series_on_a_real_prometheus(tmp_path: Path) -> None:
    """The replicas answer, reject and receive feedback."""
    replicas = [Replica(np.full(CLASSES, 20)) for _ in range(2)]

    with ExitStack() as stack:
        addresses = [stack.enter_context(_served(replica)) for replica in replicas]
        url = stack.enter_context(prometheus(tmp_path, *addresses)).url
        _wait_for(lambda: all(replica.scrapes >= 2 for replica in replicas))
        for replica in replicas:
            replica.serve(600)
        missing = {query for board in boards.BOARDS for _, query in boards.queries(board)}

        def all_answered() -> bool:
            missing.difference_update([query for query in missing if _query(url, query)])
            return not missing

        try:
            _wait_for(all_answered)
        except AssertionError:
            pytest.fail("no series for:\n" + "\n".join(sorted(missing)))
