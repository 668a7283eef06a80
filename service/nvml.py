"""GPU metrics from NVIDIA's driver, read at every scrape."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterator
from types import ModuleType

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.registry import Collector

log = logging.getLogger(__name__)


class GpuCollector(Collector):
    """Memory, utilisation, clock and temperature of each GPU that is visible to this process.

    `nvml` is the module pynvml, initialised. A value that a GPU does not support has no series, and
    a lost GPU has none at all; neither makes a scrape fail.
    """

    def __init__(self, nvml: ModuleType) -> None:
        self._nvml = nvml

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield every metric family, with a sample for each GPU that returns a value."""
        nvml = self._nvml
        gauges: tuple[tuple[str, str, Callable[[object], float]], ...] = (
            (
                "memory_used_bytes",
                "GPU memory in use by all processes.",
                lambda gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).used,
            ),
            (
                "memory_total_bytes",
                "Total GPU memory.",
                lambda gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).total,
            ),
            (
                "utilization_ratio",
                "Share of the driver's last sample period in which a kernel ran.",
                lambda gpu: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100,
            ),
            (
                "clock_hertz",
                "Clock of the GPU's multiprocessors.",
                lambda gpu: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM) * 1e6,
            ),
            (
                "temperature_celsius",
                "Temperature of the GPU's core.",
                lambda gpu: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU),
            ),
        )
        try:
            gpus = nvml.nvmlDeviceGetCount()
        except nvml.NVMLError:
            gpus = 0
        for name, about, read in gauges:
            family = GaugeMetricFamily(f"tidegate_gpu_{name}", about, labels=["gpu"])
            for place in range(gpus):
                try:
                    value = read(nvml.nvmlDeviceGetHandleByIndex(place))
                except nvml.NVMLError:
                    continue
                family.add_metric([str(place)], value)
            yield family


def watch_gpus(registry: CollectorRegistry) -> bool:
    """Register the GPU metrics. If that is not possible, log the reason and return False."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        log.warning("no GPU metrics: nvidia-ml-py is not installed (pip install 'tidegate[gpu]')")
        return False
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        log.warning("no GPU metrics: %s", error)
        return False
    registry.register(GpuCollector(nvml))
    return True
