// Blocks of keys and values, unpacked for many queries, and the products over them.
//
// A *query* is one head of one row. All queries of a tile visit the same cells of the same key head, so a block of 64
// cells is unpacked once for all of them. Keys are unpacked so that a vector holds the same value, or the same four
// bytes, of LANES cells: a score is then one chain of additions in its own lane, in the order of the head's values.
// Values are unpacked as rows of floats; an element of the result is one chain in the order of the cells. Neither
// depends on how many other queries or cells are computed, so the bits do not either.
#pragma once

#include "attention_cells.h"

#ifdef SARAI_LANES

#include <type_traits>

namespace sarai {
namespace {

// Calls f(number, first) for n items in groups of four, and once for the remainder. `number` is a constant.
template <class F> inline void in_fours(int64_t n, F f) {
    int64_t at = 0;
    for (; at + 4 <= n; at += 4) {
        f(std::integral_constant<int, 4>(), at);
    }
    switch (n - at) {
        case 3: return f(std::integral_constant<int, 3>(), at);
        case 2: return f(std::integral_constant<int, 2>(), at);
        case 1: return f(std::integral_constant<int, 1>(), at);
    }
}

// Keys as floats: value d of cell c is at [d * block_cells + c].
struct float_keys {
    static constexpr int tile_vectors = LANES == 16 ? 4 : 2;  // as many as registers hold for four queries

    static size_t block_bytes(int64_t n) { return block_cells * n * sizeof(float); }
    static size_t query_bytes(int64_t n) { return n * sizeof(float); }

    static void prepare(const float * x, int64_t n, char * query) { memcpy(query, x, n * sizeof(float)); }

    // Unpacks keys; `room` has space for LANES of them. (Inlined, it would keep all row addresses in vectors.)
    [[gnu::noinline]] static void pack(const cache_rows & cells, int64_t n, row_reader read, float * room,
                                       char * block) {
        const char * rows[LANES];
        for (int i = 0; i < LANES; i++) {
            rows[i] = (const char *) (room + i * n);
        }
        for (int64_t c = 0; c < cells.count; c += LANES) {
            read(cells, c, c + LANES, n, room);
            for (int64_t d = 0; d < n; d += 4) {
                ints values[4];
                transpose(rows, d * sizeof(float), values);
                for (int j = 0; j < 4; j++) {
                    store(block + ((d + j) * block_cells + c) * sizeof(float), values[j]);
                }
            }
        }
    }

    // Computes the scores of NQ queries for the NV vectors of cells from `cell` on.
    template <int NQ, int NV>
    static void multiply(const char * queries, const char * block, int64_t cell, int64_t n, float * scores) {
        const float * x = (const float *) queries;
        const float * y = (const float *) block + cell;
        floats sums[NQ][NV];
        for (int q = 0; q < NQ; q++) {
            for (int v = 0; v < NV; v++) {
                sums[q][v] = broadcast(0.0f);
            }
        }
        for (int64_t d = 0; d < n; d++) {
            floats key[NV];
            for (int v = 0; v < NV; v++) {
                key[v] = in_register(load(y + d * block_cells + v * LANES));
            }
            for (int q = 0; q < NQ; q++) {
                const floats value = broadcast(x[q * n + d]);
                for (int v = 0; v < NV; v++) {
                    sums[q][v] = fma(value, key[v], sums[q][v]);
                }
            }
        }
        for (int q = 0; q < NQ; q++) {
            for (int v = 0; v < NV; v++) {
                store(scores + q * segment_cells + cell + v * LANES, sums[q][v]);
            }
        }
    }
};

// Keys in Q8_0 without conversion, for queries quantized the same way. One side of dot4 is unsigned, so keys are stored
// plus 128, and each sum starts at -128 times the sum of the query's block. Sums are exact.
struct byte_keys {
    static constexpr int tile_vectors = 2;

