"""Write the vision tower that goes with the shape model: the shapes and types of Qwen3-VL-4B's mmproj in Q8_0.

Speed and memory do not depend on the values of weights. The last matrices are zero, so every image is read as rows of
zeros and the shape model goes on with its order of words; what comes before them is random.

    python -m bench.shape_tower [--blocks 24] [--out FILE]      (0.45 GB, some seconds)
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import gguf
import numpy as np

from bench import blocks
from bench.shape_model import N_EMBD, cache_folder

NAME = "mmproj-Qwen3-VL-4B-shape-Q8_0.gguf"
WIDTH, N_FF, N_HEAD, N_BLOCKS, PATCH, MERGED = 1024, 4096, 16, 24, 16, 4
_GRID = 48  # positions are learned on a grid of 48 x 48
_DEEPSTACK = (5, 11, 17)
_SMALL = 0.0002

_MATRICES = (
    ("attn_qkv", 3 * WIDTH, WIDTH),
    ("attn_out", WIDTH, WIDTH),
    ("ffn_up", N_FF, WIDTH),
    ("ffn_down", WIDTH, N_FF),
)


def shape_tower() -> Path:
    """Return the file, writing it first if necessary."""
    path = cache_folder() / NAME
    if not path.exists():
        write(path)
    return path


def write(path: Path, *, n_blocks: int = N_BLOCKS) -> None:
    """Write the tower; the file gets its final name once it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    writer = gguf.GGUFWriter(partial, "clip")
    _metadata(writer, n_blocks)
    rng = np.random.default_rng(5)
    stages = sorted({min(stage, n_blocks - 1) for stage in _DEEPSTACK})
    for name, rows, columns in _matrices(n_blocks, stages):
        is_last = name == "mm.2" or name.endswith("fc2")
        data = blocks.random_q8_0(rng, rows, columns, 0.0 if is_last else _SMALL)
        writer.add_tensor(f"{name}.weight", data, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(f"{name}.bias", np.zeros(rows, np.float32))
    for name, size in _norms(n_blocks, stages):
        writer.add_tensor(f"{name}.weight", np.ones(size, np.float32))
        writer.add_tensor(f"{name}.bias", np.zeros(size, np.float32))
    for name in ("v.patch_embd.weight", "v.patch_embd.weight.1"):
        writer.add_tensor(name, rng.normal(0, 0.02, (WIDTH, 3, PATCH, PATCH)).astype(np.float32))
    writer.add_tensor("v.patch_embd.bias", np.zeros(WIDTH, np.float32))
    writer.add_tensor("v.position_embd.weight", rng.normal(0, 0.02, (_GRID**2, WIDTH)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.replace(path)


def _metadata(writer: gguf.GGUFWriter, n_blocks: int) -> None:
    writer.add_type("mmproj")
    writer.add_name("Qwen3-VL-4B's vision tower, shapes only")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", "qwen3vl_merger")
    writer.add_bool("clip.use_gelu", True)
    numbers = {
        "image_size": _GRID * PATCH, "patch_size": PATCH, "spatial_merge_size": 2, "embedding_length": WIDTH,
        "feed_forward_length": N_FF, "projection_dim": N_EMBD, "block_count": n_blocks, "attention.head_count": N_HEAD,
    }  # fmt: skip
    for name, number in numbers.items():
        writer.add_uint32(f"clip.vision.{name}", number)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-6)
    for name in ("image_mean", "image_std"):
        writer.add_array(f"clip.vision.{name}", [0.5, 0.5, 0.5])
    writer.add_array("clip.vision.is_deepstack_layers", [i in _DEEPSTACK for i in range(n_blocks)])


def _matrices(n_blocks: int, stages: list[int]) -> list[tuple[str, int, int]]:
    """Return name, rows and columns of the matrices in Q8_0."""
    wide = MERGED * WIDTH
    found = [(f"v.blk.{i}.{name}", rows, columns) for i in range(n_blocks) for name, rows, columns in _MATRICES]
    for name in (*(f"v.deepstack.{i}" for i in stages), "mm"):
        first, last = ("mm.0", "mm.2") if name == "mm" else (f"{name}.fc1", f"{name}.fc2")
        found += [(first, wide, wide), (last, N_EMBD, wide)]
    return found


def _norms(n_blocks: int, stages: list[int]) -> list[tuple[str, int]]:
    norms = [(f"v.blk.{i}.{name}", WIDTH) for i in range(n_blocks) for name in ("ln1", "ln2")]
    return [*norms, ("v.post_ln", WIDTH), *((f"v.deepstack.{i}.norm", MERGED * WIDTH) for i in stages)]


def main() -> int:
    """Write the tower to `--out`, or to where the benchmarks look for it."""
    parser = argparse.ArgumentParser(prog="python -m bench.shape_tower", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--blocks", type=int, default=N_BLOCKS, help="number of blocks; fewer for tests")
    parser.add_argument("--out", type=Path, help="the file to write")
    arguments = parser.parse_args()
    if arguments.out:
        write(arguments.out, n_blocks=arguments.blocks)
    else:
        sys.stdout.write(f"{shape_tower()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
