// The types with superblocks: the memory layout of a tile of columns, and how its bits become weights. superblocks.cpp
// computes with them.
#pragma once

#include "simd.h"

#ifdef SARAI_LANES

#include <cstddef>
#include <cstring>
#include <utility>

#define GGML_COMMON_DECL_C  // blocks whose members have their plain names
#include "ggml-common.h"
#include "ggml-quants.h"

namespace sarai {
namespace {

// Contiguous values of a tile: the same word of each column.
typedef uint32_t words[LANES];

// One superblock of one row of activations.
template <class Type>
struct activations {
    float d;
    int32_t sums[Type::SUMS];  // of the values, as Type::sum_up arranges them
    int8_t values[QK_K];
};

// With VNNI, the products of a sub-block add up to one 32-bit number in each lane. Without it, they add up to two
// 16-bit numbers (of values 0, 1 and of values 2, 3 of each four), and a scale is in both halves of its lane.
ints as_scale(ints x) { return VNNI ? x : (x & 0xffff) | x << 16; }
ints add_scaled(ints total, ints sum, ints scale) { return VNNI ? total + sum * scale : dot2(total, sum, scale); }

// Packs two 16-bit numbers into one of 32 bits.
int32_t pair_of(int low, int high) { return (low & 0xffff) | high * 65536; }

// Returns the sums of values 0, 1 of each four (first) and of values 2, 3 of each four (second).
std::pair<int, int> sums_of(const int8_t * values, int n) {
    int even = 0, odd = 0;
    for (int i = 0; i < n; i += 4) {
        even += values[i] + values[i + 1];
        odd += values[i + 2] + values[i + 3];
    }
    return {even, odd};
}

// Assembles four words of 6-bit weights from two words of low bits (nibbles of the first and second, and of the third
// and fourth) and one of high bits.
template <class Word>
void take_apart(Word low, Word low2, Word high, Word (&w)[4]) {
    w[0] = (low & 0x0f0f0f0f) | (high & 0x30303030);
    w[1] = (low >> 4 & 0x0f0f0f0f) | (high >> 2 & 0x30303030);
    w[2] = (low2 & 0x0f0f0f0f) | (high << 4 & 0x30303030);
    w[3] = (low2 >> 4 & 0x0f0f0f0f) | (high << 2 & 0x30303030);
}

// 16 sub-blocks of 16 values, each with a signed 8-bit scale: weight = d * scale * (6 bits - 32).
struct q6_K {
    using block = block_q6_K;
    static constexpr ggml_type TYPE = GGML_TYPE_Q6_K;
    static constexpr int VALUES = 16;  // of a sub-block
    static constexpr int GROUP = 16;   // values whose products are added before scaling, few enough for 16 bits
    static constexpr int SUMS = 16;
    static constexpr auto dequantize = dequantize_row_q6_K;

    struct packed {
        ggml_half d[LANES];
        words scales[4];
        words bits[16][3];  // of each sub-block, see take_apart
    };

