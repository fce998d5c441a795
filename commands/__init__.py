"""The command line; installed as mmtoolkit.commands."""
