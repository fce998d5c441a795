"""Types of settings that the engines share; importing them loads no torch."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

Count = Annotated[int, Field(ge=1)]
"""A whole number from 1."""
Natural = Annotated[int, Field(ge=0)]
"""A whole number from 0."""
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""A finite factor from 0."""
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""A finite number above 0."""
Probability = Annotated[float, Field(ge=0, le=1)]
"""A number from 0 to 1, both included."""
Fraction = Annotated[float, Field(ge=0, lt=1)]
"""A number from 0 to 1, without 1: a dropout rate, the decay of an average."""
AbsolutePath = Annotated[Path, AfterValidator(Path.absolute)]
"""A path that stays valid when a run is continued in another working folder."""
DeviceName = Literal["auto", "cpu", "cuda", "mps"]
"""Where to compute; `auto` is the fastest device of the machine."""
