// Products with superblocks of 256 values: Q4_K, Q5_K and Q6_K.
//
// Layout. A tile is as many columns as a vector has 32-bit lanes (16 or 8), superblock by superblock: the scales `d`
// (and `dmin`) of all columns, the words of the sub-blocks' scales, then for each sub-block its words of bits. A word
// is 32 bits: the same bits of four neighbouring values, one byte each. The same word of all columns is a vector. So a
// tile is a single stream of exactly the size that it has in the file.
//
// Arithmetic. Shifts and masks turn vectors of bits into vectors whose bytes are unsigned weights (0 to 15, 31 or 63).
// One instruction adds four weights times four activations, the same four for all columns, to the column's lane. All
// sums in a superblock are integers and exact. The offset of the unsigned weights, 32 in Q6_K, is subtracted through
// the sums of the activations, as are the minima of Q4_K and Q5_K. Then
//
//     value(superblock) = d * total - dmin * total of the minima
//     result            = fma(value, scale of the activations, result), superblock after superblock
//
// One accumulator for each row and column, and one order: the same bits for any number of rows, any tile and any
// instruction set. They differ from those of ggml's own kernels, which keep eight partial sums for each row and column.
//
// Weights are unpacked once for up to MAX_ROWS rows. One row is bound by memory, many rows are bound by the products.

#include "superblocks.h"

#include "matrix.h"

#ifdef SARAI_LANES

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <utility>

