// Products with blocks of 32 weights that share one scale: IQ4_NL, Q4_0 and Q8_0.
//
// Layout. A tile is 16 columns, block by block in a single stream: the 16 scales of a block, then its values. 64 bytes
// of values are four consecutive k of each column, so one vector multiplication adds four products to every column.
// Four-bit weights are stored in pairs: the low nibbles of 64 bytes are k to k + 3, the high ones k + 16 to k + 19. The
// file pairs them the same way, so packing moves words of four bytes.
//
// Arithmetic. Weights are made unsigned by adding OFFSET, because x86 multiplies unsigned by signed bytes. That adds
// OFFSET * (sum of the activations) to a block's sum, the same for all columns: it is computed once for each block of a
// row, and sums start at its negative. So the sum of a block is an exact integer, and
//
//     result = fma(sum, scale of the weights * scale of the activations, result), block after block
//
// One accumulator for each row and column, and one order: the same bits in any tile, any batch and any instruction set.
// For IQ4_NL and Q4_0 they equal those of ggml's kernels for repacked weights. For Q8_0 the order is that of ggml's
// reference (ggml_vec_dot_q8_0_q8_0_generic). ggml's vector code for Q8_0 has eight accumulators, each for four of the
// 32 products; reproducing its bits would take eight conversions and fused multiply-adds a block instead of one, and a
// starting value for each, at half the speed.
#include <algorithm>
#include <array>
#include <utility>

#include "matrix.h"
#include "simd.h"

#ifdef SARAI_LANES

#define GGML_COMMON_DECL_CPP
#define GGML_COMMON_IMPL_CPP
#include "ggml-common.h"

namespace sarai {
namespace {

constexpr int BLOCK = 32;
constexpr int TILE = 16;
constexpr int GROUPS = BLOCK / 4;       // of four k, which are multiplied at a time
constexpr int VECTORS = TILE / LANES;   // for all columns
constexpr int MAX_ROWS = 16;            // in one pass over a tile: their results and its weights fill 32 registers
constexpr size_t AHEAD_BYTES = 6144;    // how far ahead weights are prefetched: with less, one row waits for memory
constexpr int64_t CACHED_BYTES = 384 * 1024;  // of weights that fit into a core's L2 together with MAX_ROWS rows

// A block of a row of activations.
struct activations {
    int8_t values[BLOCK];
    float scale;
    int32_t start;  // -OFFSET * (sum of the values)
};

// A block of a tile. A code is a weight's encoding in the file.
template <class T> struct packed_block {
    ggml_half scales[TILE];
    uint8_t codes[TILE * BLOCK * T::CODE_BITS / 8];
};

// --- Sums of a block -------------------------------------------------------------------------------------------------

// Number of planes into which unsigned bytes of `bits` bits are split: byte = plane 0 + 16 * plane 1. Without VNNI,
// sums have 16 bits: enough for 16 products of nibbles, at most 16 * 15 * 128 = 30,720, but not for products of bytes.
template <int bits> constexpr int PLANES = VNNI ? 1 : bits / 4;

inline void take_apart(ints bytes, ints (&plane)[1]) { plane[0] = bytes; }
inline void take_apart(ints bytes, ints (&plane)[2]) {
    plane[0] = low_nibbles(bytes);
    plane[1] = high_nibbles(bytes);
}

// In each lane, a starting value plus the sum of 32 products of unsigned weights and activations.
template <int bits> struct sums {
    int32_t first;
    ints plane[PLANES<bits>];

    void start(int32_t x) {
        first = x;
        for (ints & p : plane) p = broadcast(VNNI ? first : 0);
    }

    void add(const ints (&weights)[PLANES<bits>], ints activations) {
        for (int p = 0; p < PLANES<bits>; p++) {
            plane[p] = dot4(plane[p], weights[p], activations);
            if (!VNNI) plane[p] = in_register(plane[p]);  // else GCC adds as a tree and runs out of registers
        }
    }

    ints finish() const {
        if constexpr (VNNI) return plane[0];
        ints total = dot2(broadcast(first), plane[0], broadcast(0x00010001));
        if constexpr (PLANES<bits> == 2) total = dot2(total, plane[1], broadcast(0x00100010));
        return total;
    }
};

// --- The types: what a code means, and unsigned weights from vectors of codes ---------------------------------------

struct q8_0 {
    using file_block = block_q8_0;
    static constexpr int CODE_BITS = 8, BITS = 8, OFFSET = 128;
    static constexpr uint32_t FLIP = 0x80808080;  // the file's codes are signed, the packed ones unsigned

