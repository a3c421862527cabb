"""Write a GGUF with the shapes and types of Qwen3-VL-4B in IQ4_NL, to measure its speed without its weights.

Speed, memory and loading time do not depend on the values of weights; only the answers do. So the values are chosen:
the first block and the embeddings are a table of successors (`successors.py`), and the outputs of all other blocks are
multiplied by 0. The model walks through a fixed order of words and never ends its turn; asked for a correction (the
third answer of a conversation), it repeats the same words with one in ten replaced. So every server, ours and the
peers, decodes, speculates and verifies for real on the same predictable text.

    python -m bench.shape_model [--blocks 36] [--out FILE]      (2.4 GB, about half a minute)
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from bench import blocks
from bench.successors import FACTOR, SCALES, Successors, attention
from skills.skill_draft.catalog import EMBEDDED, find_model, models_dir

N_EMBD, N_FF, N_HEAD, N_HEAD_KV, HEAD, N_VOCAB = 2560, 9728, 32, 8, 128, 151_936
N_BLOCKS = 36
NAME = "Qwen3-VL-4B-shape-IQ4_NL.gguf"
_SMALL = 0.0005  # scale of the random blocks
_OF_IMAGES = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
_ROWS_AT_ONCE = 8192

# ChatML with a token for the turn's number after the assistant's name: see `successors.py`.
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}{{ '<|turn' ~ loop.index0 ~ '|>' }}{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{{ '<|vision_start|><|image_pad|><|vision_end|>' if part['type'] == 'image' else part['text'] }}"
    "{% endfor %}{% endif %}{{ '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<|turn' ~ (messages | length) ~ '|>' }}{% endif %}"
)


def cache_folder() -> Path:
    """Return the folder of models made for measuring."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sarai" / "bench"


def shape_model() -> Path:
    """Return the file, writing it first if necessary.

    Raises:
        OSError: The disk has no room for it.
    """
    path = cache_folder() / NAME
    if not path.exists():
        write(path, n_blocks=N_BLOCKS)
    return path


