"""`mmtk env`: what a bug report needs."""

import typer

from .command import Answer, command

app = typer.Typer()


@command(app, "env", example="mmtk env --json")
def env() -> Answer:
    """Show the machine, the devices and the versions that matter."""
    import torch

    from mmtoolkit.core.run import environment

    facts = environment()
    facts["cuda"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    facts["mps"] = torch.backends.mps.is_available()
    facts["threads"] = torch.get_num_threads()
    plain = {name: value for name, value in facts.items() if name != "packages"}
    shown = {name: "none" if value is None else str(value) for name, value in plain.items()}
    versions = {name: version or "not installed" for name, version in facts["packages"].items()}
    return Answer(facts, [shown | versions])
