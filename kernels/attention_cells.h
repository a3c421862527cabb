// Blocks of cells of the cache, and reading them as floats.
#pragma once

#include "simd.h"

#ifdef SARAI_LANES

#include <cmath>
#include <cstddef>

#define GGML_COMMON_DECL_CPP
#include "ggml-common.h"
#include "ggml.h"

namespace sarai {
namespace {

constexpr int64_t block_cells = 64;     // unpacked at once: 32 KB of floats for a head of 128
constexpr int64_t segment_cells = 256;  // share a maximum and a buffer of scores

inline float half_to_float(uint16_t x) { return _cvtsh_ss(x); }

// Rows of one head in the cache, and the rows to read next: these are prefetched meanwhile, as the hardware's own
// prefetching can follow neither the distance between cells nor holes.
struct cache_rows {
    const char * rows[block_cells];  // padded to a whole vector with copies of the last one
    int64_t count;
    const char * next[block_cells];
    int64_t next_count, next_bytes;

    void fetch_next(int64_t i) const {
        if (i < next_count) {
            for (int64_t b = 0; b < next_bytes; b += 64) {
                _mm_prefetch(next[i] + b, _MM_HINT_T0);
            }
            _mm_prefetch(next[i] + next_bytes - 1, _MM_HINT_T0);
        }
    }
};

// Reads LANES values of a row, starting at value `i`.
template <ggml_type type> inline floats read(const char * row, int64_t i) {
    if constexpr (type == GGML_TYPE_F32) {
        return load((const float *) row + i);
    } else if constexpr (type == GGML_TYPE_F16) {
        return load_halves((const uint16_t *) row + i);
    } else {
        static_assert(type == GGML_TYPE_Q8_0);
        const block_q8_0 & block = ((const block_q8_0 *) row)[i / QK8_0];
        return broadcast(half_to_float(block.d)) * to_floats(load_bytes(block.qs + i % QK8_0));
    }
}

// Unpacks rows [first, end) of n values each, contiguously.
template <ggml_type type> void read_rows(const cache_rows & cells, int64_t first, int64_t end, int64_t n, float * out) {
    for (int64_t c = first; c < end; c++) {
        cells.fetch_next(c);
        for (int64_t i = 0; i < n; i += LANES, out += LANES) {
            store(out, read<type>(cells.rows[c], i));
        }
    }
}
using row_reader = decltype(&read_rows<GGML_TYPE_F32>);

inline row_reader reader_of(ggml_type type) {
    switch (type) {
        case GGML_TYPE_F32: return read_rows<GGML_TYPE_F32>;
        case GGML_TYPE_F16: return read_rows<GGML_TYPE_F16>;
        case GGML_TYPE_Q8_0: return read_rows<GGML_TYPE_Q8_0>;
        default: return nullptr;
    }
}

}  // namespace
}  // namespace sarai

#endif
