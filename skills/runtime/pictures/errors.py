"""The error for a picture that cannot be taken."""

from __future__ import annotations

from typing import Literal

Fault = Literal["invalid", "too_large"]


class BadPictureError(Exception):
    """A picture cannot be taken, or not as requested.

    Args:
        message: continues after the name of the field: "is empty".
        fault: the kind of fault.
        field: the field of the request to change, if that is not the picture.
    """

    def __init__(self, message: str, *, fault: Fault = "invalid", field: str = "image") -> None:
        super().__init__(message)
        self.fault: Fault = fault
        self.field = field
