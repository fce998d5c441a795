"""`mmtk env`: what a bug report needs."""

from .options import Debug, Json
from .output import print_facts, print_json


def env(as_json: Json = False, debug: Debug = False) -> None:
    """Show the machine, the devices and the versions that matter."""
    import torch

    from mmtoolkit.core.run import environment

    facts = environment()
    facts["cuda"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    facts["mps"] = torch.backends.mps.is_available()
    facts["threads"] = torch.get_num_threads()
    if as_json:
        print_json("env", **facts)
        return
    packages = facts.pop("packages")
    shown = {name: "none" if value is None else str(value) for name, value in facts.items()}
    print_facts(shown | {name: version or "not installed" for name, version in packages.items()})