    // In the file, the bits of a word of values are scattered: values 8 * p + i of half a superblock are nibbles of
    // ql[8 * (p % 2) + i] and two bits of qh[i].
    static void pack(const block & from, packed & to, int64_t column) {
        uint32_t ql[32], qh[16], scales[4], value[64];
        std::memcpy(ql, from.ql, sizeof ql);
        std::memcpy(qh, from.qh, sizeof qh);
        std::memcpy(scales, from.scales, sizeof scales);
        for (int i = 0; i < 64; i++) {
            const int half = i / 32, p = i % 32 / 8;
            const uint32_t low = ql[half * 16 + p % 2 * 8 + i % 8] >> p / 2 * 4 & 0x0f0f0f0f;
            value[i] = low | (qh[half * 8 + i % 8] >> 2 * p & 0x03030303) << 4;
        }
        for (int j = 0; j < 16; j++) {
            const uint32_t * v = value + 4 * j;
            to.bits[j][0][column] = (v[0] & 0x0f0f0f0f) | (v[1] & 0x0f0f0f0f) << 4;
            to.bits[j][1][column] = (v[2] & 0x0f0f0f0f) | (v[3] & 0x0f0f0f0f) << 4;
            const uint32_t first = (v[0] & 0x30303030) | (v[1] & 0x30303030) << 2;
            to.bits[j][2][column] = first | (v[2] & 0x30303030) >> 4 | (v[3] & 0x30303030) >> 2;
        }
        for (int i = 0; i < 4; i++) to.scales[i][column] = scales[i];
        to.d[column] = from.d;
    }
    static void unpack(const packed & from, int64_t column, block & to) {
        uint32_t ql[32] = {}, qh[16] = {}, scales[4], value[4];
        for (int i = 0; i < 64; i++) {
            const auto & bits = from.bits[i / 4];
            take_apart(bits[0][column], bits[1][column], bits[2][column], value);
            const int half = i / 32, p = i % 32 / 8;
            ql[half * 16 + p % 2 * 8 + i % 8] |= (value[i % 4] & 0x0f0f0f0f) << p / 2 * 4;
            qh[half * 8 + i % 8] |= (value[i % 4] >> 4 & 0x03030303) << 2 * p;
        }
        for (int i = 0; i < 4; i++) scales[i] = from.scales[i][column];
        std::memcpy(to.ql, ql, sizeof ql);
        std::memcpy(to.qh, qh, sizeof qh);
        std::memcpy(to.scales, scales, sizeof scales);
        to.d = from.d[column];
    }

    // A sum of products starts with -32 times the sum of the activations.
    static void sum_up(const int8_t * values, int32_t * sums) {
        for (int j = 0; j < SUMS; j++) {
            const auto [even, odd] = sums_of(values + j * VALUES, VALUES);
            sums[j] = VNNI ? -32 * (even + odd) : pair_of(-32 * even, -32 * odd);
        }
    }
    static ints start(const activations<q6_K> & row, int j) { return broadcast(row.sums[j]); }

    explicit q6_K(const packed & tile) : tile(tile) {}

    void weights(int j, ints (&w)[VALUES / 4]) const {
        take_apart(load_ints(tile.bits[j][0]), load_ints(tile.bits[j][1]), load_ints(tile.bits[j][2]), w);
    }
    ints scale(int j) const { return as_scale(load_ints(tile.scales[j / 4]) << (24 - j % 4 * 8) >> 24); }
    floats value(ints total, const activations<q6_K> &) const {
        return to_floats(total) * load_halves(tile.d);
    }

    const packed & tile;
};

// 8 sub-blocks of 32 values, each with a 6-bit scale and a 6-bit minimum:
// weight = d * scale * (4 or 5 bits) - dmin * minimum.
template <class Block, ggml_type TYPE_, auto DEQUANTIZE, int BITS>
struct q45_K {
    using block = Block;
    static constexpr ggml_type TYPE = TYPE_;
    static constexpr int VALUES = 32;
    static constexpr int GROUP = BITS == 4 ? 32 : 16;
    static constexpr int SUMS = 4;
    static constexpr auto dequantize = DEQUANTIZE;

    struct packed {
        ggml_half d[LANES], dmin[LANES];
        words scales[3];
        words bits[8][BITS];  // of each sub-block, see weights
    };

