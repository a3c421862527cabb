"""Measure the draft skill against llama.cpp's own server, side by side, over the wire. See README.md."""
