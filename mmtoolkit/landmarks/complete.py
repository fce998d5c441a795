"""The function behind `mmtk landmarks complete`: 106 points and turned views from 68 human points."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from mmtoolkit.core.errors import DataError, UsageError
from mmtoolkit.core.progress import progress_bar
from mmtoolkit.core.run import check_new
from mmtoolkit.landmarks.completion.ict import IctModel, load_ict
from mmtoolkit.landmarks.completion.labels import Completed, complete_points
from mmtoolkit.landmarks.completion.rotate import make_relief
from mmtoolkit.landmarks.data.face import Face, Image, official_box
from mmtoolkit.landmarks.data.images import read_image
from mmtoolkit.landmarks.data.points import Points, conversion
from mmtoolkit.landmarks.data.read import Annotation, read_annotations, unique_names
from mmtoolkit.landmarks.data.text import shown_path
from mmtoolkit.landmarks.data.write import write_jd

TURNED = 0.8  # confidence of the labels of turned views, relative to those of the photograph
YAW, PITCH = (5.0, 45.0), 14.0  # range of the turns to the side, deviation of those up and down, in degrees
FARTHEST, HIGHEST, LOWEST = 60.0, -50.0, 35.0  # limits of the views to the side, up and down, in degrees
STEEP = 0.25  # share of turned views with a uniform pitch between these limits
CUT = 0.2  # share of turned views with a black border across the face, as in the challenge's data


@dataclass
class Completion:
    """The result of completing a data set.

    Attributes:
        photographs: number of faces read.
        written: number of faces written, turned views included.
        errors: root mean square distance of each fitted head to the human points, divided by the face's size.
    """

    photographs: int = 0
    written: int = 0
    errors: list[float] = field(default_factory=list)

    def facts(self) -> dict[str, int | float]:
        """Return a summary; errors are fractions of the face's size."""
        return {
            "photographs": self.photographs,
            "faces": self.written,
            "median_fit_error": round(float(np.median(self.errors)), 4),
            "largest_fit_error": round(max(self.errors), 4),
        }


def check_source(source: Path, views: int) -> list[Annotation]:
    """Read the labels of a data set and check that they can be completed.

    Raises:
        DataError: if a scheme leaves out points of iBUG-68, or two pictures would have the same name.
    """
    annotations = read_annotations(source)
    unique_names(name for item in annotations for name in (item.name, *_turned_names(item, views)))
    for item in annotations:
        known = conversion(item.scheme, "ibug68")(item.points, item.weights > 0)[1]
        if not known.all():
            missing = int((~known).sum())
            raise DataError(
                f"{missing} of the 68 iBUG points are not labelled", path=shown_path(item.picture)
            )
    return annotations


def _turned_names(item: Annotation, views: int) -> list[str]:
    return [f"{Path(item.name).stem}_turned{number}.jpg" for number in range(1, views + 1)]


def describe_work(source: Path, model: Path, views: int) -> dict[str, int | float]:
    """Check source and model, and return how much would be written.

    Raises:
        DataError: if either cannot be used.
    """
    photographs = len(check_source(source, views))
    load_ict(model)
    return {"photographs": photographs, "faces": photographs * (1 + views)}


def complete(
    source: Path,
    output: Path,
    model: Path,
    views: int = 4,
    seed: int = 0,
    shift: tuple[float, float] = (0.0, 0.0),
) -> Completion:
    """Complete a data set and write it in the JD format with a confidence for every point.

    Args:
        source: data set in any format that :func:`read_annotations` reads, with at least the iBUG points.
        output: new or empty folder.
        model: ICT-FaceKit light as `.npz`.
        views: turned views of each photograph.
        seed: seed of the turns.
        shift: pixels added to the given points, for sets whose labels are all shifted alike.

    Raises:
        DataError: if the source or the model cannot be used; nothing is written then.
        UsageError: if `output` is not empty, or `shift` is not finite.
    """
    if not np.isfinite(shift).all():
        raise UsageError(f"`shift` {shift[0]} {shift[1]}: write pixels, as in -1.5 2")
    check_new(output)
    annotations, head = [_shifted(item, shift) for item in check_source(source, views)], load_ict(model)
    result = Completion(photographs=len(annotations))
    with progress_bar("faces", len(annotations)) as advance:

        def faces() -> Iterator[Face]:
            for number, item in enumerate(annotations):
                yield from complete_face(
                    head, item, views, np.random.default_rng([seed, number]), result.errors
                )
                advance("")

        result.written = write_jd(output, faces())
    return result


