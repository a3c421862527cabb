"""Text from outside that may be no UTF-8: Python lets such bytes through as surrogates, gRPC does not."""

from __future__ import annotations

_SHOWN = 12


def not_utf8(text: str) -> str:
    """Which byte of a text is not valid UTF-8, in words; empty where all are.

    Args:
        text: decoded with `surrogateescape`, as arguments and environment variables are.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        around = text[max(0, error.start - _SHOWN) : error.start + _SHOWN]
        return f"not valid UTF-8 (byte {len(text[: error.start].encode())}, in {around!r})"
    return ""
