"""The decorator that makes a function a command: common options, output, and flags in messages."""

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import typer
from typer.models import OptionInfo, ParameterInfo

from mmtoolkit.core.errors import ToolkitError

from .options import Debug, Json, Quiet, Verbose
from .output import Part, facts_as_text, print_json, print_parts, start_output

COMMON: dict[str, Any] = {"as_json": Json, "quiet": Quiet, "verbose": Verbose, "debug": Debug}
"""Options of every command, after its own."""


@dataclass(frozen=True)
class Answer:
    """What a command found.

    Attributes:
        content: the object of `--json`, without the command's name.
        shown: what people read instead, in order: lines, facts by name, and tables; may be a generator.
    """

    content: Mapping[str, Any]
    shown: Iterable[Part] = ()


def planned(path: Path, facts: Mapping[str, Any], *, folder: str = "run") -> Answer:
    """Answer a dry run: what the command would do and where, having written nothing.

    Args:
        path: the folder that would be made.
        facts: sizes of the work.
        folder: what the folder is, in the answer.
    """
    content = {folder: str(path), "dry_run": True, **facts}
    return Answer(content, [{folder: f"{path} (not made)", **facts_as_text(facts)}])


def command(app: typer.Typer, name: str, *, example: str) -> Callable[[Callable[..., Answer]], Any]:
    """Make a function that returns an :class:`Answer` a command.

    The command gets `--json`, `--quiet`, `--verbose` and `--debug`; a function with a parameter `as_json`
    receives its value. Arguments that an engine's message names in backquotes are shown as flags.

    Args:
        app: the group.
        name: the whole name, as `recommend train`.
        example: a command line, for the help.
    """

    def register(function: Callable[..., Answer]) -> Any:
        own = list(inspect.signature(function, eval_str=True).parameters.values())
        flags = _flags(p for p in own if p.name not in COMMON)

        def run(quiet: bool, verbose: bool, as_json: bool, **given: Any) -> None:
            start_output(quiet=quiet, verbose=verbose)
            given.pop("debug")
            if "as_json" in own_names:
                given["as_json"] = as_json
            try:
                answer = function(**given)
                if as_json:
                    print_json(name, **answer.content)
                else:
                    print_parts(answer.shown)
            except ToolkitError as error:
                error.message = show_flags(error.message, flags)
                raise

        own_names = {parameter.name for parameter in own}
        parameters = [p for p in own if p.name not in COMMON] + [
            inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
            for key, kind in COMMON.items()
        ]
        functools.update_wrapper(run, function)
        delattr(run, "__wrapped__")  # or the signature would be that of the function
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return app.command(name.rpartition(" ")[2], epilog=f"Example: {example}")(run)

    return register


def show_flags(message: str, flags: Mapping[str, str]) -> str:
    """Replace the arguments that a message names in backquotes by flags of the command, where it has them."""
    return re.sub(r"`(\w+)`", lambda found: flags.get(found[1], found[0]), message)


def _flags(parameters: Iterable[inspect.Parameter]) -> dict[str, str]:
    """Return the flag of each parameter, by its name and by the flag's own."""
    flags: dict[str, str] = {}
    for parameter in parameters:
        info = next(one for one in get_args(parameter.annotation) if isinstance(one, ParameterInfo))
        texts = [str(info.default), *(info.param_decls or ())]  # in Annotated the first name is the "default"
        declared = [text.partition("/")[0] for text in texts if text.startswith("--")]
        flag = declared[0] if declared else f"--{parameter.name.replace('_', '-')}"
        if not isinstance(info, OptionInfo):
            flag = str(info.metavar or parameter.name.upper())
        flags |= {parameter.name: flag, flag.removeprefix("--").replace("-", "_"): flag}
    return flags
