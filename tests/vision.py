"""The tiny model's vision tower and images, and the rows that the bindings give for them without any code of ours."""

from __future__ import annotations

import functools
import json
import subprocess
import sys

import numpy as np
import numpy.typing as npt

from tests.servers import ROOT, TINY

MMPROJ = TINY.parent / "tiny-qwen3vl-mmproj.gguf"
SAMPLES = TINY.parent / "tiny-qwen3vl-samples"
ROW_WIDTH = 384


def sample(name: str) -> bytes:
    """The file of an image whose name says what it shows: `red-circle-left`."""
    return (SAMPLES / f"{name}.png").read_bytes()


@functools.cache
def reference_rows(width: int, height: int, pixels: bytes) -> npt.NDArray[np.float32]:
    """The rows of an image by the bindings' high-level loader, with the whole text model, in a process of its own."""
    asked = json.dumps([str(TINY), str(MMPROJ), width, height])
    done = subprocess.run(
        [sys.executable, "-c", _REFERENCE, asked], input=pixels, capture_output=True, cwd=ROOT, timeout=120, check=True
    )
    return np.frombuffer(done.stdout, np.float32).reshape(-1, ROW_WIDTH)


# A BMP through mtmd's own reader of files, and its tokenizer with a marker.
_REFERENCE = """
import ctypes, io, json, os, sys
os.environ["GGML_CPU_TILED_MM"] = "0"
import numpy as np
import llama_cpp as L
from llama_cpp import mtmd_cpp as M
from PIL import Image
L.llama_cpp._lib.ggml_backend_load_all_from_path(os.path.join(os.path.dirname(L.__file__), "lib").encode())
text, mmproj, width, height = json.loads(sys.argv[1])
file = io.BytesIO()
Image.frombytes("RGB", (width, height), sys.stdin.buffer.read()).save(file, "BMP")
data = file.getvalue()
model = L.Llama(text, n_ctx=256, verbose=False)
params = M.mtmd_context_params_default()
params.use_gpu, params.warmup, params.image_max_tokens, params.n_threads = False, False, 1024, 1
params.flash_attn_type = L.LLAMA_FLASH_ATTN_TYPE_ENABLED
tower = M.mtmd_init_from_file(mmproj.encode(), model.model, params)
buffer = (ctypes.c_uint8 * len(data)).from_buffer_copy(data)
bitmap = M.mtmd_helper_bitmap_init_from_buf(tower, buffer, len(data), False)
chunks, text = M.mtmd_input_chunks_init(), b"<__media__>"
asked = M.mtmd_input_text(text, len(text), False, True)
assert M.mtmd_tokenize(tower, chunks, ctypes.byref(asked), (M.mtmd_bitmap_p_ctypes * 1)(bitmap), 1) == 0
(image,) = [c for c in (M.mtmd_input_chunks_get(chunks, i) for i in range(M.mtmd_input_chunks_size(chunks)))
            if M.mtmd_input_chunk_get_type(c) == M.MTMD_INPUT_CHUNK_TYPE_IMAGE]
n = M.mtmd_input_chunk_get_n_tokens(image)
assert M.mtmd_encode_chunk(tower, image) == 0
sys.stdout.buffer.write(ctypes.string_at(M.mtmd_get_output_embd(tower), n * 384 * 4))
"""
