"""What is wrong with a picture."""

from __future__ import annotations

from typing import Literal

Fault = Literal["invalid", "too_large"]


class BadPictureError(Exception):
    """It cannot be taken, or not as it is wished.

    Args:
        message: goes on where the field's name begins: "is empty".
        fault: what kind of fault it is.
        field: of the request, where something else is to be changed than the picture.
    """

    def __init__(self, message: str, *, fault: Fault = "invalid", field: str = "image") -> None:
        super().__init__(message)
        self.fault: Fault = fault
        self.field = field
