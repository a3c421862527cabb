// Products of quantized matrices: the interface of a type of weights, which buffer.cpp calls.
//
// Weights W are a matrix of `columns` x `k`, one row of the model's file for each column of the result. Activations are
// rows of `k` floats. The result is out[row][column] = sum over k of W[column][k] * activation[row][k].
//
// The same bits: out[row][column] depends only on that row and that column, not on the number of rows, on how columns
// are split among threads, or on what else is in the batch. Every type ensures that by adding the products of one row
// and one column in a fixed order, whatever tile they are computed in.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ggml.h"

namespace sarai {

// One type of weights, for the instruction set that this file is compiled for.
struct matrix_type {
    ggml_type type;

    // Number of columns that are interleaved in memory. The last tile is padded, so all tiles are whole.
    int64_t tile;

    // Values of k in one block; k is a multiple of it.
    int64_t block;

    // Bytes of one tile of columns in our layout: `tile` columns of k values.
    size_t (*tile_bytes)(int64_t k);

    // Writes one tile. `rows` are the columns' rows as in the file, `count` of them (1 to `tile`); the rest is zeros.
    void (*pack)(const void * rows, int64_t count, int64_t k, void * packed);

    // Reads one column of a packed tile as floats, bit for bit as ggml dequantizes the file's row.
    void (*unpack)(const void * packed, int64_t column, int64_t k, float * out);

    // Bytes of one row of activations after `quantize`, a multiple of 64.
    size_t (*row_bytes)(int64_t k);

    // Quantizes one row of k floats to 8 bits, with the same values as ggml's own from_float.
    void (*quantize)(const float * x, int64_t k, void * row);

    // Multiplies `n_rows` rows (at least 1, `row_bytes(k)` apart, 64-byte aligned) by `n_tiles` tiles (`tile_bytes(k)`
    // apart). Writes n_tiles * tile columns to out[row * stride + column], but only `last` columns of the last tile.
    void (*multiply)(const void * tiles, int64_t n_tiles, int64_t last, const void * rows, int64_t n_rows, int64_t k,
                     float * out, int64_t stride);
};

// Return the types with blocks of 32 values and one scale: IQ4_NL, Q4_0, Q8_0 (blocks_of_32.cpp), and those with
// superblocks of 256 values: Q4_K, Q5_K, Q6_K (superblocks.cpp). Null if we have no kernel for this instruction set.
const matrix_type * block_type(ggml_type type);
const matrix_type * superblock_type(ggml_type type);

}  // namespace sarai
