"""Run the command line with ``python -m mmtoolkit``."""

from mmtoolkit.commands.app import main

if __name__ == "__main__":
    main()
