"""A copy of a model whose matrices are packed already (SKILL_DRAFT_PACKED_DIR).

Loading a model packs its matrices for our kernels, into memory of this process alone: seconds for gigabytes. The copy
is the same file with packed matrices in the place of the others, so llama.cpp maps it as it is. That takes the time of
reading the vocabulary, replicas of one machine share the memory, and the kernel can take pages back without a kill.

The name of a copy includes a hash of the model's beginning, its size and its time of change, and one of how the kernels
of this CPU pack. So another model or another kind of CPU finds nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sys
from pathlib import Path

import numpy as np

from skills.gguf import Tensor

from .mapped import map_file
from .packing import PACKED_TYPES, TILE_ROWS, pack
from .private_folder import FolderError, locked, make_private
from .tokens import Bytes

_SUFFIX, _UNFINISHED = ".packed", ".packing"
# Matrices that are multiplied or looked up in, and used in no other way: only these can our kernels hold.
_KNOWN = re.compile(r"(token_embd|output|blk\.\d+\.(attn|ffn)_[a-z_]+)\.weight")
_SAMPLE_WIDTH = 256


class NoCopyError(Exception):
    """There is no packed copy, and none can be made; the message says why."""


def packed_copy(model: Path, tensors: tuple[Tensor, ...], folder: Path) -> Path:
    """Return the packed copy of a model, which is made if it is missing.

    Args:
        model: The GGUF file.
        tensors: What it contains.
        folder: Where copies are.

    Raises:
        NoCopyError: The model is not one that can be packed so, or the folder cannot be used.
    """
    matrices = _matrices(tensors)
    try:
        make_private(folder)
        copy = folder / _name(model, tensors, matrices)
        if not _is_whole(copy, model):
            with locked(folder) as is_ours:
                if not is_ours:
                    raise NoCopyError("another process is making it")
                if not _is_whole(copy, model):
                    _make(model, tensors, matrices, copy)
    except (OSError, FolderError) as error:
        raise NoCopyError(str(error)) from error
    return copy


def _matrices(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the matrices that a copy has packed.

    Raises:
        NoCopyError: One of them cannot be, and the kernels take all of them for packed.
    """
    matrices = tuple(tensor for tensor in tensors if tensor.type in PACKED_TYPES and len(tensor.shape) == 2)
    for tensor in matrices:
        if tensor.shape[1] % TILE_ROWS:
            raise NoCopyError(f"{tensor.name} has {tensor.shape[1]:,} rows, no multiple of {TILE_ROWS}")
        if not _KNOWN.fullmatch(tensor.name):
            raise NoCopyError(f"it is not known how {tensor.name} is used")
    if not matrices:
        raise NoCopyError("the model has no matrices to pack")
    return matrices


def _name(model: Path, tensors: tuple[Tensor, ...], matrices: tuple[Tensor, ...]) -> str:
    layout, source, about = hashlib.sha256(), hashlib.sha256(), model.stat()
    for number in sorted({tensor.type_number for tensor in matrices}):
        # What the kernels make of a sample tells how they pack.
        sample = next(tensor for tensor in matrices if tensor.type_number == number)
        block_bytes = sample.size_bytes * _SAMPLE_WIDTH // (sample.shape[0] * sample.shape[1])
        rows = (np.arange(TILE_ROWS * block_bytes) % 251).astype(np.uint8)
        for part in pack(rows, type_number=number, width=_SAMPLE_WIDTH):
            layout.update(part.data)
    source.update(f"{about.st_size} {about.st_mtime_ns}".encode())
    with model.open("rb") as file:
        source.update(file.read(min(tensor.offset for tensor in tensors)))
    return f"{model.stem}-{layout.hexdigest()[:8]}-{source.hexdigest()[:16]}{_SUFFIX}"


def _is_whole(copy: Path, model: Path) -> bool:
    """Return whether there is a copy. It got its name when it was complete and on the disk."""
    try:
        return copy.stat().st_size == model.stat().st_size
    except FileNotFoundError:
        return False


def _make(model: Path, tensors: tuple[Tensor, ...], matrices: tuple[Tensor, ...], copy: Path) -> None:
    size = model.stat().st_size
    sys.stderr.write(f"making a packed copy of {model.name}, once: {size / (1 << 20):,.0f} MB in {copy.parent}\n")
    sys.stderr.flush()
    for old in copy.parent.glob(f"*{_UNFINISHED}"):  # of a process that was killed
        old.unlink()
    partial = copy.with_suffix(_UNFINISHED)
    try:
        with partial.open("xb") as target:
            os.fchmod(target.fileno(), 0o600)
            os.posix_fallocate(target.fileno(), 0, size)  # finds out before the work whether the disk has room
            _write(map_file(model), tensors, matrices, target.fileno())
            os.fsync(target.fileno())  # a file with its name, but without its contents, would be a broken model
        partial.replace(copy)
    finally:
        partial.unlink(missing_ok=True)
    # Of the same file as it was before it changed; processes that have mapped it keep it.
    for old in copy.parent.glob(f"*{_SUFFIX}"):
        if old != copy and old.name.rpartition("-")[0] == copy.name.rpartition("-")[0]:
            with contextlib.suppress(FileNotFoundError):
                old.unlink()


def _write(whole: Bytes, tensors: tuple[Tensor, ...], matrices: tuple[Tensor, ...], descriptor: int) -> None:
    packed = frozenset(matrices)
    _write_at(descriptor, whole[: min(tensor.offset for tensor in tensors)], 0)
    for tensor in tensors:
        data, offset = whole[tensor.offset :][: tensor.size_bytes], tensor.offset
        if tensor not in packed:
            _write_at(descriptor, data, offset)
            continue
        for part in pack(data, type_number=tensor.type_number, width=tensor.shape[0]):
            offset = _write_at(descriptor, part, offset)


def _write_at(descriptor: int, data: Bytes, offset: int) -> int:
    """Write all of the data; return the offset of its end."""
    rest = data.data
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[written:], offset + written
    return offset
