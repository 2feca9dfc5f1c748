"""Stands where nvidia-ml-py would, for machines without a card: one device, whose numbers stay the same."""

from __future__ import annotations

from types import SimpleNamespace

NVML_TEMPERATURE_GPU = 0
NVML_DEVICE_MIG_ENABLE = 1
nvmlMemory_v2 = 0x2000028  # noqa: N816
_NOT_SUPPORTED = 3


class NVMLError(Exception):
    """As the library's."""


def nvmlInit() -> None:  # noqa: N802
    """Find the driver."""


def nvmlDeviceGetCount() -> int:  # noqa: N802
    return 1


def nvmlDeviceGetHandleByIndex(index: int) -> int:  # noqa: N802
    return index


def nvmlDeviceGetUUID(device: int) -> str:  # noqa: N802
    return f"GPU-{device}"


def nvmlDeviceGetName(device: int) -> str:  # noqa: N802
    return "a card"


def nvmlDeviceGetMemoryInfo(device: int, version: int | None = None) -> SimpleNamespace:  # noqa: N802
    return SimpleNamespace(used=30 * 2**30, total=80 * 2**30)


def nvmlDeviceGetUtilizationRates(device: int) -> SimpleNamespace:  # noqa: N802
    return SimpleNamespace(gpu=40)


def nvmlDeviceGetTemperature(device: int, sensor: int) -> int:  # noqa: N802
    return 61


def nvmlDeviceGetPowerUsage(device: int) -> int:  # noqa: N802
    return 210_500


def nvmlDeviceGetMigMode(device: int) -> list[int]:  # noqa: N802
    raise NVMLError(_NOT_SUPPORTED)
