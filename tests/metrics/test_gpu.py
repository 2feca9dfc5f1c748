"""GPUs as the management library tells of them; the library here is a stand-in, since few machines have a card."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from voicespan import names as n
from voicespan.metrics import gpu
from voicespan.metrics.gpu import Gpus, read

if TYPE_CHECKING:
    from collections.abc import Sequence

GIB = 2**30


@pytest.fixture(autouse=True)
def driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take some library for the driver's."""
    monkeypatch.setattr(gpu, "DRIVER", "libc.so.6")


class NVMLError(Exception):
    """As the library's."""


@dataclass
class Card:
    """A device of the stand-in."""

    uuid: str
    name: str | bytes = "NVIDIA H100"
    used: int = 30 * GIB
    total: int = 80 * GIB
    busy: int | None = 40
    heat: int | None = 61
    milliwatts: int | None = 210_500
    parts: list[Card] = field(default_factory=list)
    lost: bool = False
    old: bool = False
    """Its driver knows only the first version of the question for memory."""


RESERVED = GIB // 2
"""What the driver keeps for itself."""


def library(cards: Sequence[Card]) -> Any:
    """A module with the functions of `pynvml` that are used, for these devices."""

    def of(card: Card, value: Any) -> Any:
        if card.lost or value is None:
            raise NVMLError
        return value

    def memory(card: Card, version: int | None = None) -> SimpleNamespace:
        if version is not None and card.old:
            raise NVMLError
        used = card.used if version is not None else card.used + RESERVED
        return SimpleNamespace(used=of(card, used), total=card.total)

    def part(card: Card, number: int) -> Card:
        if number >= len(card.parts):
            raise NVMLError
        return card.parts[number]

    def mode(card: Card) -> list[int]:
        if card.busy is None and not card.parts:
            raise NVMLError  # a part, or a card that cannot be divided
        return [int(bool(card.parts)), 0]

    module = ModuleType("pynvml")
    module.__dict__.update(
        NVMLError=NVMLError,
        NVML_TEMPERATURE_GPU=0,
        NVML_DEVICE_MIG_ENABLE=1,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: len(cards),
        nvmlDeviceGetHandleByIndex=lambda index: cards[index],
        nvmlDeviceGetUUID=lambda card: of(card, card.uuid),
        nvmlDeviceGetName=lambda card: of(card, card.name),
        nvmlMemory_v2=0x2000028,
        nvmlDeviceGetMemoryInfo=memory,
        nvmlDeviceGetUtilizationRates=lambda card: SimpleNamespace(gpu=of(card, card.busy)),
        nvmlDeviceGetTemperature=lambda card, _: of(card, card.heat),
        nvmlDeviceGetPowerUsage=lambda card: of(card, card.milliwatts),
        nvmlDeviceGetMigMode=mode,
        nvmlDeviceGetMaxMigDeviceCount=lambda _: 7,
        nvmlDeviceGetMigDeviceHandleByIndex=part,
    )
    return module


def told(cards: Sequence[Card], visible: str | None = None) -> dict[tuple[str, str], float]:
    """What is told, by metric and device."""
    return {(name, labels[n.HW_ID]): value for name, value, labels in read(library(cards), visible)}


def test_memory_in_use_is_what_programs_have() -> None:
    """What the driver keeps for itself counts as used only where an old driver does not tell it apart."""
    cards = [Card("GPU-a"), Card("GPU-b", old=True)]
    used = {device: value for (name, device), value in told(cards).items() if name == n.METRIC_HW_GPU_MEMORY_USAGE}
    assert used == {"0": 30 * GIB, "1": 30 * GIB + RESERVED}


@pytest.mark.covers("C-M31", "C-M32", "C-M33", "C-M34", "C-M35", "E-M10", "C-Q02")
def test_every_card_tells_of_memory_use_heat_and_power() -> None:
    """Bytes, a ratio, degrees and watts of each of several cards, all with the same labels."""
    cards = [Card("GPU-a"), Card("GPU-b", name=b"NVIDIA A10", used=GIB, busy=100, milliwatts=90_000)]
    assert told(cards) == {
        (n.METRIC_HW_GPU_MEMORY_USAGE, "0"): 30 * GIB,
        (n.METRIC_HW_GPU_MEMORY_LIMIT, "0"): 80 * GIB,
        (n.METRIC_HW_GPU_UTILIZATION, "0"): 0.4,
        (n.METRIC_HW_TEMPERATURE, "0"): 61,
        (n.METRIC_HW_POWER, "0"): 210.5,
        (n.METRIC_HW_GPU_MEMORY_USAGE, "1"): GIB,
        (n.METRIC_HW_GPU_MEMORY_LIMIT, "1"): 80 * GIB,
        (n.METRIC_HW_GPU_UTILIZATION, "1"): 1.0,
        (n.METRIC_HW_TEMPERATURE, "1"): 61,
        (n.METRIC_HW_POWER, "1"): 90.0,
    }
    labels = {tuple(labels.items()) for _, _, labels in read(library(cards))}
    assert labels == {
        ((n.HW_ID, "0"), (n.HW_TYPE, "gpu"), (n.HW_NAME, "NVIDIA H100")),
        ((n.HW_ID, "1"), (n.HW_TYPE, "gpu"), (n.HW_NAME, "NVIDIA A10")),
    }


