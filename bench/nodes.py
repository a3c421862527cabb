"""Time single nodes of ggml's graphs, in a separate process: `python -m bench.nodes LIBRARY THREADS TYPES ROWS`.

Prints a JSON line for each node. Weights and caches are cold: a graph has enough copies of the node, each with its own
weights, to exceed the CPU's caches by far. The kernels are those that llama.cpp chooses: its own with
`SARAI_KERNELS=off` in the environment.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

from bench.ggml import F16, F32, TYPES, Ggml, Graph, row_bytes

COLD_BYTES = 192 << 20
# (k, columns): the largest matrices of the 4B, and for Q8_0 those of the 135M too.
SHAPES = {name: [(2560, 9728)] for name in TYPES} | {"Q8_0": [(2560, 9728), (576, 1536)]}
# Heads, heads of keys, size of a head.
ATTENTION = {"135m": (9, 3, 64), "4b": (32, 8, 128)}
# (rows, cells): each row a separate sequence with this many cells; then a chunk of one prompt.
DECODING = [(rows, cells) for cells in (128, 1024) for rows in (1, 4, 8, 16)]
CHUNK = (128, 1024)
LAYERS = 8
_SECONDS = 0.25
_REPEATS = 3


def main() -> None:
    """Measure the library with the types and rows of the arguments."""
    library, threads, types, rows = sys.argv[1:5]
    ggml = Ggml(Path(library), threads=int(threads))
    counts = [int(n) for n in rows.split(",")]
    for name in types.split(","):
        for shape in SHAPES[name]:
            _matrices(ggml, name, shape, counts)
    for model in ATTENTION:
        for n, cells in DECODING:
            _attention(ggml, model, n, cells, chunk=False)
        _attention(ggml, model, *CHUNK, chunk=True)


def _say(**figures: object) -> None:
    sys.stdout.write(json.dumps(figures) + "\n")
    sys.stdout.flush()


def _ms(graph: Graph) -> float:
    """Return the shortest time to compute a graph, in milliseconds, without the first run."""
    graph.compute()
    times: list[float] = []
    while len(times) < _REPEATS or sum(times) < _SECONDS:
        begin = time.perf_counter()
        graph.compute()
        times.append(time.perf_counter() - begin)
    return 1000 * min(times)


def _matrices(ggml: Ggml, name: str, shape: tuple[int, int], counts: list[int]) -> None:
    k, columns = shape
    holder = ggml.graph()
    copies = max(2, COLD_BYTES // row_bytes(TYPES[name], k) // columns)
    weights, chosen = ggml.weights(holder, TYPES[name], k, columns, copies)
    for rows in counts:
        graph = ggml.graph()
        values = graph.tensor(F32, k, rows)
        graph.finish([graph.product(w, values) for w in weights])
        graph.set(values, np.random.default_rng(1).standard_normal((rows, k), np.float32))
        _say(kind="matrix", type=name, k=k, columns=columns, rows=rows, chosen=chosen, ms=_ms(graph) / copies)
        graph.close()
    holder.close()


def _attention(ggml: Ggml, model: str, rows: int, cells: int, *, chunk: bool) -> None:
    """Measure with keys in Q8_0 and values in F16, in one cache, as in the engine."""
    heads, key_heads, size = ATTENTION[model]
    n = cells if chunk else rows * cells
    graph = ggml.graph()
    mask = graph.tensor(F16, n, rows)
    nodes = []
    for _ in range(LAYERS):
        k = graph.permuted(graph.tensor(TYPES["Q8_0"], size, key_heads, n), 0, 2, 1, 3)
        v = graph.permuted(graph.tensor(F16, size, key_heads, n), 0, 2, 1, 3)
        q = graph.permuted(graph.tensor(F32, size, heads, rows), 0, 2, 1, 3)
        nodes.append(graph.attention(q, k, v, mask, size**-0.5))
    graph.finish(nodes)
    row, cell = np.ogrid[:rows, :n]
    seen = cell <= cells - rows + row if chunk else cell // cells == row
    graph.set(mask, np.where(seen, 0, -np.inf).astype(np.float16))
    _say(kind="attention", model=model, rows=rows, cells=cells, chunk=chunk, ms=_ms(graph) / LAYERS)
    graph.close()


if __name__ == "__main__":
    main()
