"""`mmtk distill`: one module for each kind of command."""

from . import evaluate, train

app = train.app
app.add_typer(evaluate.app)
