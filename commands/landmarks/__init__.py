"""`mmtk landmarks`: one module for each kind of command."""

from . import data, train

app = train.app
app.add_typer(data.app)
