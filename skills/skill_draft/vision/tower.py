"""The vision tower by llama.cpp's library for it (mtmd): pixels to rows. One thread at a time may use it.

llama.cpp's own readers of image files never see a user's bytes: it gets pixels.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

from skills.skill_draft.engine.binding import L, load_bindings, log_tail

from .limits import MAX_TOKENS, MIN_TOKENS
from .pixels import Pixels

_FLOAT_BYTES = 4

M: Any = load_bindings("mtmd_cpp")


class TowerError(Exception):
    """The vision tower cannot be used; the message says why."""


@L.llama_log_callback  # type: ignore[untyped-decorator]
def _on_log(level: int, text: bytes, _data: object) -> None:
    """Keep the last errors for our own messages; the rest could contain a prompt (level 4 is ERROR)."""
    if level == 4:
        log_tail.append(text.decode("utf-8", "replace").strip(" .\n"))
        del log_tail[:-4]


M.mtmd_log_set(_on_log, None)
M.mtmd_helper_log_set(_on_log, None)


class Tower:
    """An open vision tower, with the vocabulary of the language model that its rows are for.

    Args:
        model: The language model's file. Of it, only the vocabulary is loaded.
        mmproj: The vision tower's file.
        row_width: Floats in a row, as the language model wants them.
        threads: Number of threads. The bits do not depend on it.

    Raises:
        TowerError: A file cannot be loaded, or they do not fit together.
    """

    def __init__(self, model: Path, mmproj: Path, *, row_width: int, threads: int) -> None:
        self._row_width = row_width
        params = L.llama_model_default_params()
        params.vocab_only, params.n_gpu_layers = True, 0
        self._model = L.llama_model_load_from_file(str(model).encode(), params)
        if not self._model:
            raise TowerError(f"llama.cpp cannot load the vocabulary of {model.name}: {_reason()}")
        native = M.mtmd_context_params_default()
        native.use_gpu = native.print_timings = native.warmup = False  # a warm-up reserves for the largest image
        native.n_threads = threads
        native.flash_attn_type = L.LLAMA_FLASH_ATTN_TYPE_ENABLED  # without it, an image of 1,024 tokens takes 1.2 GB
        native.image_min_tokens, native.image_max_tokens = MIN_TOKENS, MAX_TOKENS
        self._context = M.mtmd_init_from_file(str(mmproj).encode(), self._model, native)
        if not self._context:
            raise TowerError(f"llama.cpp cannot load {mmproj.name}: {_reason()}")
        if not M.mtmd_support_vision(self._context):
            raise TowerError(f"{mmproj.name} reads no images")

    def encode(self, pixels: Pixels, into: memoryview) -> None:
        """Write the rows of an image: float32 of shape (image tokens, row width).

        Args:
            pixels: The image.
            into: Where they go, at its beginning.

        Raises:
            TowerError: The library failed, or splits the image in another way.
        """
        width, height = pixels.size
        data = (ctypes.c_uint8 * len(pixels.data)).from_buffer_copy(pixels.data)
        bitmap, chunks = M.mtmd_bitmap_init(width, height, data), M.mtmd_input_chunks_init()
        try:
            self._encode(bitmap, chunks, pixels.across * pixels.down)
            size = pixels.across * pixels.down * self._row_width * _FLOAT_BYTES
            room = (ctypes.c_char * size).from_buffer(into)
            ctypes.memmove(room, M.mtmd_get_output_embd(self._context), size)  # no copy between: it has up to 40 MiB
        finally:
            M.mtmd_input_chunks_free(chunks)
            M.mtmd_bitmap_free(bitmap)

    def _encode(self, bitmap: Any, chunks: Any, n_tokens: int) -> None:
        marker = M.mtmd_default_marker()
        text = M.mtmd_input_text(marker, len(marker), False, True)
        code = M.mtmd_tokenize(
            self._context, chunks, ctypes.byref(text), (M.mtmd_bitmap_p_ctypes * 1)(bitmap), 1
        )  # fmt: skip
        if code:
            raise TowerError(f"mtmd_tokenize returned {code}: {_reason()}")
        parts = (M.mtmd_input_chunks_get(chunks, i) for i in range(M.mtmd_input_chunks_size(chunks)))
        image = next(part for part in parts if M.mtmd_input_chunk_get_type(part) == M.MTMD_INPUT_CHUNK_TYPE_IMAGE)
        if (found := M.mtmd_input_chunk_get_n_tokens(image)) != n_tokens:
            raise TowerError(f"the tower reads the image as {found} tokens, not {n_tokens}: not of Qwen3-VL's kind")
        if code := M.mtmd_encode_chunk(self._context, image):
            raise TowerError(f"mtmd_encode_chunk returned {code}: {_reason()}")


def _reason() -> str:
    return "; ".join(log_tail) or "no reason given"