    // In the file, the words of values 8 * j + i are nibbles of qs[8 * (j / 2) + i], and bit j of qh[i] is their fifth.
    static void pack(const block & from, packed & to, int64_t column) {
        uint32_t qs[32], qh[8] = {}, scales[3];
        std::memcpy(qs, from.qs, sizeof qs);
        std::memcpy(scales, from.scales, sizeof scales);
        if constexpr (BITS == 5) std::memcpy(qh, from.qh, sizeof qh);
        for (int j = 0; j < 8; j++) {
            uint32_t bits[5] = {};
            for (int i = 0; i < 8; i++) {
                bits[i / 2] |= (qs[j / 2 * 8 + i] >> j % 2 * 4 & 0x0f0f0f0f) << i % 2 * 4;
                bits[4] |= (qh[i] >> j & 0x01010101) << i;
            }
            for (int i = 0; i < BITS; i++) to.bits[j][i][column] = bits[i];
        }
        for (int i = 0; i < 3; i++) to.scales[i][column] = scales[i];
        to.d[column] = from.d;
        to.dmin[column] = from.dmin;
    }
    static void unpack(const packed & from, int64_t column, block & to) {
        uint32_t qs[32] = {}, qh[8] = {}, scales[3];
        for (int j = 0; j < 8; j++) {
            for (int i = 0; i < 8; i++) {
                qs[j / 2 * 8 + i] |= (from.bits[j][i / 2][column] >> i % 2 * 4 & 0x0f0f0f0f) << j % 2 * 4;
                if constexpr (BITS == 5) qh[i] |= (from.bits[j][4][column] >> i & 0x01010101) << j;
            }
        }
        for (int i = 0; i < 3; i++) scales[i] = from.scales[i][column];
        std::memcpy(to.qs, qs, sizeof qs);
        std::memcpy(to.scales, scales, sizeof scales);
        if constexpr (BITS == 5) std::memcpy(to.qh, qh, sizeof qh);
        to.d = from.d[column];
        to.dmin = from.dmin[column];
    }

    // The minima need the sums of the sub-blocks, in pairs in the order of `minima`.
    static void sum_up(const int8_t * values, int32_t * sums) {
        for (int i = 0; i < SUMS; i++) {
            const int8_t * first = values + (i / 2 * 4 + i % 2) * VALUES;
            const auto [a, b] = sums_of(first, VALUES);
            const auto [c, d] = sums_of(first + 2 * VALUES, VALUES);
            sums[i] = pair_of(a + b, c + d);
        }
    }
    static ints start(const activations<q45_K> &, int) { return ints{}; }

    // Of the 12 bytes of scales, the low 6 bits of the first 8 are scales and minima 0 to 3; their high 2 bits and the
    // nibbles of the last 4 are scales and minima 4 to 7.
    explicit q45_K(const packed & tile) : tile(tile) {
        const ints a = load_ints(tile.scales[0]), b = load_ints(tile.scales[1]), c = load_ints(tile.scales[2]);
        scales[0] = a & 0x3f3f3f3f;
        scales[1] = (c & 0x0f0f0f0f) | (a >> 2 & 0x30303030);
        const ints low = b & 0x3f3f3f3f, high = (c >> 4 & 0x0f0f0f0f) | (b >> 2 & 0x30303030);
        minima[0] = low & 0x00ff00ff;       // 0 and 2
        minima[1] = low >> 8 & 0x00ff00ff;  // 1 and 3
        minima[2] = high & 0x00ff00ff;
        minima[3] = high >> 8 & 0x00ff00ff;
    }

    // Returns the weights of sub-block j: two nibbles of each of four words, and bit i of the fifth for vector i.
    void weights(int j, ints (&w)[VALUES / 4]) const {
        for (int i = 0; i < VALUES / 4; i++) {
            w[i] = load_ints(tile.bits[j][i / 2]) >> i % 2 * 4 & 0x0f0f0f0f;
            if constexpr (BITS == 5) {
                const ints fifth = load_ints(tile.bits[j][4]);
                w[i] |= (i < 4 ? fifth << (4 - i) : fifth >> (i - 4)) & 0x10101010;
            }
        }
    }
    ints scale(int j) const { return as_scale(scales[j / 4] >> j % 4 * 8 & 0xff); }
    floats value(ints total, const activations<q45_K> & row) const {
        ints minimum = {};
        for (int i = 0; i < SUMS; i++) minimum = dot2(minimum, minima[i], broadcast(row.sums[i]));
        const floats minus = to_floats(-minimum) * load_halves(tile.dmin);
        return fma(to_floats(total), load_halves(tile.d), minus);
    }

    const packed & tile;
    ints scales[2], minima[4];
};

using q5_K = q45_K<block_q5_K, GGML_TYPE_Q5_K, dequantize_row_q5_K, 5>;
using q4_K = q45_K<block_q4_K, GGML_TYPE_Q4_K, dequantize_row_q4_K, 4>;

}  // namespace
}  // namespace sarai

#endif
