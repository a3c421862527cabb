// Products of quantized matrices: what a type brings, and what buffer.cpp does with it.
//
// Weights W are a matrix of `columns` x `k`, one row of the model's file for each column of the result. Activations are
// rows of `k` floats. The result is out[row][column] = sum over k of W[column][k] * activation[row][k].
//
// The same bits: out[row][column] depends on that row and that column alone. It does not depend on how many rows there
// are, on how the columns are split among threads, or on what else is in the batch. Every type keeps to that by adding
// up one row's and one column's products in one fixed order, whatever tile they are computed in.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ggml.h"

namespace sarai {

// One type of weights, for the instruction set that this file is compiled for.
struct matrix_type {
    ggml_type type;

    // Columns that lie interleaved in memory. The last ones are filled up, so `pack` and `multiply` see whole tiles.
    int64_t tile;

    // Values of k in one block; k is a multiple of it.
    int64_t block;

    // Bytes of one tile of columns in our layout: `tile` columns of k values.
    size_t (*tile_bytes)(int64_t k);

    // Writes one tile. `rows` are the columns' rows as they lie in the file, `count` of them (1 to `tile`); what is
    // missing is filled up with zeros.
    void (*pack)(const void * rows, int64_t count, int64_t k, void * packed);

    // Reads one column of a packed tile back as floats: what dequantizing the file's row gives, bit for bit.
    void (*unpack)(const void * packed, int64_t column, int64_t k, float * out);

    // Bytes of one row of activations after `quantize`, a multiple of 64.
    size_t (*row_bytes)(int64_t k);

    // Quantizes one row of k floats to 8 bits, with the values that ggml's own from_float gives.
    void (*quantize)(const float * x, int64_t k, void * row);

    // Multiplies `n_rows` rows (1 and more, `row_bytes(k)` apart, 64-byte aligned) with `n_tiles` tiles (`tile_bytes(k)`
    // apart). Writes n_tiles * tile columns at out[row * stride + column], but for the last tile only `last` columns.
    void (*multiply)(const void * tiles, int64_t n_tiles, int64_t last, const void * rows, int64_t n_rows, int64_t k,
                     float * out, int64_t stride);
};

// The types of blocks of 32 values with one scale: IQ4_NL, Q4_0, Q8_0 (blocks_of_32.cpp); and those of superblocks of
// 256 values: Q4_K, Q5_K, Q6_K (superblocks.cpp). Null where ggml's own kernels are as good on this instruction set.
const matrix_type * block_type(ggml_type type);
const matrix_type * superblock_type(ggml_type type);

}  // namespace sarai
