"""What the machine has, and what it is in the way of: clock and GPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from voicespan.diagnostics import number
from voicespan.doctor.ask import Unanswered
from voicespan.doctor.check import Check

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from voicespan.doctor.ask import Program

_VISIBLE = "CUDA_VISIBLE_DEVICES"
_NOTICED_S = 1.0
_TOO_MUCH_S = 30.0


def gpu(environ: Mapping[str, str]) -> Iterator[Check]:
    """Yield whether the GPUs that are here, or that the service is told to use, can be measured."""
    here = any(Path("/dev").glob("nvidia[0-9]*"))
    told = environ.get(_VISIBLE, "").strip() not in {"", "-1"}
    if not here and not told:
        return
    why = "there are GPUs" if here else f"{_VISIBLE}={environ[_VISIBLE]}"
    try:
        import pynvml
    except ModuleNotFoundError:
        yield Check("gpu", "warn", f"{why}, and nothing measures them", "pip install 'voicespan[gpu]'")
        return
    try:
        pynvml.nvmlInit()
        count = int(pynvml.nvmlDeviceGetCount())
    except Exception as error:
        yield Check(
            "gpu",
            "warn",
            f"{why}, and the driver does not answer: {error}",
            "`nvidia-smi` must work where the service runs; a container needs the NVIDIA runtime",
        )
    else:
        yield Check("gpu", "ok", f"{number(count, 'GPU')} measured")


def clock(programs: Sequence[Program]) -> Iterator[Check]:
    """Yield how far the clocks of others are from ours, by the time stamps of their answers."""
    for program in programs:
        try:
            answer = program.ask("/")
        except Unanswered:
            continue  # another line says so
        if answer.skew_s is None:
            continue
        off_s = max(0.0, abs(answer.skew_s) - answer.unsure_s)
        where = f"the clock of {program.shown}"
        if off_s <= _NOTICED_S:
            yield Check("clock", "ok", f"{where} is ours, within {answer.unsure_s + off_s:.1f} s")
            continue
        side = "before" if answer.skew_s > 0 else "behind"
        yield Check(
            "clock",
            "fail" if off_s > _TOO_MUCH_S else "warn",
            f"{where} is {off_s:.0f} s {side} ours: turns appear at the wrong time, or not at all",
            "let both machines follow a time server (chrony, systemd-timesyncd): `timedatectl`",
        )
