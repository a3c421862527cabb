"""The tiny model's vision tower in the test process: images as the engine gets them, and the rows in a file."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image

from skills.skill_draft.engine import binding
from skills.skill_draft.engine.binding import L, Model, ModelParams
from skills.skill_draft.engine.messages import Event, Image, Request, Rows, RowsRead, Turn, WantRows

from .harness import TINY, EngineUnderTest, ask

TOWER = TINY.parent / "tiny-qwen3vl-mmproj.gguf"
SAMPLES = sorted((TINY.parent / "tiny-qwen3vl-samples").glob("*.png"))
ROW_WIDTH = 384
WHAT, WHAT_TWO = "What is in the image?", "What is in the images?"


@dataclass(frozen=True, slots=True)
class Encoded:
    """An image and its rows."""

    name: str
    image: Image
    rows: npt.NDArray[np.float32]

    @property
    def answer(self) -> str:
        """What the model should see in it."""
        colour, shape, _ = self.name.split("-")
        return f"a {colour} {shape}"


@functools.cache
def _tower() -> tuple[Any, Any]:
    """Return mtmd's bindings and a context of the tower."""
    mtmd: Any = importlib.import_module("llama_cpp.mtmd_cpp")
    # The package has just made itself the receiver of llama.cpp's log.
    L.llama_log_set(binding._on_log, None)
    mtmd.mtmd_log_set(binding._on_log, None)
    params = mtmd.mtmd_context_params_default()
    params.use_gpu = params.warmup = False
    params.n_threads, params.image_max_tokens = 1, 1024
    context = mtmd.mtmd_init_from_file(str(TOWER).encode(), Model(TINY, ModelParams()).handle, params)
    assert context, "the tower cannot be loaded"
    return mtmd, context


def encode(picture: PIL.Image.Image, name: str = "") -> Encoded:
    """Return a picture, whose sides are multiples of 32, as the vision tower encodes it."""
    mtmd, context = _tower()
    width, height = picture.size
    pixels = picture.convert("RGB").tobytes()
    bitmap = mtmd.mtmd_bitmap_init(width, height, (ctypes.c_uint8 * len(pixels)).from_buffer_copy(pixels))
    marker = mtmd.mtmd_default_marker()
    text, chunks = mtmd.mtmd_input_text(marker, len(marker), False, True), mtmd.mtmd_input_chunks_init()
    assert mtmd.mtmd_tokenize(context, chunks, ctypes.byref(text), (mtmd.mtmd_bitmap_p_ctypes * 1)(bitmap), 1) == 0
    kinds = [mtmd.mtmd_input_chunks_get(chunks, i) for i in range(mtmd.mtmd_input_chunks_size(chunks))]
    chunk = next(c for c in kinds if mtmd.mtmd_input_chunk_get_type(c) == 1)
    n = mtmd.mtmd_input_chunk_get_n_tokens(chunk)
    assert n == (width // 32) * (height // 32), "the tower resizes the picture"
    assert mtmd.mtmd_encode_chunk(context, chunk) == 0
    address = ctypes.cast(mtmd.mtmd_get_output_embd(context), ctypes.POINTER(ctypes.c_float))
    rows = np.ctypeslib.as_array(address, (n, ROW_WIDTH)).copy()
    mtmd.mtmd_input_chunks_free(chunks)
    mtmd.mtmd_bitmap_free(bitmap)
    key = hashlib.sha256(f"{width}x{height}".encode() + pixels).digest()
    return Encoded(name, Image(key=key, across=width // 32, down=height // 32), rows)


@functools.cache
def samples() -> list[Encoded]:
    """Return the samples, in 96 x 96 pixels, which is the least that the tower takes: nine tokens each."""
    encoded = []
    for path in SAMPLES:
        picture = PIL.Image.open(path).convert("RGB")
        encoded.append(encode(picture.resize((96, 96), PIL.Image.Resampling.BICUBIC), path.stem))
    return encoded


def large(which: int, across: int = 5, down: int = 4) -> Encoded:
    """Return a sample as a larger image."""
    picture = PIL.Image.open(SAMPLES[which]).convert("RGB")
    return encode(picture.resize((32 * across, 32 * down)), SAMPLES[which].stem)


def about(*parts: str | Encoded, **fields: Any) -> Request:
    """Return a request whose only turn has these parts."""
    given = tuple(part if isinstance(part, str) else part.image for part in parts)
    return ask(turns=(Turn(role="user", parts=given),), **fields)


class Seeing(EngineUnderTest):
    """An engine that reads images, with a server that has the rows of all of them."""

    def __init__(self, folder: Path, images: list[Encoded], *, delay_s: float = 0.0, **config: Any) -> None:
        self.path = folder / "rows"
        self.offsets: dict[bytes, int] = {}
        with self.path.open("wb") as file:
            file.write(b"\xff" * 64)  # offset 0 is nobody's
            for encoded in images:
                self.offsets[encoded.image.key] = file.tell()
                file.write(encoded.rows.tobytes())
        self.delay_s = delay_s
        self.holds_back = False
        self.wanted: list[WantRows] = []
        self.read: list[RowsRead] = []
        super().__init__(rows_path=str(self.path), **config)

    def _on_events(self, events: list[Event]) -> None:
        super()._on_events(events)
        for event in events:
            if isinstance(event, WantRows):
                self.wanted.append(event)
                if not self.holds_back:
                    threading.Thread(target=self._bring, args=(event,), daemon=True).start()
            elif isinstance(event, RowsRead):
                self.read.append(event)

    def _bring(self, wanted: WantRows) -> None:
        time.sleep(self.delay_s)
        self.bring(wanted)

    def bring(self, wanted: WantRows) -> None:
        """Answer that the rows are there."""
        key = wanted.image.key
        self.engine.inbox.put(Rows(id=wanted.id, key=key, offset=self.offsets[key]))
