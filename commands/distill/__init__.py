"""`mmtk distill`: one module for each kind of command."""

import typer

from . import evaluate, export, sample, train

app = typer.Typer(
    no_args_is_help=True,
    help="Few-step diffusion by Target-Driven Distillation (TDD).",
    epilog="Start with: mmtk distill sample",
)
for group in (train, sample, export, evaluate):
    app.add_typer(group.app)