def test_what_a_card_does_not_tell_is_left_out() -> None:
    """A card without a power meter has no power, and all the rest."""
    assert (n.METRIC_HW_POWER, "0") not in told([Card("GPU-a", milliwatts=None)])
    assert len(told([Card("GPU-a", milliwatts=None)])) == 4


def test_a_card_that_is_lost_takes_nobody_along() -> None:
    """The one that fell off the bus has no series, the others go on."""
    assert {device for _, device in told([Card("GPU-a", lost=True), Card("GPU-b")])} == {"1"}


def test_a_divided_card_tells_of_its_slices() -> None:
    """Memory is each slice's own; heat and power are the whole card's; the use of a slice is not known."""
    slices = [Card(f"MIG-{name}", used=GIB, total=10 * GIB, busy=None, heat=None) for name in "xy"]
    assert told([Card("GPU-a", parts=slices)]) == {
        (n.METRIC_HW_GPU_MEMORY_USAGE, "0:0"): GIB,
        (n.METRIC_HW_GPU_MEMORY_LIMIT, "0:0"): 10 * GIB,
        (n.METRIC_HW_GPU_MEMORY_USAGE, "0:1"): GIB,
        (n.METRIC_HW_GPU_MEMORY_LIMIT, "0:1"): 10 * GIB,
        (n.METRIC_HW_TEMPERATURE, "0"): 61,
        (n.METRIC_HW_POWER, "0"): 210.5,
    }


@pytest.mark.covers("C-G06", "F-DP08")
@pytest.mark.parametrize(
    ("visible", "devices"),
    [("1", {"1"}), ("GPU-a", {"0"}), ("1,0", {"0", "1"}), ("", set()), ("MIG-y", {"2:1"}), ("7", set())],
)
def test_a_worker_tells_of_its_own_card(visible: str, devices: set[str]) -> None:
    """CUDA_VISIBLE_DEVICES says which are the process's: by index, by UUID, or by that of a slice."""
    slices = [Card(f"MIG-{name}", busy=None) for name in "xy"]
    assert {
        device for _, device in told([Card("GPU-a"), Card("GPU-b"), Card("GPU-c", parts=slices)], visible)
    } == devices


def observed(gpus: Gpus, metric: str = n.METRIC_HW_GPU_MEMORY_USAGE) -> list[float]:
    return [observation.value for observation in gpus.observer(metric)()]


def test_a_collection_gets_what_was_told_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread asks, the collection reads; a card that vanishes is gone with the next answer."""
    cards = [Card("GPU-a"), Card("GPU-b")]
    monkeypatch.setitem(sys.modules, "pynvml", library(cards))
    monkeypatch.setattr(gpu, "EVERY_S", 0.01)
    gpus = Gpus({})
    assert len(observed(gpus)) == 2
    cards[1].lost = True
    deadline = time.monotonic() + 10
    while len(observed(gpus)) > 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(observed(gpus)) == 1
    gpus.start()


def test_a_driver_that_does_not_answer_delays_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first collection waits a moment, later ones do not; what is old is told no more."""
    module = library([Card("GPU-a")])
    stuck = __import__("threading").Event()
    module.nvmlDeviceGetCount = lambda: stuck.wait(10) or 0
    monkeypatch.setitem(sys.modules, "pynvml", module)
    monkeypatch.setattr(gpu, "_FIRST_ANSWER_S", 0.01)
    gpus = Gpus({})
    assert observed(gpus) == observed(gpus) == []
    gpus._samples, gpus._at_s = [(n.METRIC_HW_GPU_MEMORY_USAGE, 1.0, {})], time.monotonic() - gpu.STALE_S - 1
    assert observed(gpus) == []
    stuck.set()
    gpus.start()


@pytest.mark.covers("F-EP07", "C-U02")
@pytest.mark.parametrize("missing", ["library", "driver"])
def test_without_library_or_driver_there_is_silence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    """No series, no word, and nobody is asked a second time."""
    module = library([Card("GPU-a")])
    asked = []

    def no_driver() -> None:
        asked.append(1)
        raise NVMLError

    module.nvmlInit = no_driver
    monkeypatch.setitem(sys.modules, "pynvml", None if missing == "library" else module)
    gpus = Gpus({})
    assert observed(gpus) == observed(gpus) == []
    assert len(asked) == (missing == "driver")
    assert capsys.readouterr().err == ""


def test_without_driver_its_large_binding_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the driver's library is missing, pynvml would take 18 MB of a service's memory to find out the same."""
    monkeypatch.setattr(gpu, "DRIVER", "libnobody-has-it.so.1")
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    gpus = Gpus({})
    assert observed(gpus) == []
    assert gpus._over
    assert "pynvml" not in sys.modules
