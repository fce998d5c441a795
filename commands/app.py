"""The root command `mmtk`: groups, version, and how errors end."""

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from mmtoolkit import __version__
from mmtoolkit.core.errors import ToolkitError

from . import config, distill, env, landmarks, recommend
from .output import print_error


class RootGroup(TyperGroup):
    """Answer help at once, and turn errors for users into a line on stderr and an exit code."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Show the help of `mmtk GROUP COMMAND --help` without parsing, as Typer's parser loads pydantic."""
        *words, last = args or [""]
        command: Any = self
        inner = ctx
        if words and last in ctx.help_option_names:
            for word in words:
                command = command.get_command(inner, word) if isinstance(command, TyperGroup) else None
                if command is None:
                    break
                inner = type(ctx)(command, info_name=word, parent=inner)
            else:
                typer.echo(command.get_help(inner), nl=False)
                raise typer.Exit
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; with --debug, errors keep their traceback."""
        try:
            return super().invoke(ctx)
        except ToolkitError as error:
            if ctx.meta.get("mmtk.debug"):
                raise
            print_error(error)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            print_error(ToolkitError("stopped; a run continues with --resume RUN"))
            raise typer.Exit(130) from None
        except BrokenPipeError:
            sys.stderr.close()
            raise typer.Exit(0) from None


app = typer.Typer(
    name="mmtk",
    cls=RootGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Multimodal recommendation, few-step diffusion and dense facial landmarks in one command.",
    epilog="Start with: mmtk recommend train --config demo",
)
app.add_typer(recommend.app, name="recommend")
app.add_typer(distill.app, name="distill")
app.add_typer(landmarks.app, name="landmarks")
app.add_typer(config.app, name="config")
app.add_typer(env.app)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"mmtk {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Hold the options of `mmtk` itself."""


def main() -> None:
    """Run the command line."""
    app()
