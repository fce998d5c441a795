"""Progress bars with an estimate of the time left; silent without a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from mmtoolkit.core.logging import console, is_quiet


@contextmanager
def progress_bar(description: str, total: int, done: int = 0) -> Iterator[Callable[[str], None]]:
    """Yield ``advance(note)``, which moves the bar by one and shows ``note`` behind it.

    The bar appears only on a terminal and never with ``--quiet``.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    hidden = is_quiet() or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        task = progress.add_task(description, total=total, completed=done, note="")

        def advance(note: str = "") -> None:
            progress.update(task, advance=1, note=note)

        yield advance
