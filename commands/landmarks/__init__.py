"""`mmtk landmarks`: one module for each kind of command."""

import typer

from . import data, evaluate, export, predict, train

app = typer.Typer(no_args_is_help=True, help="Facial landmarks with the 106 points of the JD challenge.")
for part in (train, evaluate, predict, export, data):
    app.add_typer(part.app)
