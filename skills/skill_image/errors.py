"""The error for pictures that cannot be normalised."""

from __future__ import annotations

from typing import Literal

Fault = Literal["invalid", "too_large"]


class BadPictureError(Exception):
    """The picture cannot be normalised, or not with these options.

    Args:
        message: Continues a sentence that begins with the field's name: "is empty".
        fault: The kind of fault.
        field: The request field to change, if it is not the picture.
    """

    def __init__(self, message: str, *, fault: Fault = "invalid", field: str = "image") -> None:
        super().__init__(message)
        self.fault: Fault = fault
        self.field = field
