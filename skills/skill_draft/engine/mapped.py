"""Files in this process's memory: mapping them, and which ones are mapped."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

import numpy as np

from .tokens import Bytes

Span = tuple[int, int]
"""Addresses: begin and end."""


def map_file(path: Path) -> Bytes:
    """Return the bytes of a file, mapped as long as anybody refers to them."""
    with path.open("rb") as file:
        return np.frombuffer(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ), np.uint8)


def mapped_files() -> dict[str, list[Span]]:
    """Return the files that this process has mapped, by path, and where."""
    files: dict[str, list[Span]] = {}
    for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        span, *_, path = line.split(" ", maxsplit=5)
        begin, end = (int(address, 16) for address in span.split("-"))
        files.setdefault(path.strip().removesuffix(" (deleted)"), []).append((begin, end))
    return files


def spans_of(path: Path) -> list[Span]:
    """Return where a file is mapped."""
    return mapped_files().get(os.path.realpath(path), [])


def release(path: Path) -> None:
    """Take a mapped file out of this process's memory. Parts that are read again come back from the page cache."""
    for begin, end in spans_of(path):
        ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.MADV_DONTNEED)