def _shifted(item: Annotation, shift: tuple[float, float]) -> Annotation:
    """Move the labels of a face, and its box with them."""
    step = np.array(shift, np.float32)
    return replace(item, points=item.points + step, box=item.box + np.tile(step, 2))


def complete_face(
    head: IctModel, item: Annotation, views: int, rng: np.random.Generator, errors: list[float]
) -> Iterator[Face]:
    """Yield a photograph with all its points, then its turned views."""
    image = read_image(item.picture)
    ibug = conversion(item.scheme, "ibug68")(item.points)[0]
    found = complete_points(head, image, ibug)
    _keep_given(found, item)
    errors.append(found.fit.error / float(np.sqrt(np.ptp(ibug, axis=0).prod())))
    yaw, pitch, roll = found.fit.angles
    yield Face(item.name, image, found.points, found.confidence, item.box, yaw, pitch, roll, item.expression)
    relief = make_relief(head, image, found) if views else None
    turns = draw_turns(yaw, pitch, views, rng)
    for name, (right, down) in zip(_turned_names(item, views), turns, strict=True):
        assert relief is not None
        picture, points = relief.turn(right, down)
        if rng.random() < CUT:
            cut_border(picture, points, rng)
        weights = (found.confidence * TURNED).astype(np.float32)
        angles = (yaw + right, pitch + down, roll)
        yield Face(name, picture, points, weights, official_box(points), *angles, item.expression)


def _keep_given(found: Completed, item: Annotation) -> None:
    """Replace completed points by those that the data set labels."""
    points, known = conversion(item.scheme, "jd106")(item.points, item.weights > 0)
    found.points[known] = points[known]
    found.confidence[known] = 1.0


def draw_turns(
    yaw: float, pitch: float, count: int, rng: np.random.Generator
) -> Sequence[tuple[float, float]]:
    """Draw turns in degrees, mostly in the direction in which the face looks.

    Args:
        yaw: yaw of the face, degrees to the image's right.
        pitch: pitch of the face, degrees downwards.
        count: number of turns.
        rng: draws the turns.

    Returns:
        Turns to the right and down.
    """
    turns = []
    for _ in range(count):
        # turning further shows little that was hidden; turning back shows the far side of the face
        onwards = 1.0 if yaw >= 0 else -1.0
        side = onwards if rng.random() < 0.5 + min(abs(yaw) / 30, 0.5) else -onwards
        right = side * rng.uniform(*YAW)
        right = float(np.clip(yaw + right, -FARTHEST, FARTHEST) - yaw)
        steep = rng.random() < STEEP
        wanted = (
            rng.uniform(HIGHEST, LOWEST) if steep else np.clip(pitch + rng.normal(0, PITCH), HIGHEST, LOWEST)
        )
        down = float(wanted - pitch)
        turns.append((right, down))
    return turns


def cut_border(picture: Image, points: Points, rng: np.random.Generator) -> None:
    """Blacken a picture beyond a line near one side of the face, in place; the labels stay."""
    low, high = points.min(axis=0), points.max(axis=0)
    axis = int(rng.random() < 0.6)  # 1: the line is level
    reach = rng.uniform(0.8, 1.15) * (high[axis] - low[axis])
    beyond = rng.random() < 0.5
    lines = (
        slice(max(0, round(low[axis] + reach)), None)
        if beyond
        else slice(0, max(0, round(high[axis] - reach)))
    )
    picture[(lines, slice(None)) if axis else (slice(None), lines)] = 0
