"""The function behind `mmtk landmarks convert`: labels in another scheme and format."""

from dataclasses import replace
from pathlib import Path

from mmtoolkit.core.errors import UsageError
from mmtoolkit.landmarks.data.points import SCHEMES, conversion
from mmtoolkit.landmarks.data.read import read_annotations
from mmtoolkit.landmarks.data.write import SUFFIXES, convert_set


def convert(
    source: Path, output: Path, scheme: str = "jd106", kind: str = "coco", scheme_from: str | None = None
) -> int:
    """Read a data set and write its labels in another scheme and format.

    Args:
        source: data set.
        output: new file or folder.
        scheme: scheme of the points to write, see :data:`mmtoolkit.landmarks.data.points.SCHEMES`.
        kind: format, a key of :data:`mmtoolkit.landmarks.data.write.WRITERS`.
        scheme_from: scheme of the labels; None derives it from their number (three orders have 106 points).

    Returns:
        The number of faces written.

    Raises:
        UsageError: if a scheme is unknown or has another number of points, or the output cannot be written.
        DataError: if the data set cannot be used, or the format cannot hold its points.
    """
    conversion(scheme, "jd106")  # refuses unknown names
    annotations = read_annotations(source)
    if scheme_from:
        conversion(scheme_from, "jd106")
        wrong = next((item for item in annotations if len(item.points) != SCHEMES[scheme_from]), None)
        if wrong is not None:
            raise UsageError(f"`scheme_from` {scheme_from}: {wrong.name} has {len(wrong.points)} points")
        annotations = [replace(item, scheme=scheme_from) for item in annotations]
    suffix = SUFFIXES.get(kind)
    if suffix and (output.suffix != suffix or output.exists() or not output.parent.is_dir()):
        raise UsageError(
            f"`output` {output}: `format` {kind} needs a new {suffix} file in an existing folder"
        )
    return convert_set(annotations, output, scheme, kind)
