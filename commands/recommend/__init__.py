"""`mmtk recommend`: one module for each theme."""

import typer

from . import prepare, serve, studies, train

app = typer.Typer(
    no_args_is_help=True, help="Multimodal recommendation with a denoised item graph (IGDMRec)."
)
for part in (train, prepare, serve, studies):
    app.add_typer(part.app)
