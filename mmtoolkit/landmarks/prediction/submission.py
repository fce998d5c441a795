"""Write and check the zip that the challenge takes."""

import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmtoolkit.core.errors import DataError, UsageError
from mmtoolkit.landmarks.data.points import Points
from mmtoolkit.landmarks.data.read import unique_names
from mmtoolkit.landmarks.data.text import read_points_txt, write_points_txt


def write_submission(predictions: Mapping[str, Points], names: Sequence[str], path: Path) -> None:
    """Write predictions as a submission: a zip of one `<picture>.txt` for each picture.

    Args:
        predictions: `(106, 2)` by name of the picture.
        names: names of all pictures of the test set.
        path: new zip.

    Raises:
        UsageError: if the file exists or its name does not end in `.zip`.
        DataError: if a picture has no prediction, or two have the same name.
    """
    check_new_zip(path)
    unique_names(names)
    missing = [name for name in names if name not in predictions]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(names)} pictures have no face, the first is {missing[0]}; "
            "give them a .rect file, or use the `detector` whole"
        )
    temporary = path.with_name(f".{path.name}")
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(f"{name}.txt", write_points_txt(predictions[name]))
    check_submission(temporary, names)
    temporary.replace(path)


def check_new_zip(path: Path) -> None:
    """Check that a zip can be written.

    Raises:
        UsageError: if the file exists, its folder does not, or its name does not end in `.zip`.
    """
    if path.suffix != ".zip" or path.exists() or not path.parent.is_dir():
        raise UsageError(f"`output` {path}: name a new file that ends in .zip, in a folder that exists")


def check_submission(path: Path, names: Sequence[str]) -> None:
    """Check that a zip holds one well-formed `.txt` for each picture and nothing else.

    Raises:
        DataError: naming what is missing, superfluous or malformed.
    """
    if not zipfile.is_zipfile(path):
        raise DataError("not a zip", path=path)
    root = zipfile.Path(path)
    twice = [name for name, count in Counter(root.root.namelist()).items() if count > 1]
    if twice:
        raise DataError(f"holds {twice[0]} twice", path=path)
    members = {entry.name: entry for entry in root.iterdir()}
    wanted = {f"{name}.txt" for name in names}
    for what, some in (
        ("lacks", wanted - members.keys()),
        ("holds files that are not expected:", members.keys() - wanted),
    ):
        if some:
            raise DataError(f"{what} {min(some)}" + f" and {len(some) - 1} more" * (len(some) > 1), path=path)
    for member in members.values():
        read_points_txt(member)
