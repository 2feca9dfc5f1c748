"""GPUs, as NVIDIA's management library tells: memory, use, temperature, power; slices of a divided one (MIG) too.

A thread of its own asks every few seconds: the driver may take its time, and neither an event loop nor a collection
waits for it. Without library, driver or device there is no series and no word; a device that vanishes takes its series
along.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from opentelemetry.metrics import Observation

from voicespan import names as n
from voicespan.guard import swallowed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

EVERY_S = 5.0
STALE_S = 20.0
"""What is older than this is told no more: the driver does not answer."""
DRIVER = "libnvidia-ml.so.1"
"""The driver's library, as pynvml loads it."""
_FIRST_ANSWER_S = 0.5
_VISIBLE = "CUDA_VISIBLE_DEVICES"
"""A process that may use one GPU tells of one: several workers on a machine would count each card several times."""

Sample = tuple[str, float, dict[str, str]]


class Gpus:
    """What is known of the GPUs of this process."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._environ = environ
        self.start()

    def start(self) -> None:
        """Begin anew, also in the child of a fork, whose parent's thread and library do not carry over."""
        self._samples: list[Sample] = []
        self._at_s = 0.0
        self._thread: threading.Thread | None = None
        self._answered = threading.Event()
        self._over = False

    def observer(self, metric: str) -> Callable[[], Iterable[Observation]]:
        """Return what reads one metric of all devices."""

        def read() -> Iterable[Observation]:
            if self._thread is None and not self._over:
                self._thread = threading.Thread(target=self._ask, name="voicespan-gpu", daemon=True)
                self._thread.start()
                self._answered.wait(_FIRST_ANSWER_S)
            if time.monotonic() - self._at_s > STALE_S:
                return []
            return [Observation(value, labels) for name, value, labels in self._samples if name == metric]

        return read

    def _ask(self) -> None:
        answered = self._answered
        try:
            import ctypes

            ctypes.CDLL(DRIVER)  # where it is not, there is no need for the 18 MB that pynvml takes
            import pynvml

            pynvml.nvmlInit()
        except Exception:  # no library, no driver, no device: then there are no GPUs
            self._over = True
            answered.set()
            return
        while answered is self._answered:  # else it was started anew
            try:
                samples = read(pynvml, self._environ.get(_VISIBLE))
                self._samples, self._at_s = samples, time.monotonic()
            except Exception as error:
                swallowed("gpu", error)
            answered.set()
            time.sleep(EVERY_S)


def read(nvml: Any, visible: str | None = None) -> list[Sample]:
    """Return one sample for each metric of each device that the process may use, as far as the device tells.

    `visible` is CUDA_VISIBLE_DEVICES: indices in the order of the bus, or the beginnings of UUIDs; None is all.
    """
    samples: list[Sample] = []
    for index in range(nvml.nvmlDeviceGetCount()):
        with suppress(nvml.NVMLError):  # lost, or off the bus: the others go on
            device = nvml.nvmlDeviceGetHandleByIndex(index)
            if _seen(visible, index, _text(nvml.nvmlDeviceGetUUID(device))):
                samples += _device(nvml, device, str(index), None)
                continue
            for number, part in _parts(nvml, device):
                if _seen(visible, None, _text(nvml.nvmlDeviceGetUUID(part))):
                    samples += _device(nvml, part, f"{index}:{number}", device)
    return samples


def _device(nvml: Any, device: Any, identity: str, whole: Any | None) -> list[Sample]:
    """The samples of a device; of one that is divided, of each of its parts, with the heat and power of the whole."""
    if whole is None and (parts := _parts(nvml, device)):
        found: list[Sample] = []
        for number, part in parts:
            with suppress(nvml.NVMLError):
                found += _memory(nvml, part, _labels(nvml, part, f"{identity}:{number}"))
        return found + _card(nvml, device, _labels(nvml, device, identity))
    labels = _labels(nvml, device, identity)
    return _memory(nvml, device, labels) + ([] if whole is not None else _use(nvml, device, labels))


def _labels(nvml: Any, device: Any, identity: str) -> dict[str, str]:
    return {n.HW_ID: identity, n.HW_TYPE: "gpu", n.HW_NAME: _text(nvml.nvmlDeviceGetName(device))}


def _memory(nvml: Any, device: Any, labels: dict[str, str]) -> list[Sample]:
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(device, version=nvml.nvmlMemory_v2)
    except nvml.NVMLError:  # a driver before 510: what it keeps for itself is in what is used
        memory = nvml.nvmlDeviceGetMemoryInfo(device)
    return [
        (n.METRIC_HW_GPU_MEMORY_USAGE, memory.used, labels),
        (n.METRIC_HW_GPU_MEMORY_LIMIT, memory.total, labels),
    ]


def _use(nvml: Any, device: Any, labels: dict[str, str]) -> list[Sample]:
    found: list[Sample] = []
    with suppress(nvml.NVMLError):
        use = nvml.nvmlDeviceGetUtilizationRates(device).gpu / 100
        found.append((n.METRIC_HW_GPU_UTILIZATION, use, labels))
    return found + _card(nvml, device, labels)


def _card(nvml: Any, device: Any, labels: dict[str, str]) -> list[Sample]:
    found: list[Sample] = []
    with suppress(nvml.NVMLError):
        heat = nvml.nvmlDeviceGetTemperature(device, nvml.NVML_TEMPERATURE_GPU)
        found.append((n.METRIC_HW_TEMPERATURE, heat, labels))
    with suppress(nvml.NVMLError):
        found.append((n.METRIC_HW_POWER, nvml.nvmlDeviceGetPowerUsage(device) / 1000, labels))
    return found


def _parts(nvml: Any, device: Any) -> list[tuple[int, Any]]:
    """The slices of a device that is divided; none for any other."""
    found = []
    with suppress(nvml.NVMLError):
        if nvml.nvmlDeviceGetMigMode(device)[0] != nvml.NVML_DEVICE_MIG_ENABLE:
            return []
        for number in range(nvml.nvmlDeviceGetMaxMigDeviceCount(device)):
            with suppress(nvml.NVMLError):
                found.append((number, nvml.nvmlDeviceGetMigDeviceHandleByIndex(device, number)))
    return found


def _seen(visible: str | None, index: int | None, uuid: str) -> bool:
    if visible is None:
        return index is not None
    names = [name.strip() for name in visible.split(",") if name.strip()]
    return any(name == str(index) or (not name.isdigit() and uuid.startswith(name)) for name in names)


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


gpus = Gpus()
METRICS = (
    n.METRIC_HW_GPU_MEMORY_USAGE,
    n.METRIC_HW_GPU_MEMORY_LIMIT,
    n.METRIC_HW_GPU_UTILIZATION,
    n.METRIC_HW_TEMPERATURE,
    n.METRIC_HW_POWER,
)