    // Bytes d to d + 3 of cell c are at [(d / 4 * block_cells + c) * 4], followed by the blocks' scales.
    static size_t block_bytes(int64_t n) { return block_cells * (n + n / QK8_0 * sizeof(float)); }

    struct block_of_query {
        float   scale;
        int32_t start;
        int8_t  values[QK8_0];
    };
    static size_t query_bytes(int64_t n) { return n / QK8_0 * sizeof(block_of_query); }

    static void prepare(const float * x, int64_t n, char * query) {
        block_of_query * blocks = (block_of_query *) query;
        for (int64_t b = 0; b < n / QK8_0; b++, x += QK8_0) {
            const float most = largest_magnitude(x, QK8_0);
            const float inverse = most > 1e-30f ? 127.0f / most : 0.0f;  // below that the inverse may be infinite
            blocks[b].scale = most / 127.0f;
            round_to_bytes(x, inverse, QK8_0, blocks[b].values);
            int32_t total = 0;
            for (int8_t value : blocks[b].values) {
                total += value;
            }
            blocks[b].start = -128 * total;
        }
    }

    [[gnu::noinline]] static void pack(const cache_rows & cells, int64_t n, row_reader, float *, char * block) {
        const ints signs = broadcast((int32_t) 0x80808080);
        for (int64_t c = 0; c < cells.count; c += LANES) {
            for (int i = 0; i < LANES; i++) {
                cells.fetch_next(c + i);
            }
            for (int64_t d = 0; d < n; d += 16) {
                const int64_t place = d / QK8_0 * sizeof(block_q8_0) + offsetof(block_q8_0, qs) + d % QK8_0;
                ints values[4];
                transpose(cells.rows + c, place, values);
                for (int j = 0; j < 4; j++) {
                    store(block + ((d / 4 + j) * block_cells + c) * 4, values[j] ^ signs);
                }
            }
        }
        float * scales = (float *) (block + block_cells * n);
        for (int64_t b = 0; b < n / QK8_0; b++, scales += block_cells) {
            uint16_t halves[block_cells];
            for (int64_t c = 0; c < GGML_PAD(cells.count, LANES); c++) {
                halves[c] = ((const block_q8_0 *) cells.rows[c])[b].d;
            }
            for (int64_t c = 0; c < cells.count; c += LANES) {
                store(scales + c, load_halves(halves + c));
            }
        }
    }

