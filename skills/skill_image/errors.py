"""What is wrong with a picture."""

from __future__ import annotations

from typing import Literal

Fault = Literal["invalid", "too_large"]


class BadPictureError(Exception):
    """It cannot be taken. The message goes on where `image` begins: "is empty"."""

    def __init__(self, message: str, *, fault: Fault = "invalid") -> None:
        super().__init__(message)
        self.fault: Fault = fault
