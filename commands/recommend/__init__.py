"""`mmtk recommend`: one module for each kind of command."""

from . import prepare, serve, studies, train

app = train.app
for part in (prepare, serve, studies):
    app.add_typer(part.app)