    static int weight(int code) { return code - OFFSET; }
    void weights(ints codes, ints (&w)[PLANES<BITS>]) const { take_apart(codes, w); }
};

struct q4_0 {
    using file_block = block_q4_0;
    static constexpr int CODE_BITS = 4, BITS = 4, OFFSET = 8;
    static constexpr uint32_t FLIP = 0;

    static int weight(int code) { return code - OFFSET; }
    void weights(ints codes, ints (&w)[PLANES<BITS>]) const { take_apart(codes, w); }
};

struct iq4_nl {
    using file_block = block_iq4_nl;
    static constexpr int CODE_BITS = 4, BITS = 8, OFFSET = 128;
    static constexpr uint32_t FLIP = 0;

    ints table[PLANES<BITS>];

    iq4_nl() { take_apart(repeat_16_bytes(kvalues_iq4nl) ^ int32_t(0x80808080), table); }

    static int weight(int code) { return kvalues_iq4nl[code]; }
    void weights(ints codes, ints (&w)[PLANES<BITS>]) const {
        for (int p = 0; p < PLANES<BITS>; p++) w[p] = look_up(table[p], codes);
    }
};

// --- Multiplying -----------------------------------------------------------------------------------------------------

// Unsigned weights of four k of all columns.
template <class T> using group_weights = ints[VECTORS][PLANES<T::BITS>];

template <class T>
inline void unpack_group(const T & type, const packed_block<T> & block, int group, group_weights<T> & w) {
    constexpr int apart = GROUPS * T::CODE_BITS / 8;  // number of contiguous groups; the high nibbles hold the others
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; v++) {
        const ints codes = load_ints(block.codes + (group % apart * TILE + v * LANES) * 4);
        if constexpr (T::CODE_BITS == 8) {
            type.weights(codes, w[v]);
        } else {
            type.weights(group < apart ? low_nibbles(codes) : high_nibbles(codes), w[v]);
        }
    }
}

// GCC must unroll a loop over rows whose results are to stay in registers, and must not if they do not fit.
constexpr int UNROLLED_ROWS = LANES == 16 ? MAX_ROWS : 1;

// Number of rows whose sums are built concurrently. One is best if a block's weights fit into registers; otherwise each
// loaded vector of weights should serve several rows.
template <class T> constexpr int BESIDE = LANES == 16 && VNNI ? 1 : 4 / PLANES<T::BITS>;

// Adds the products of a block and N rows to their results. `unpacked` has the block's weights, or is null.
template <class T, int N>
inline void add_block(const T & type, const packed_block<T> & block, const group_weights<T> * unpacked,
                      const activations * const * rows, int64_t b, floats (*results)[VECTORS]) {
    sums<T::BITS> sum[N][VECTORS];
#pragma GCC unroll 4
    for (int r = 0; r < N; r++)
#pragma GCC unroll 2
        for (auto & s : sum[r]) s.start(rows[r][b].start);

#pragma GCC unroll 8
    for (int g = 0; g < GROUPS; g++) {
        group_weights<T> here;
        if (!unpacked) unpack_group(type, block, g, here);
        const group_weights<T> & w = unpacked ? unpacked[g] : here;
#pragma GCC unroll 4
        for (int r = 0; r < N; r++) {
            const ints four = broadcast_four(rows[r][b].values + g * 4);
#pragma GCC unroll 2
            for (int v = 0; v < VECTORS; v++) sum[r][v].add(w[v], four);
        }
    }

#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; v++) {
        const floats scales = load_halves(block.scales + v * LANES);
#pragma GCC unroll 4
        for (int r = 0; r < N; r++) {
            const floats scale = scales * broadcast(rows[r][b].scale);
            results[r][v] = fma(to_floats(sum[r][v].finish()), scale, results[r][v]);
        }
    }
}

