"""What the benchmark scripts share: their parser with `--record`, timing, and the line about the machine."""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from results import record

from mmtoolkit.core.device import describe_device
from mmtoolkit.core.run import environment

CPU = torch.device("cpu")


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Build a parser that has `--record`."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--record", action="store_true", help="write the figures to results.json")
    return parser


@dataclass
class Figures:
    """The figures of a run: kept in results.json when the user asks for it, dropped otherwise."""

    recording: bool

    def add(self, name: str, value: float, **facts: str) -> None:
        """Record a figure; `facts` are the keywords of `record`."""
        if self.recording:
            record(name, value, **facts)


def timed(
    call: Callable[[], Any],
    repeats: int,
    *,
    warm_up: int = 0,
    clock: Callable[[], float] = time.process_time,
    pick: Callable[[list[float]], float] = statistics.median,
) -> tuple[float, Any]:
    """Return the seconds of a call, by default the median of its processor time, and its last result."""
    seconds, result = [], None
    for _ in range(warm_up + repeats):
        start = clock()
        result = call()
        seconds.append(clock() - start)
    return pick(seconds[warm_up:]), result


def describe_machine(*details: str, device: torch.device | None = None) -> str:
    """Name the processor, the device and what else matters to a figure."""
    return ", ".join([environment()["cpu"], *([] if device is None else [describe_device(device)]), *details])
