"""`mmtk landmarks`: score and compare networks, and measure their cost."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmtoolkit.core.errors import UsageError

from .. import options
from ..command import Answer, command
from ..options import Config, Device
from ..output import Part, Table
from .options import Alpha, Data, Flip, NewFolder, Points79, Predictions, Weights, open_landmarker

if TYPE_CHECKING:
    from mmtoolkit.landmarks.evaluation.bootstrap import Comparison
    from mmtoolkit.landmarks.evaluation.metrics import Evaluation
    from mmtoolkit.landmarks.load import Landmarker

app = typer.Typer()


@command(app, "landmarks eval", example="mmtk landmarks eval --data jd106_test --checkpoint runs/compact")
def evaluate(
    predictions: Predictions = None,
    data: Data = None,
    checkpoint: Weights = None,
    points_79: Points79 = False,
    alpha: Alpha = 0.08,
    passes: Annotated[
        int, typer.Option(help="2: look again through the box of the first points.", min=1, max=3)
    ] = 1,
    flip: Flip = False,
    device: Device = None,
    output: NewFolder = None,
) -> Answer:
    """Score a network or ready predictions by the challenge's protocol."""
    from mmtoolkit.landmarks.evaluate import FILES
    from mmtoolkit.landmarks.evaluate import evaluate as score

    if predictions and (checkpoint or flip or device or passes != 1):
        raise UsageError("give PREDICTIONS or a network (--checkpoint, --flip, --device, --passes), not both")
    source = predictions or open_landmarker(checkpoint, device, flip=flip)
    found = score(source, data, output=output, alpha=alpha, subset_79=points_79, passes=passes)
    return _scores(found, _data_name(data), [str(output / name) for name in FILES] if output else [])


def _data_name(data: Path | None) -> str:
    from mmtoolkit.landmarks.evaluate import RENDERED

    return str(data or RENDERED)


def _scores(found: "Evaluation", data: str, files: list[str]) -> Answer:
    groups = {"groups": found.groups, "parts": found.parts, "offset": found.offset}
    content = {"data": data, "metrics": found.metrics, **groups, "files": files}
    return Answer(content, _score_parts(found, data, files))


def _score_parts(found: "Evaluation", data: str, files: list[str]) -> Iterator[Part]:
    from mmtoolkit.landmarks.report import metric_table, part_table

    yield Table(f"{data}: NME over sqrt(w h) of the true box", *metric_table(found))
    yield Table("By part", *part_table(found))
    right, down = (100 * value for value in found.offset)
    yield f"Mean offset of the predictions: {right:+.2f} % to the right, {down:+.2f} % down"
    yield from files


@command(app, "landmarks compare", example="mmtk landmarks compare runs/a predictions.zip --data jd106_test")
def compare(
    first: Annotated[
        Path, typer.Argument(metavar="RUN|PREDICTIONS", help="Run, weights file, folder or zip.")
    ],
    second: Annotated[Path, typer.Argument(metavar="RUN|PREDICTIONS", help="Method to compare it with.")],
    data: Data = None,
    alpha: Alpha = 0.08,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.", min=0)] = 0,
    device: Device = None,
) -> Answer:
    """Test whether two methods differ, by a paired bootstrap over faces."""
    from mmtoolkit.landmarks.compare import compare as compare_engine
    from mmtoolkit.landmarks.load import is_network

    sources = [open_landmarker(path, device) if is_network(path) else path for path in (first, second)]
    found = compare_engine(sources[0], sources[1], data, alpha=alpha, seed=seed)
    name = _data_name(data)
    content = {"data": name, "comparisons": [asdict(one) for one in found]}
    return Answer(content, [_comparison_table(found, name)])


def _comparison_table(found: "list[Comparison]", data: str) -> Table:
    columns = ["metric", "first", "second", "second - first", "95 % interval", "p"]
    rows = [
        [c.metric, f"{c.first:.4f}", f"{c.second:.4f}", f"{c.second - c.first:+.4f}",
         f"{c.low:+.4f} to {c.high:+.4f}", f"{c.p:.4f}"]
        for c in found
    ]  # fmt: skip
    return Table(f"{data}, paired bootstrap over faces", columns, rows)


@command(app, "landmarks profile", example="mmtk landmarks profile --checkpoint runs/compact")
def profile(config: Config = None, checkpoint: Weights = None) -> Answer:
    """Measure parameters, operations, bytes and milliseconds per face; check the challenges' limits."""
    from mmtoolkit.landmarks.load import untrained
    from mmtoolkit.landmarks.profile import profile as profile_engine

    if config and checkpoint:
        raise UsageError("give --config (an untrained network) or --checkpoint, not both")
    landmarker: Landmarker = (
        untrained(config) if config else open_landmarker(checkpoint, options.DeviceChoice.cpu)
    )
    found = profile_engine(landmarker)
    facts = {
        "network": landmarker.name,
        "parameters": f"{found.parameters:,}",
        "operations": f"{2 * found.multiplications / 1e6:.1f} MFLOPs (a multiply-add counts as two)",
        "size": f"{found.bytes / 1e6:.2f} MB in half precision",
        "time": f"{found.milliseconds:.2f} ms per face, one CPU thread, batch 1",
    }
    limits = {name: "holds" if holds else "exceeded" for name, holds in found.limits.items()}
    return Answer(asdict(found), [facts | limits])
