"""Our kernels in every CPU library that this machine can run: right, and with the same bits in any batch."""

from __future__ import annotations

import ctypes

import numpy as np
import numpy.typing as npt
import pytest

from bench.ggml import F32, I32, TYPES, Ggml

from .libraries import Run, ggml, run

__all__ = ["run"]  # a fixture

Floats = npt.NDArray[np.float32]
# Odd numbers of columns, one block and many, and a matrix of the embedded model.
SHAPES = [(256, 1), (256, 17), (512, 33), (2048, 40), (768, 576)]
# Types whose sums are in the order of ggml's own kernels, and the buffers of its weights.
AS_GGML = {"IQ4_NL": "CPU_REPACK", "Q4_0": "CPU_REPACK"}


def product(packed: npt.NDArray[np.uint8], type_: str, activations: Floats, *, buffer: str, threads: int = 1) -> Floats:
    """Multiply rows of activations by a matrix; return shape (rows, columns)."""
    lib = ggml(threads)
    graph = lib.graph()
    try:
        rows, k = activations.shape
        weights = graph.tensor(TYPES[type_], k, len(packed))
        graph.place(weights, lib.buffer_types[buffer], packed)
        inputs = graph.tensor(F32, k, rows)
        node = graph.product(weights, inputs)
        graph.finish([node])
        graph.set(inputs, activations)
        graph.compute()
        return graph.read(node, rows, len(packed))
    finally:
        graph.close()


def columns_of(packed: npt.NDArray[np.uint8], type_: str, k: int, *, buffer: str) -> Floats:
    """Return the matrix as floats by reading each column."""
    lib = ggml()
    graph = lib.graph()
    try:
        weights = graph.tensor(TYPES[type_], k, len(packed))
        graph.place(weights, lib.buffer_types[buffer], packed)
        wanted = graph.tensor(I32, len(packed))
        node = graph.picked(weights, wanted)
        graph.finish([node])
        graph.set(wanted, np.arange(len(packed), dtype=np.int32))
        graph.compute()
        return graph.read(node, len(packed), k)
    finally:
        graph.close()


def matrix(type_: str, k: int, columns: int) -> npt.NDArray[np.uint8]:
    """Return random weights of very different sizes, with columns of zeros."""
    rng = np.random.default_rng(k * columns)
    values = rng.standard_normal((columns, k), np.float32) * np.exp(rng.normal(0, 3, (columns, 1))).astype(np.float32)
    values[::7] = 0
    return ggml().quantized(TYPES[type_], values)


def activations(rows: int, k: int) -> Floats:
    """Return random rows, some with blocks of zeros, of denormal numbers or of large ones."""
    values = np.random.default_rng(rows).standard_normal((rows, k), np.float32)
    values[1::5, :32] = 0
    values[2::5, 32:64] = 1e-41
    values[3::5, 64:96] *= 1e6
    values[4::5] = 0
    return values


def equal(one: Floats, other: Floats) -> bool:
    return bool(np.array_equal(one.view(np.uint32), other.view(np.uint32)))


def check_every_number_of_rows(type_: str) -> None:
    for k, columns in SHAPES:
        packed, rows = matrix(type_, k, columns), activations(33, k)
        alone = np.concatenate([product(packed, type_, rows[i : i + 1], buffer="SARAi") for i in range(33)])
        assert np.isfinite(alone).all()
        for n in (*range(2, 34), 33):
            assert equal(product(packed, type_, rows[:n], buffer="SARAi"), alone[:n]), f"{k} x {columns}, {n} rows"


def check_threads(type_: str) -> None:
    for k, columns in SHAPES:
        packed, rows = matrix(type_, k, columns), activations(6, k)
        one = product(packed, type_, rows, buffer="SARAi")
        for threads in (2, 3):
            assert equal(product(packed, type_, rows, buffer="SARAi", threads=threads), one), f"{threads} threads"


def check_columns(type_: str) -> None:
    for k, columns in SHAPES:
        packed = matrix(type_, k, columns)
        ours = columns_of(packed, type_, k, buffer="SARAi")
        assert equal(ours, columns_of(packed, type_, k, buffer="CPU")), f"{k} x {columns}"