// Multiplies R rows by one tile.
template <class T, int R>
void multiply_tile(const packed_block<T> * tile, const activations * const * rows, int64_t blocks, float * out,
                   int64_t stride) {
    constexpr bool many = R > BESIDE<T>;
    const T type;
    floats results[R][VECTORS];
    for (auto & row : results)
        for (floats & x : row) x = broadcast(0.0f);

    for (int64_t b = 0; b < blocks; b++) {
        const char * next = (const char *) &tile[b] + AHEAD_BYTES;
        for (size_t line = 0; line < sizeof *tile; line += 64) _mm_prefetch(next + line, _MM_HINT_T0);

        group_weights<T> w[GROUPS];
#pragma GCC unroll 8
        for (int g = 0; many && g < GROUPS; g++) unpack_group(type, tile[b], g, w[g]);
        int r = 0;
#pragma GCC unroll UNROLLED_ROWS
        for (; r + BESIDE<T> <= R; r += BESIDE<T>)
            add_block<T, BESIDE<T>>(type, tile[b], many ? w : nullptr, rows + r, b, results + r);
        if constexpr (R % BESIDE<T> != 0)
            add_block<T, R % BESIDE<T>>(type, tile[b], many ? w : nullptr, rows + r, b, results + r);
    }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < VECTORS; v++) store(out + r * stride + v * LANES, results[r][v]);
}

template <class T>
using tile_function = void (*)(const packed_block<T> *, const activations * const *, int64_t, float *, int64_t);

// Lists multiply_tile for 1, 2, 3 ... rows.
template <class T, int... R> constexpr auto tile_functions(std::integer_sequence<int, R...>) {
    return std::array<tile_function<T>, sizeof...(R)>{multiply_tile<T, R + 1>...};
}

size_t row_bytes(int64_t k) { return (k / BLOCK * sizeof(activations) + 63) / 64 * 64; }

template <class T> size_t tile_bytes(int64_t k) { return k / BLOCK * sizeof(packed_block<T>); }

// Multiplies up to MAX_ROWS rows by some tiles.
template <class T>
void multiply_rows(const packed_block<T> * tiles, int64_t n_tiles, int64_t last, const char * rows, int64_t n_rows,
                   int64_t k, float * out, int64_t stride) {
    static constexpr auto functions = tile_functions<T>(std::make_integer_sequence<int, MAX_ROWS>());
    const tile_function<T> function = functions[n_rows - 1];
    const int64_t blocks = k / BLOCK;
    const activations * row[MAX_ROWS];
    for (int64_t r = 0; r < n_rows; r++) row[r] = (const activations *) (rows + r * row_bytes(k));

    const int64_t whole = last == TILE ? n_tiles : n_tiles - 1;
    for (int64_t t = 0; t < whole; t++) function(tiles + t * blocks, row, blocks, out + t * TILE, stride);
    if (whole < n_tiles) {
        float all_columns[MAX_ROWS * TILE];
        function(tiles + whole * blocks, row, blocks, all_columns, TILE);
        for (int64_t r = 0; r < n_rows; r++)
            std::copy_n(all_columns + r * TILE, last, out + r * stride + whole * TILE);
    }
}

