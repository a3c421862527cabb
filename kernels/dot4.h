// Vectors of 32-bit lanes, as wide as the instruction set has them, and exact sums of products of bytes.
//
// x86 multiplies unsigned bytes with signed ones and adds up neighbours. With VNNI four products are added to a lane in
// one exact instruction. Without it two are added up to 16 bits, and saturate there (255 * 127 * 2 is too much); so
// bytes are taken apart into planes of four bits, of which 16 bits hold a whole block's sum.
//
// Everything is in an unnamed namespace, for each CPU library is compiled with flags of its own.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define SARAI_LANES 16
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define SARAI_LANES 8
#endif

#ifdef SARAI_LANES

// GCC 12 takes the undefined operands in its own AVX-512 intrinsics for mistakes.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop

namespace sarai {
namespace {

constexpr int LANES = SARAI_LANES;

#if SARAI_LANES == 16

using ints = __m512i;
using floats = __m512;

inline ints load(const void * p) { return _mm512_loadu_si512(p); }
inline ints load_four_times(const __m128i * p) { return _mm512_broadcast_i32x4(_mm_loadu_si128(p)); }
inline ints every(int32_t x) { return _mm512_set1_epi32(x); }
inline ints every_byte(int8_t x) { return _mm512_set1_epi8(x); }
inline ints flip(ints x, ints bits) { return _mm512_xor_si512(x, bits); }
inline ints low_nibbles(ints x) { return _mm512_and_si512(x, every_byte(15)); }
inline ints high_nibbles(ints x) { return low_nibbles(_mm512_srli_epi16(x, 4)); }
inline ints look_up(ints table, ints index) { return _mm512_shuffle_epi8(table, index); }

inline floats every(float x) { return _mm512_set1_ps(x); }
inline floats to_floats(ints x) { return _mm512_cvtepi32_ps(x); }
inline floats load_halves(const uint16_t * p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *) p)); }
inline floats product(floats a, floats b) { return _mm512_mul_ps(a, b); }
inline floats fused_multiply_add(floats a, floats b, floats c) { return _mm512_fmadd_ps(a, b, c); }
inline void store(float * p, floats x) { _mm512_storeu_ps(p, x); }

#else

using ints = __m256i;
using floats = __m256;

inline ints load(const void * p) { return _mm256_loadu_si256((const __m256i *) p); }
inline ints load_four_times(const __m128i * p) { return _mm256_broadcastsi128_si256(_mm_loadu_si128(p)); }
inline ints every(int32_t x) { return _mm256_set1_epi32(x); }
inline ints every_byte(int8_t x) { return _mm256_set1_epi8(x); }
inline ints flip(ints x, ints bits) { return _mm256_xor_si256(x, bits); }
inline ints low_nibbles(ints x) { return _mm256_and_si256(x, every_byte(15)); }
inline ints high_nibbles(ints x) { return low_nibbles(_mm256_srli_epi16(x, 4)); }
inline ints look_up(ints table, ints index) { return _mm256_shuffle_epi8(table, index); }

inline floats every(float x) { return _mm256_set1_ps(x); }
inline floats to_floats(ints x) { return _mm256_cvtepi32_ps(x); }
inline floats load_halves(const uint16_t * p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) p)); }
inline floats product(floats a, floats b) { return _mm256_mul_ps(a, b); }
inline floats fused_multiply_add(floats a, floats b, floats c) { return _mm256_fmadd_ps(a, b, c); }
inline void store(float * p, floats x) { _mm256_storeu_ps(p, x); }

#endif

// The four bytes at p, in every lane.
inline ints every_four(const int8_t * p) {
    int32_t x;
    std::memcpy(&x, p, sizeof x);
    return every(x);
}

#if SARAI_LANES == 16 && defined(__AVX512VNNI__)
#define SARAI_VNNI
inline ints dot4(ints sum, ints u, ints s) { return _mm512_dpbusd_epi32(sum, u, s); }
#elif SARAI_LANES == 8 && defined(__AVXVNNI__)
#define SARAI_VNNI
inline ints dot4(ints sum, ints u, ints s) { return _mm256_dpbusd_avx_epi32(sum, u, s); }
#endif

#ifdef SARAI_VNNI

// How many planes unsigned bytes of `bits` bits are taken apart into: none of these has to be.
template <int bits> constexpr int PLANES = 1;

inline void take_apart(ints bytes, ints (&plane)[1]) { plane[0] = bytes; }

// In each lane the sum of up to 32 products of unsigned weights with activations.
template <int bits> struct sums {
    ints total;

    void start(int32_t x) { total = every(x); }
    void add(const ints (&weights)[1], ints activations) { total = dot4(total, weights[0], activations); }
    ints finish() const { return total; }
};

#else

// How many planes unsigned bytes of `bits` bits are taken apart into: byte = plane 0 + 16 * plane 1.
template <int bits> constexpr int PLANES = bits / 4;

inline void take_apart(ints nibbles, ints (&plane)[1]) { plane[0] = nibbles; }
inline void take_apart(ints bytes, ints (&plane)[2]) {
    plane[0] = low_nibbles(bytes);
    plane[1] = high_nibbles(bytes);
}

#if SARAI_LANES == 16
inline ints add_16(ints a, ints b) { return _mm512_add_epi16(a, b); }
inline ints add_32(ints a, ints b) { return _mm512_add_epi32(a, b); }
inline ints pairs_of_bytes(ints u, ints s) { return _mm512_maddubs_epi16(u, s); }
inline ints pairs_of_16(ints a, int16_t factor) { return _mm512_madd_epi16(a, _mm512_set1_epi16(factor)); }
#else
inline ints add_16(ints a, ints b) { return _mm256_add_epi16(a, b); }
inline ints add_32(ints a, ints b) { return _mm256_add_epi32(a, b); }
inline ints pairs_of_bytes(ints u, ints s) { return _mm256_maddubs_epi16(u, s); }
inline ints pairs_of_16(ints a, int16_t factor) { return _mm256_madd_epi16(a, _mm256_set1_epi16(factor)); }
#endif

// In each lane the sum of up to 32 products of unsigned weights with activations. A plane has it in two parts of 16
// bits, each of 16 products, which are at most 16 * 15 * 128 = 30,720.
template <int bits> struct sums {
    int32_t first;
    ints plane[PLANES<bits>];

    void start(int32_t x) {
        first = x;
        for (ints & p : plane) p = every(0);
    }

    void add(const ints (&weights)[PLANES<bits>], ints activations) {
        for (int p = 0; p < PLANES<bits>; p++) {
            plane[p] = add_16(plane[p], pairs_of_bytes(weights[p], activations));
            asm("" : "+v"(plane[p]));  // one after the other: GCC would add up as a tree, and run out of registers
        }
    }

    ints finish() const {
        ints total = add_32(every(first), pairs_of_16(plane[0], 1));
        if constexpr (PLANES<bits> == 2) total = add_32(total, pairs_of_16(plane[1], 16));
        return total;
    }
};

#endif

}  // namespace
}  // namespace sarai
#endif