def check_as_exact(type_: str) -> None:
    """Compare with the product in double precision: as close as ggml's own, or closer."""
    for k, columns in SHAPES[1:]:
        packed = matrix(type_, k, columns)
        rows = np.random.default_rng(0).standard_normal((16, k), np.float32)
        exact = rows.astype(np.float64) @ columns_of(packed, type_, k, buffer="CPU").astype(np.float64).T
        size = np.maximum(np.abs(exact).mean(axis=0), 1e-30)
        ours, stock = (
            np.abs((product(packed, type_, rows, buffer=buffer) - exact) / size).mean() for buffer in ("SARAi", "CPU")
        )
        assert ours <= 1.02 * stock < 0.05, f"{k} x {columns}: {ours} and {stock}"


def check_ggmls_bits(type_: str, buffer: str) -> None:
    for k, columns in ((256, 16), (2048, 40), (768, 576)):
        packed = matrix(type_, k, columns)
        for n in (1, 4, 16):
            rows = activations(n, k)
            ours, stock = (product(packed, type_, rows, buffer=each) for each in ("SARAi", buffer))
            assert equal(ours, stock), f"{k} x {columns}, {n} rows"


def check_unpacked(type_: str) -> None:
    for k, columns in SHAPES:
        packed, rows = matrix(type_, k, columns), activations(40, k)
        ours = product(packed, type_, rows, buffer="SARAi")
        for threads in (1, 2, 3):
            assert equal(product(packed, type_, rows, buffer="CPU", threads=threads), ours), f"{k} x {columns}"


def packed_by(lib: Ggml, type_: str, weights: npt.NDArray[np.uint8], k: int) -> npt.NDArray[np.uint8]:
    graph = lib.graph()
    try:
        tensor = graph.tensor(TYPES[type_], k, len(weights))
        graph.place(tensor, lib.buffer_types["SARAi"], weights)
        raw = ctypes.string_at(graph.address(tensor), weights.nbytes)
        return np.frombuffer(raw, np.uint8).reshape(weights.shape)
    finally:
        graph.close()


def check_mapped(type_: str) -> None:
    """Compute with packed matrices in ggml's own buffer, as in a file that is mapped."""
    lib = ggml()
    for k, columns in ((256, 16), (2048, 48), (768, 576)):
        weights, rows = matrix(type_, k, columns), activations(6, k)
        graph = lib.graph()
        tensor = graph.tensor(TYPES[type_], k, columns)
        graph.place(tensor, lib.buffer_types["CPU"], packed_by(lib, type_, weights, k))
        inputs, wanted = graph.tensor(F32, k, len(rows)), graph.tensor(I32, columns)
        nodes = graph.product(tensor, inputs), graph.picked(tensor, wanted)
        lib.map_packed(graph.address(tensor), graph.address(tensor) + weights.nbytes)
        try:
            graph.finish(list(nodes))
            graph.set(inputs, rows)
            graph.set(wanted, np.arange(columns, dtype=np.int32))
            graph.compute()
            product_, read = graph.read(nodes[0], len(rows), columns), graph.read(nodes[1], columns, k)
        finally:
            lib.map_packed(0, 0)
            graph.close()
        assert equal(product_, product(weights, type_, rows, buffer="SARAi")), f"{k} x {columns}"
        assert equal(read, columns_of(weights, type_, k, buffer="CPU")), f"{k} x {columns}"


@pytest.mark.parametrize("type_", TYPES)
def test_matrices_may_be_packed_in_their_file(run: Run, type_: str) -> None:
    run(check_mapped, type_)


@pytest.mark.parametrize("type_", TYPES)
def test_a_row_is_the_same_in_any_batch(run: Run, type_: str) -> None:
    run(check_every_number_of_rows, type_)


@pytest.mark.parametrize("type_", TYPES)
def test_a_row_is_the_same_by_any_number_of_threads(run: Run, type_: str) -> None:
    run(check_threads, type_)


@pytest.mark.parametrize("type_", TYPES)
def test_columns_are_read_as_they_were_written(run: Run, type_: str) -> None:
    run(check_columns, type_)


@pytest.mark.parametrize("type_", TYPES)
def test_products_are_as_near_to_the_exact_ones_as_ggmls(run: Run, type_: str) -> None:
    run(check_as_exact, type_)


@pytest.mark.parametrize(("type_", "buffer"), AS_GGML.items())
def test_some_have_the_bits_of_ggmls_kernels(run: Run, type_: str, buffer: str) -> None:
    run(check_ggmls_bits, type_, buffer)


@pytest.mark.parametrize("type_", TYPES)
def test_weights_in_ggmls_layout_give_the_same_bits(run: Run, type_: str) -> None:
    run(check_unpacked, type_)
