"""What the vision process takes, and what an image may be. The server imports this, and no Pillow."""

from __future__ import annotations

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""Pillow's names of the formats that are read."""
MIN_TOKENS, MAX_TOKENS = 8, 1024
"""Image tokens that an image is read as. The tower's own minimum is 8,192 pixels."""
MOST_PIXELS = 40_000_000
"""An image of more pixels is not decoded."""
