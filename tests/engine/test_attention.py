"""Our attention in every CPU library that this machine supports: as exact as ggml's, the same bits in any batch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from bench.ggml import F16, F32, TYPES

from .libraries import Run, ggml, run

__all__ = ["run"]  # a fixture

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Q8_0 = TYPES["Q8_0"]
# Types of keys and values; heads, key heads and size of a head.
CACHES = [(Q8_0, F16), (F16, F16), (Q8_0, Q8_0), (F16, Q8_0)]
SHAPES = [(9, 3, 64), (4, 1, 96), (8, 2, 128), (2, 2, 256)]
CELLS = 700
# Relative error that the types' own rounding may cause.
WITHIN = {F16: 0.002, Q8_0: 0.03}


class Cache:
    """Return random keys and values, shape (cells, key heads, size), and queries, shape (rows, heads, size)."""

    def __init__(self, types: tuple[int, int], shape: tuple[int, int, int], rows: int) -> None:
        heads, key_heads, size = shape
        rng = np.random.default_rng(size)
        self.types = types
        self.keys, self.values = rng.standard_normal((2, CELLS, key_heads, size), np.float32)
        self.queries = rng.standard_normal((rows, heads, size), np.float32)

    def attend(self, mask: Mask, rows: slice, cells: npt.NDArray[np.int64], threads: int = 1) -> Floats:
        """Return the result for some rows, with these cells in order, shape (rows, heads, size)."""
        lib = ggml(threads)
        graph = lib.graph()
        try:
            queries = np.ascontiguousarray(self.queries[rows])
            n, heads, size = queries.shape
            q = graph.tensor(F32, size, heads, n)
            k, v = (graph.tensor(type_, size, self.keys.shape[1], len(cells)) for type_ in self.types)
            seen = graph.tensor(F16, len(cells), n)
            by_head = [graph.permuted(each, 0, 2, 1, 3) for each in (q, k, v)]
            node = graph.attention(by_head[0], by_head[1], by_head[2], seen, size**-0.5)
            graph.finish([node])
            graph.set(q, queries)
            for tensor, values, type_ in ((k, self.keys, self.types[0]), (v, self.values, self.types[1])):
                graph.set(tensor, lib.quantized(type_, np.ascontiguousarray(values[cells]).reshape(-1, size)))
            values_of_mask = np.where(mask[rows][:, cells], 0, -np.inf)
            graph.set(seen, np.ascontiguousarray(values_of_mask, np.float16))
            graph.compute()
            return graph.read(node, n, heads, size)
        finally:
            graph.close()

    def exact(self, mask: Mask) -> npt.NDArray[np.float64]:
        """Return the result in double precision, without rounding the inputs."""
        sharing = self.queries.shape[1] // self.keys.shape[1]
        keys, values = (np.repeat(x, sharing, axis=1).astype(np.float64) for x in (self.keys, self.values))
        scores = np.einsum("rhd,chd->rhc", self.queries, keys) * self.queries.shape[2] ** -0.5
        weights = np.exp(scores) * mask[:, None, :]
        result: npt.NDArray[np.float64] = np.einsum(
            "rhc,chd->rhd", weights / weights.sum(axis=2, keepdims=True), values
        )
        return result


def masks(rows: int) -> dict[str, Mask]:
    """Return which cells each row sees: one prompt, sequences with a common prefix, and with holes."""
    row, cell = np.ogrid[:rows, :CELLS]
    return {
        "prompt": cell <= CELLS - rows + row,
        "forks": (cell < 300) | (cell % rows == row),
        "holes": np.random.default_rng(0).random((rows, CELLS)) < 0.6,
    }


def check_rows(types: tuple[int, int]) -> None:
    """Compare each row alone, without the cells that it does not see, with the same row in the batch."""
    for shape in SHAPES:
        cache = Cache(types, shape, rows=19)
        for kind, mask in masks(19).items():
            together = cache.attend(mask, slice(None), np.arange(CELLS), threads=2)
            for row in (0, 1, 7, 18):
                alone = cache.attend(mask, slice(row, row + 1), np.flatnonzero(mask[row]))
                same = np.array_equal(alone[0].view(np.uint32), together[row].view(np.uint32))
                assert same, f"row {row}, {kind}, {shape}"


def check_distance(types: tuple[int, int]) -> None:
    for shape in SHAPES:
        cache = Cache(types, shape, rows=19)
        for kind, mask in masks(19).items():
            exact = cache.exact(mask)
            error = cache.attend(mask, slice(None), np.arange(CELLS)) - exact
            assert np.linalg.norm(error) < max(WITHIN[t] for t in types) * np.linalg.norm(exact), f"{kind}, {shape}"


@pytest.mark.parametrize("types", CACHES)
def test_a_row_is_the_same_in_any_batch_and_without_the_cells_of_others(run: Run, types: tuple[int, int]) -> None:
    run(check_rows, types)


@pytest.mark.parametrize("types", CACHES)
def test_attention_is_near_the_exact_one(run: Run, types: tuple[int, int]) -> None:
    run(check_distance, types)