def write(path: Path, *, n_blocks: int) -> None:
    """Write the model; the file gets its final name once it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    disk = os.statvfs(path.parent)
    needed = 330_000_000 + n_blocks * 58_000_000
    if disk.f_bavail * disk.f_frsize < needed + 1_000_000_000:
        raise OSError(f"{path.parent} has no room for {needed / 1e9:.1f} GB")
    sys.stderr.write(f"writing {path} ({needed / 1e9:.1f} GB, once)\n")
    partial = path.with_suffix(".partial")
    writer = gguf.GGUFWriter(partial, "qwen3vl")
    _metadata(writer, n_blocks)
    order = _vocabulary(writer)
    tensors = list(_tensors(n_blocks))
    for name, rows, columns, kind in tensors:
        shape, dtype = ((columns,), np.float32) if kind == "F32" else ((rows, _row_bytes(columns, kind)), np.uint8)
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        raw = None if kind == "F32" else gguf.GGMLQuantizationType[kind]
        writer.add_tensor_info(name, shape, np.dtype(dtype), size, raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    rng = np.random.default_rng(4)
    for tensor in tensors:
        writer.write_tensor_data(_values(rng, order, tensor))
    writer.close()
    partial.replace(path)


def _metadata(writer: gguf.GGUFWriter, n_blocks: int) -> None:
    writer.add_name("Qwen3-VL-4B, shapes only")
    writer.add_description("For measuring speed. It knows no language.")
    writer.add_block_count(n_blocks)
    writer.add_context_length(262_144)
    writer.add_embedding_length(N_EMBD)
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(N_HEAD)
    writer.add_head_count_kv(N_HEAD_KV)
    writer.add_key_length(HEAD)
    writer.add_value_length(HEAD)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(5e6)
    writer.add_rope_dimension_sections([24, 20, 20, 0])
    writer.add_uint32("qwen3vl.n_deepstack_layers", 3)
    writer.add_quantization_version(2)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_IQ4_NL)


def _vocabulary(writer: gguf.GGUFWriter) -> Successors:
    """Write the embedded model's tokenizer, padded to Qwen's size; return the order of words."""
    reader = gguf.GGUFReader(find_model(EMBEDDED, models_dir()))
    old = {name: _field(reader, f"tokenizer.ggml.{name}") for name in ("tokens", "token_type", "merges")}
    tokens, types = list(old["tokens"]), list(old["token_type"])
    order = Successors(tokens, N_VOCAB)
    tokens += order.turn_texts + _OF_IMAGES
    types += [int(gguf.TokenType.CONTROL)] * len(order.turn_texts + _OF_IMAGES)
    types += [int(gguf.TokenType.UNUSED)] * (N_VOCAB - len(tokens))
    tokens += [f"[PAD{i}]" for i in range(len(tokens), N_VOCAB)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(list(old["merges"]))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
    return order


def _field(reader: gguf.GGUFReader, name: str) -> Any:
    field = reader.get_field(name)
    assert field is not None, f"the embedded model has {name}"
    return field.contents()


def _tensors(n_blocks: int) -> list[tuple[str, int, int, str]]:
    """Return name, rows, columns and type of all tensors, as llama.cpp's quantizer writes them for IQ4_NL."""
    found = [("token_embd", N_VOCAB, N_EMBD, "Q6_K"), ("output_norm", 1, N_EMBD, "F32")]
    for i in range(n_blocks):
        found += [
            (f"blk.{i}.{name}", rows, columns, kind)
            for name, rows, columns, kind in (
                ("attn_norm", 1, N_EMBD, "F32"),
                ("attn_q", N_HEAD * HEAD, N_EMBD, "IQ4_NL"),
                ("attn_k", N_HEAD_KV * HEAD, N_EMBD, "IQ4_NL"),
                ("attn_v", N_HEAD_KV * HEAD, N_EMBD, "Q5_K"),
                ("attn_q_norm", 1, HEAD, "F32"),
                ("attn_k_norm", 1, HEAD, "F32"),
                ("attn_output", N_EMBD, N_HEAD * HEAD, "IQ4_NL"),
                ("ffn_norm", 1, N_EMBD, "F32"),
                ("ffn_gate", N_FF, N_EMBD, "IQ4_NL"),
                ("ffn_up", N_FF, N_EMBD, "IQ4_NL"),
                ("ffn_down", N_EMBD, N_FF, "IQ4_NL"),
            )
        ]
    return [(f"{name}.weight", rows, columns, kind) for name, rows, columns, kind in found]


def _row_bytes(columns: int, kind: str) -> int:
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    return columns // int(block) * int(size)


def _values(rng: np.random.Generator, order: Successors, tensor: tuple[str, int, int, str]) -> npt.NDArray[np.generic]:
    name, rows, columns, kind = tensor
    part = name.split(".")[-2]
    if part == "token_embd":
        chunks = range(0, rows, _ROWS_AT_ONCE)
        return np.concatenate([
            blocks.q6_k(order.embeddings(range(i, min(rows, i + _ROWS_AT_ONCE))), SCALES, FACTOR) for i in chunks
        ])  # fmt: skip
    if name.startswith("blk.0.attn_") and (written := attention(part, rows, columns)) is not None:
        return written
    if kind == "F32":
        return np.ones(columns, np.float32)
    scale = 0.0 if part in ("attn_output", "ffn_down") else _SMALL
    return (blocks.random_iq4_nl if kind == "IQ4_NL" else blocks.random_q5_k)(rng, rows, columns, scale)


def main() -> int:
    """Write the model to `--out`, or to where the benchmarks look for it."""
    parser = argparse.ArgumentParser(prog="python -m bench.shape_model", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--blocks", type=int, default=N_BLOCKS, help="number of blocks; fewer for tests of this program"
    )
    parser.add_argument("--out", type=Path, help="the file to write")
    arguments = parser.parse_args()
    if arguments.out:
        write(arguments.out, n_blocks=arguments.blocks)
    else:
        sys.stdout.write(f"{shape_model()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
