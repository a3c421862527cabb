// Vectors of 32-bit lanes, as wide as the instruction set permits, and the kernels' operations on them.
//
// They are GCC's and Clang's vector types, whose operators work lane by lane; this file adds what has no operator. A
// product that is added to a sum is always an explicit fma: if the compiler could choose, the bits of a result would
// depend on its choice.
//
// Everything is in an unnamed namespace, as each CPU library is compiled with its own flags.
#pragma once

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define SARAI_LANES 16
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define SARAI_LANES 8
#endif

#ifdef SARAI_LANES

// GCC 12 warns about the undefined operands in its own AVX-512 intrinsics.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop

#include <cstdint>
#include <cstring>

namespace sarai {
namespace {

constexpr int LANES = SARAI_LANES;
typedef int32_t ints __attribute__((vector_size(4 * LANES)));

// --- Differences between the two widths ------------------------------------------------------------------------------

#if SARAI_LANES == 16

#define SARAI_MM(operation) _mm512_##operation
using raw = __m512i;  // the type that intrinsics take
using floats = __m512;

inline floats load_halves(const void * p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *) p)); }
inline ints load_bytes(const int8_t * p) { return (ints) _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *) p)); }
inline void store_bytes(int8_t * p, ints x) { _mm_storeu_si128((__m128i *) p, _mm512_cvtsepi32_epi8((raw) x)); }
inline ints repeat_16_bytes(const void * p) {
    return (ints) _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *) p));
}

inline float sum(floats x) { return _mm512_reduce_add_ps(x); }
inline float largest(floats x) { return _mm512_reduce_max_ps(x); }

// Returns bit i = (p[i] == value) for 32 values.
inline uint32_t equal_halves(const uint16_t * p, uint16_t value) {
    return _mm512_cmpeq_epi16_mask(_mm512_loadu_si512(p), _mm512_set1_epi16((short) value));
}

// Loads 16 bytes of every fourth row.
inline raw every_fourth(const char * const * rows, int64_t offset) {
    raw x = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *) (rows[0] + offset)));
    x = _mm512_inserti32x4(x, _mm_loadu_si128((const __m128i *) (rows[4] + offset)), 1);
    x = _mm512_inserti32x4(x, _mm_loadu_si128((const __m128i *) (rows[8] + offset)), 2);
    return _mm512_inserti32x4(x, _mm_loadu_si128((const __m128i *) (rows[12] + offset)), 3);
}

#else

#define SARAI_MM(operation) _mm256_##operation
using raw = __m256i;
using floats = __m256;

inline floats load_halves(const void * p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) p)); }
inline ints load_bytes(const int8_t * p) { return (ints) _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *) p)); }
inline void store_bytes(int8_t * p, ints x) {
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128((raw) x), _mm256_extracti128_si256((raw) x, 1));
    _mm_storel_epi64((__m128i *) p, _mm_packs_epi16(words, words));
}
inline ints repeat_16_bytes(const void * p) {
    return (ints) _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *) p));
}

inline float sum(floats x) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}
inline float largest(floats x) {
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}

inline uint32_t equal_halves(const uint16_t * p, uint16_t value) {
    const raw same = _mm256_set1_epi16((short) value);
    const raw a = _mm256_cmpeq_epi16(_mm256_loadu_si256((const raw *) p), same);
    const raw b = _mm256_cmpeq_epi16(_mm256_loadu_si256((const raw *) (p + 16)), same);
    return (uint32_t) _mm256_movemask_epi8(_mm256_permute4x64_epi64(_mm256_packs_epi16(a, b), 0b11011000));
}

inline raw every_fourth(const char * const * rows, int64_t offset) {
    const raw x = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *) (rows[0] + offset)));
    return _mm256_inserti128_si256(x, _mm_loadu_si128((const __m128i *) (rows[4] + offset)), 1);
}

#endif

// --- Sums of products of small numbers -------------------------------------------------------------------------------
//
// x86 multiplies unsigned by signed bytes and adds neighbouring products. With VNNI, one exact instruction adds four
// products to a lane. Without it, two are added to each half of a lane, whose 16 bits must suffice.
//
// dot4 adds products of unsigned and signed bytes; dot2 adds products of pairs of signed 16-bit numbers to whole lanes.

#if SARAI_LANES == 16 && defined(__AVX512VNNI__)
constexpr bool VNNI = true;
inline ints dot4(ints sum, ints u, ints s) { return (ints) _mm512_dpbusd_epi32((raw) sum, (raw) u, (raw) s); }
inline ints dot2(ints sum, ints a, ints b) { return (ints) _mm512_dpwssd_epi32((raw) sum, (raw) a, (raw) b); }
#elif SARAI_LANES == 8 && defined(__AVXVNNI__)
constexpr bool VNNI = true;
inline ints dot4(ints sum, ints u, ints s) { return (ints) _mm256_dpbusd_avx_epi32((raw) sum, (raw) u, (raw) s); }
inline ints dot2(ints sum, ints a, ints b) { return (ints) _mm256_dpwssd_avx_epi32((raw) sum, (raw) a, (raw) b); }
#else
constexpr bool VNNI = false;
inline ints dot4(ints sum, ints u, ints s) {
    return (ints) SARAI_MM(add_epi16)((raw) sum, SARAI_MM(maddubs_epi16)((raw) u, (raw) s));
}
inline ints dot2(ints sum, ints a, ints b) { return sum + (ints) SARAI_MM(madd_epi16)((raw) a, (raw) b); }
#endif

