"""The types of values that keys take, stricter than pydantic's own."""

from typing import Annotated, Any, Literal

from pydantic import Field, Strict

# Strict: pydantic would read `true` as 1 elsewhere.
Whole = Annotated[int, Strict()]
Positive = Annotated[Whole, Field(gt=0)]
Count = Annotated[Whole, Field(ge=0)]
Number = Annotated[float, Strict()]
Share = Annotated[Number, Field(ge=0, lt=1)]
Switch = Annotated[bool, Strict()]
Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^[^./\\\x00-\x1f][^/\\\x00-\x1f]*$", max_length=128)]
"""Names a folder, so that it leads to no other."""
Closed: Any = {"extra": "forbid"}
DType = Literal["auto", "fp32", "bf16", "fp16"]