    template <int NQ, int NV>
    static void multiply(const char * queries, const char * block, int64_t cell, int64_t n, float * scores) {
        const float * scales = (const float *) (block + block_cells * n) + cell;
        const char * bytes = block + cell * 4;
        floats sums[NQ][NV];
        for (int q = 0; q < NQ; q++) {
            for (int v = 0; v < NV; v++) {
                sums[q][v] = broadcast(0.0f);
            }
        }
        for (int64_t b = 0; b < n / QK8_0; b++) {
            const block_of_query * x[NQ];
            ints products[NQ][NV];
            for (int q = 0; q < NQ; q++) {
                x[q] = (const block_of_query *) (queries + q * query_bytes(n)) + b;
                for (int v = 0; v < NV; v++) {
                    products[q][v] = broadcast(x[q]->start);
                }
            }
            for (int j = 0; j < QK8_0 / 4; j++, bytes += block_cells * 4) {
                ints key[NV];
                for (int v = 0; v < NV; v++) {
                    key[v] = in_register(load_ints(bytes + v * LANES * 4));
                }
                for (int q = 0; q < NQ; q++) {
                    const ints four = broadcast_four(x[q]->values + 4 * j);
                    for (int v = 0; v < NV; v++) {
                        products[q][v] = dot4(products[q][v], key[v], four);
                    }
                }
            }
            for (int v = 0; v < NV; v++) {
                const floats scale = load(scales + b * block_cells + v * LANES);
                for (int q = 0; q < NQ; q++) {
                    const floats both = scale * broadcast(x[q]->scale);
                    sums[q][v] = fma(to_floats(products[q][v]), both, sums[q][v]);
                }
            }
        }
        for (int q = 0; q < NQ; q++) {
            for (int v = 0; v < NV; v++) {
                store(scores + q * segment_cells + cell + v * LANES, sums[q][v]);
            }
        }
    }
};

// Computes the scores of n_queries contiguous queries for the first `count` cells of a block (rounded up to a vector).
template <class Keys>
inline void score(const char * queries, int64_t n_queries, const char * block, int64_t count, int64_t n,
                  float * scores) {
    in_fours(n_queries, [=](auto number, int64_t q) {
        const char * x = queries + q * Keys::query_bytes(n);
        float * out = scores + q * segment_cells;
        int64_t cell = 0;
        constexpr int64_t most = Keys::tile_vectors;
        for (; cell + (most - 1) * LANES < count; cell += most * LANES) {
            Keys::template multiply<number, most>(x, block, cell, n, out);
        }
        for (; cell < count; cell += LANES) {
            Keys::template multiply<number, 1>(x, block, cell, n, out);
        }
    });
}

// Turns the scores of `count` cells into weights e^(score - maximum), in place; the result is divided by their total.
inline void weigh(float * scores, int64_t count, float scale, const float * bias, float * maximum_and_total) {
    const floats none = broadcast(-INFINITY);
    floats top = none;
    for (int64_t i = 0; i < count; i += LANES) {
        const floats score = load(scores + i), factor = broadcast(scale);
        const floats scaled = bias ? fma(score, factor, load(bias + i)) : score * factor;
        const floats x = first(count - i, scaled, none);
        store(scores + i, x);
        top = larger(top, x);
    }
    const float maximum = largest(top);
    floats total = broadcast(0.0f);
    for (int64_t i = 0; i < count; i += LANES) {
        const floats x = exp_of_negative(load(scores + i) - broadcast(maximum));
        store(scores + i, x);
        total = total + x;
    }
    maximum_and_total[0] = maximum;
    maximum_and_total[1] = sum(total);
}

// Adds weights times `count` rows of values to NV vectors of NQ queries' results.
template <int NQ, int NV>
inline void add_weighted(const float * weights, const float * values, int64_t count, int64_t n, float * out,
                         int64_t stride) {
    floats sums[NQ][NV];
    for (int q = 0; q < NQ; q++) {
        for (int v = 0; v < NV; v++) {
            sums[q][v] = load(out + q * stride + v * LANES);
        }
    }
    for (int64_t c = 0; c < count; c++, values += n) {
        floats value[NV];
        for (int v = 0; v < NV; v++) {
            value[v] = in_register(load(values + v * LANES));
        }
        for (int q = 0; q < NQ; q++) {
            const floats weight = broadcast(weights[q * segment_cells + c]);
            for (int v = 0; v < NV; v++) {
                sums[q][v] = fma(weight, value[v], sums[q][v]);
            }
        }
    }
    for (int q = 0; q < NQ; q++) {
        for (int v = 0; v < NV; v++) {
            store(out + q * stride + v * LANES, sums[q][v]);
        }
    }
}

// Does the same for all n values of all queries.
inline void add_values(const float * weights, int64_t n_queries, const float * values, int64_t count, int64_t n,
                       float * out, int64_t stride) {
    constexpr int most = LANES == 16 ? 4 : 2;
    in_fours(n_queries, [=](auto number, int64_t q) {
        const float * w = weights + q * segment_cells;
        float * x = out + q * stride;
        int64_t d = 0;
        for (; d + most * LANES <= n; d += most * LANES) {
            add_weighted<number, most>(w, values + d, count, n, x + d, stride);
        }
        for (; d < n; d += LANES) {
            add_weighted<number, 1>(w, values + d, count, n, x + d, stride);
        }
    });
}

}  // namespace
}  // namespace sarai

#endif