namespace sarai {
namespace {

constexpr int MAX_ROWS = LANES == 16 ? 16 : 8;  // as many totals as fit into registers together with the weights

// How far ahead weights are prefetched, into L2, as L1 is too small for that. Not for a single row, for which the
// hardware's own prefetching of a single stream is fastest.
constexpr size_t FETCH_AHEAD_BYTES = 12288;

// Size of the rows that stay in a core's cache while all tiles are processed.
constexpr size_t ROWS_IN_CACHE_BYTES = 512 * 1024;

// --- Weights -------------------------------------------------------------------------------------------------------

template <class Type>
size_t tile_bytes(int64_t k) {
    static_assert(sizeof(typename Type::packed) == LANES * sizeof(typename Type::block), "not the bytes of the file");
    return k / QK_K * sizeof(typename Type::packed);
}

template <class Type>
void pack(const void * rows, int64_t count, int64_t k, void * packed) {
    const auto * from = static_cast<const typename Type::block *>(rows);
    auto * to = static_cast<typename Type::packed *>(packed);
    std::memset(packed, 0, tile_bytes<Type>(k));
    for (int64_t column = 0; column < count; column++) {
        for (int64_t b = 0; b < k / QK_K; b++, from++) Type::pack(*from, to[b], column);
    }
}

template <class Type>
void unpack(const void * packed, int64_t column, int64_t k, float * out) {
    const auto * from = static_cast<const typename Type::packed *>(packed);
    for (int64_t b = 0; b < k / QK_K; b++) {
        typename Type::block block;
        Type::unpack(from[b], column, block);
        Type::dequantize(&block, out + b * QK_K, QK_K);
    }
}

// --- Activations ---------------------------------------------------------------------------------------------------

// Returns an odd number of cache lines, so that the rows of a batch do not compete for the same cache sets.
template <class Type>
size_t row_bytes(int64_t k) {
    return (k / QK_K * sizeof(activations<Type>) + 63) / 64 * 64 | 64;
}

// Quantizes like quantize_row_q8_K: the value farthest from zero becomes -127. Returns the scale.
float quantize_values(const float * x, int8_t * values) {
    const float magnitude = largest_magnitude(x, QK_K);
    const float * farthest = std::find_if(x, x + QK_K, [=](float one) { return std::fabs(one) == magnitude; });
    const float inverse = farthest == x + QK_K ? INFINITY : -127.0f / *farthest;
    if (std::isinf(inverse)) {  // all zeros, or values so small that the scale is zero
        std::memset(values, 0, QK_K);
        return 0.0f;
    }
    round_to_bytes(x, inverse, QK_K, values);
    return 1 / inverse;
}

template <class Type>
void quantize(const float * x, int64_t k, void * row) {
    auto * to = static_cast<activations<Type> *>(row);
    for (int64_t b = 0; b < k / QK_K; b++) {
        to[b].d = quantize_values(x + b * QK_K, to[b].values);
        Type::sum_up(to[b].values, to[b].sums);
    }
}

// --- Products ------------------------------------------------------------------------------------------------------

// Multiplies ROWS rows by one tile.
template <class Type, int ROWS>
void multiply_tile(const void * tile, const char * rows, size_t row_bytes, int64_t n_blocks, float * out,
                   int64_t stride, int64_t columns) {
    constexpr int SUB_BLOCKS = QK_K / Type::VALUES, VECTORS = Type::VALUES / 4;
    constexpr int GROUP = VNNI ? VECTORS : Type::GROUP / 4;
    constexpr size_t SHARE = sizeof(typename Type::packed) / SUB_BLOCKS;

    floats results[ROWS] = {};
    for (int64_t b = 0; b < n_blocks; b++) {
        const auto & packed = static_cast<const typename Type::packed *>(tile)[b];
        const char * ahead = reinterpret_cast<const char *>(&packed) + FETCH_AHEAD_BYTES;
        auto row = [&](int r) -> const activations<Type> & {
            return reinterpret_cast<const activations<Type> *>(rows + r * row_bytes)[b];
        };
        const Type superblock(packed);
        ints totals[ROWS] = {};
        for (int j = 0; j < SUB_BLOCKS; j++) {
            if constexpr (ROWS > 1) {
                for (size_t i = 0; i < SHARE; i += 64) _mm_prefetch(ahead + j * SHARE + i, _MM_HINT_T1);
            }
            ints weights[VECTORS];
            superblock.weights(j, weights);
            const ints scale = superblock.scale(j);
#pragma GCC unroll 16
            for (int r = 0; r < ROWS; r++) {
                const int8_t * values = row(r).values + j * Type::VALUES;
#pragma GCC unroll 2
                for (int group = 0; group < VECTORS; group += GROUP) {
                    ints sum = Type::start(row(r), j);
#pragma GCC unroll 8
                    for (int v = group; v < group + GROUP; v++) {
                        sum = dot4(sum, weights[v], broadcast_four(values + 4 * v));
                    }
                    totals[r] = add_scaled(totals[r], sum, scale);
                }
            }
        }
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; r++) {
            results[r] = fma(superblock.value(totals[r], row(r)), broadcast(row(r).d), results[r]);
        }
    }
    for (int r = 0; r < ROWS; r++) std::memcpy(out + r * stride, &results[r], columns * sizeof(float));
}

template <class Type, size_t... ROWS>
constexpr auto kernels(std::index_sequence<ROWS...>) {
    return std::array{multiply_tile<Type, ROWS + 1>...};
}

template <class Type>
void multiply(const void * tiles, int64_t n_tiles, int64_t last, const void * rows, int64_t n_rows, int64_t k,
              float * out, int64_t stride) {
    static constexpr auto kernel = kernels<Type>(std::make_index_sequence<MAX_ROWS>());
    const size_t bytes = row_bytes<Type>(k);
    const int64_t at_once = std::max<int64_t>(MAX_ROWS, ROWS_IN_CACHE_BYTES / bytes / MAX_ROWS * MAX_ROWS);
    for (int64_t begin = 0; begin < n_rows; begin += at_once) {
        const int64_t end = std::min(begin + at_once, n_rows);
        for (int64_t t = 0; t < n_tiles; t++) {
            const char * tile = static_cast<const char *>(tiles) + t * tile_bytes<Type>(k);
            const int64_t columns = t + 1 < n_tiles ? LANES : last;
            // As few passes as possible, of nearly equal size.
            for (int64_t row = begin, count; row < end; row += count) {
                const int64_t passes = (end - row + MAX_ROWS - 1) / MAX_ROWS;
                count = (end - row + passes - 1) / passes;
                kernel[count - 1](tile, static_cast<const char *>(rows) + row * bytes, bytes, k / QK_K,
                                  out + row * stride + t * LANES, stride, columns);
            }
        }
    }
}

template <class Type>
constexpr matrix_type of = {Type::TYPE,  LANES,         QK_K,          tile_bytes<Type>, pack<Type>,
                            unpack<Type>, row_bytes<Type>, quantize<Type>, multiply<Type>};

}  // namespace

const matrix_type * superblock_type(ggml_type type) {
    switch (type) {
        case GGML_TYPE_Q4_K: return &of<q4_K>;
        case GGML_TYPE_Q5_K: return &of<q5_K>;
        case GGML_TYPE_Q6_K: return &of<q6_K>;
        default: return nullptr;
    }
}

}  // namespace sarai

#else

namespace sarai {
const matrix_type * superblock_type(ggml_type) { return nullptr; }
}  // namespace sarai

#endif