// --- Lanes -----------------------------------------------------------------------------------------------------------

inline floats load(const float * p) { return SARAI_MM(loadu_ps)(p); }
inline ints load_ints(const void * p) {
    ints x;
    std::memcpy(&x, p, sizeof x);
    return x;
}
template <class Vector> inline void store(void * p, Vector x) { std::memcpy(p, &x, sizeof x); }

inline floats broadcast(float x) { return SARAI_MM(set1_ps)(x); }
inline ints broadcast(int32_t x) { return (ints) SARAI_MM(set1_epi32)(x); }
inline ints broadcast_four(const int8_t * p) {
    int32_t x;
    std::memcpy(&x, p, sizeof x);
    return broadcast(x);
}

inline floats to_floats(ints x) { return SARAI_MM(cvtepi32_ps)((raw) x); }
inline ints to_ints(floats x) { return (ints) SARAI_MM(cvtps_epi32)(x); }  // rounded to nearest

inline ints low_nibbles(ints bytes) { return bytes & 0x0f0f0f0f; }
inline ints high_nibbles(ints bytes) { return low_nibbles(bytes >> 4); }
inline ints look_up(ints table, ints index) { return (ints) SARAI_MM(shuffle_epi8)((raw) table, (raw) index); }

inline floats fma(floats a, floats b, floats c) { return SARAI_MM(fmadd_ps)(a, b, c); }
inline floats larger(floats a, floats b) { return SARAI_MM(max_ps)(a, b); }
inline floats magnitude(floats x) { return (floats) ((ints) x & 0x7fffffff); }

// Returns a in lanes below n, else b.
inline floats first(int64_t n, floats a, floats b) {
    ints lane;
    for (int i = 0; i < LANES; i++) lane[i] = i;
    return lane < (n < LANES ? int32_t(n) : LANES) ? a : b;
}

// Keeps the compiler from loading a value again for each use, and from reordering additions.
template <class Vector> inline Vector in_register(Vector x) {
    asm("" : "+v"(x));
    return x;
}

// --- Functions of vectors --------------------------------------------------------------------------------------------

inline float largest_magnitude(const float * x, int n) {
    floats top = {};
    for (int i = 0; i < n; i += LANES) top = larger(top, magnitude(load(x + i)));
    return largest(top);
}

// Writes x * factor, rounded to the nearest bytes.
inline void round_to_bytes(const float * x, float factor, int n, int8_t * bytes) {
    for (int i = 0; i < n; i += LANES) store_bytes(bytes + i, to_ints(load(x + i) * broadcast(factor)));
}

// Returns e^x for x <= 0, to about 1 ulp; 0 where it would be subnormal. The range is reduced to |x| <= ln 2 / 2, where
// a polynomial of degree 6 (Cephes' coefficients) is precise enough.
inline floats exp_of_negative(floats x) {
    const floats limit = broadcast(-87.3f);
    const floats y = larger(limit, x);  // keeps NaN
    const ints n = to_ints(y * broadcast(1.44269504088896341f));
    const floats r = fma(to_floats(n), broadcast(2.12194440e-4f), fma(to_floats(n), broadcast(-0.693359375f), y));
    floats p = broadcast(1.9875691500e-4f);
    p = fma(p, r, broadcast(1.3981999507e-3f));
    p = fma(p, r, broadcast(8.3334519073e-3f));
    p = fma(p, r, broadcast(4.1665795894e-2f));
    p = fma(p, r, broadcast(1.6666665459e-1f));
    p = fma(p, r, broadcast(5.0000001201e-1f));
    p = fma(p * r, r, r + broadcast(1.0f));
    const floats power = (floats) ((n + 127) << 23);  // 2^n, n from -126 to 0
    return x < limit ? floats{} : p * power;
}

// Transposes 16 bytes of each of LANES rows into 4 vectors; vector j has 32-bit value j of every row.
inline void transpose(const char * const * rows, int64_t offset, ints out[4]) {
    const raw a = every_fourth(rows + 0, offset), b = every_fourth(rows + 1, offset);
    const raw c = every_fourth(rows + 2, offset), d = every_fourth(rows + 3, offset);
    const raw ab = SARAI_MM(unpacklo_epi32)(a, b), cd = SARAI_MM(unpacklo_epi32)(c, d);
    const raw AB = SARAI_MM(unpackhi_epi32)(a, b), CD = SARAI_MM(unpackhi_epi32)(c, d);
    out[0] = (ints) SARAI_MM(unpacklo_epi64)(ab, cd);
    out[1] = (ints) SARAI_MM(unpackhi_epi64)(ab, cd);
    out[2] = (ints) SARAI_MM(unpacklo_epi64)(AB, CD);
    out[3] = (ints) SARAI_MM(unpackhi_epi64)(AB, CD);
}

}  // namespace
}  // namespace sarai

#undef SARAI_MM
#endif