// Multiplies all rows by as many tiles at a time as fit into the cache, so that memory is read once.
template <class T>
void multiply(const void * tiles, int64_t n_tiles, int64_t last, const void * rows, int64_t n_rows, int64_t k,
              float * out, int64_t stride) {
    const int64_t cached = std::max<int64_t>(1, CACHED_BYTES / tile_bytes<T>(k));
    for (int64_t t = 0; t < n_tiles; t += cached) {
        const int64_t some = std::min(cached, n_tiles - t);
        const auto * from = (const packed_block<T> *) tiles + t * (k / BLOCK);
        for (int64_t r = 0; r < n_rows; r += MAX_ROWS) {
            multiply_rows<T>(from, some, t + some < n_tiles ? TILE : last, (const char *) rows + r * row_bytes(k),
                             std::min<int64_t>(MAX_ROWS, n_rows - r), k, out + r * stride + t * TILE, stride);
        }
    }
}

// --- Weights and activations in our layouts --------------------------------------------------------------------------

template <class T> void pack(const void * rows, int64_t count, int64_t k, void * packed) {
    const int64_t blocks = k / BLOCK;
    const auto * file = (const typename T::file_block *) rows;
    auto * tile = (packed_block<T> *) packed;
    for (int64_t b = 0; b < blocks; b++) {
        if (count < TILE) std::memset(&tile[b], 0, sizeof *tile);
        for (int64_t c = 0; c < count; c++) {
            const auto & from = file[c * blocks + b];
            tile[b].scales[c] = from.d;
            for (size_t i = 0; i < sizeof from.qs; i += 4) {
                uint32_t word;
                std::memcpy(&word, &from.qs[i], sizeof word);
                word ^= T::FLIP;
                std::memcpy(&tile[b].codes[i * TILE + c * 4], &word, sizeof word);
            }
        }
    }
}

template <class T> void unpack(const void * packed, int64_t column, int64_t k, float * out) {
    const auto * tile = (const packed_block<T> *) packed;
    for (int64_t b = 0; b < k / BLOCK; b++, out += BLOCK) {
        const float scale = _cvtsh_ss(tile[b].scales[column]);
        for (int i = 0; i < BLOCK * T::CODE_BITS / 8; i++) {
            const int code = tile[b].codes[(i / 4 * TILE + column) * 4 + i % 4];
            if constexpr (T::CODE_BITS == 8) {
                out[i] = T::weight(code) * scale;
            } else {
                out[i] = T::weight(code & 15) * scale;
                out[i + BLOCK / 2] = T::weight(code >> 4) * scale;
            }
        }
    }
}

// Quantizes like quantize_row_q8_0, operation by operation.
template <class T> void quantize(const float * x, int64_t k, void * row) {
    auto * to = (activations *) row;
    for (int64_t b = 0; b < k / BLOCK; b++, x += BLOCK) {
        const float max = largest_magnitude(x, BLOCK);
        round_to_bytes(x, max != 0.0f ? 127.0f / max : 0.0f, BLOCK, to[b].values);
        to[b].scale = _cvtsh_ss(_cvtss_sh(max / 127.0f, _MM_FROUND_TO_NEAREST_INT));  // ggml stores a half
        int sum = 0;
        for (int8_t value : to[b].values) sum += value;
        to[b].start = -T::OFFSET * sum;
    }
}

template <class T> constexpr matrix_type describe(ggml_type type) {
    return {type, TILE, BLOCK, tile_bytes<T>, pack<T>, unpack<T>, row_bytes, quantize<T>, multiply<T>};
}

}  // namespace

const matrix_type * block_type(ggml_type type) {
    static constexpr matrix_type types[] = {
        describe<iq4_nl>(GGML_TYPE_IQ4_NL), describe<q4_0>(GGML_TYPE_Q4_0), describe<q8_0>(GGML_TYPE_Q8_0)};
    for (const matrix_type & known : types)
        if (known.type == type) return &known;
    return nullptr;
}

}  // namespace sarai

#else

const sarai::matrix_type * sarai::block_type(ggml_type) { return nullptr; }

#endif
