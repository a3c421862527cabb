// Vectors of floats, as wide as the instruction set has them: 16 lanes with AVX-512, 8 with AVX2.
//
// A product and the sum after it are one fma wherever they belong together. The compiler is never left to choose, as
// the bits of a result would depend on its choice.
#pragma once

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define SARAI_LANES 16
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define SARAI_LANES 8
#endif

#ifdef SARAI_LANES

// GCC 12 takes the undefined operands inside of its own AVX-512 intrinsics for mistakes.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop

#include <cstdint>
#include <cstring>

namespace sarai {
namespace {

constexpr int lanes = SARAI_LANES;

#if SARAI_LANES == 16

using floats = __m512;
using ints = __m512i;

inline floats load(const float * x) { return _mm512_loadu_ps(x); }
inline void store(float * x, floats a) { _mm512_storeu_ps(x, a); }
inline floats broadcast(float x) { return _mm512_set1_ps(x); }
inline floats add(floats a, floats b) { return _mm512_add_ps(a, b); }
inline floats sub(floats a, floats b) { return _mm512_sub_ps(a, b); }
inline floats mul(floats a, floats b) { return _mm512_mul_ps(a, b); }
inline floats fma(floats a, floats b, floats c) { return _mm512_fmadd_ps(a, b, c); }
inline floats larger(floats a, floats b) { return _mm512_max_ps(a, b); }
inline floats magnitude(floats a) { return _mm512_abs_ps(a); }
inline floats nearest(floats a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline float sum(floats a) { return _mm512_reduce_add_ps(a); }
inline float largest(floats a) { return _mm512_reduce_max_ps(a); }

inline ints load_ints(const void * x) { return _mm512_loadu_si512(x); }
inline void store_ints(void * x, ints a) { _mm512_storeu_si512(x, a); }
inline ints broadcast_int(int32_t x) { return _mm512_set1_epi32(x); }
inline floats to_floats(ints a) { return _mm512_cvtepi32_ps(a); }
inline ints to_ints(floats a) { return _mm512_cvtps_epi32(a); }

inline floats from_halfs(const void * x) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *) x)); }
inline floats from_bytes(const int8_t * x) {
    return to_floats(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *) x)));
}
inline void store_bytes(int8_t * x, ints a) { _mm_storeu_si128((__m128i *) x, _mm512_cvtepi32_epi8(a)); }

// a where lane < n, else b.
inline floats first(int64_t n, floats a, floats b) {
    return _mm512_mask_blend_ps((__mmask16) (n >= lanes ? 0xffff : (1u << n) - 1), b, a);
}
inline floats zero_below(floats x, floats limit, floats a) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, limit, _CMP_NLT_UQ), a);
}
// a * 2^n for whole n from -126 to 0.
inline floats times_power(floats a, floats n) { return _mm512_scalef_ps(a, n); }

// 16 bytes of every fourth row.
inline ints every_fourth(const char * const * rows, int64_t offset) {
    ints a = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *) (rows[0] + offset)));
    a = _mm512_inserti32x4(a, _mm_loadu_si128((const __m128i *) (rows[4] + offset)), 1);
    a = _mm512_inserti32x4(a, _mm_loadu_si128((const __m128i *) (rows[8] + offset)), 2);
    return _mm512_inserti32x4(a, _mm_loadu_si128((const __m128i *) (rows[12] + offset)), 3);
}
inline ints low_pairs(ints a, ints b) { return _mm512_unpacklo_epi32(a, b); }
inline ints high_pairs(ints a, ints b) { return _mm512_unpackhi_epi32(a, b); }
inline ints low_quads(ints a, ints b) { return _mm512_unpacklo_epi64(a, b); }
inline ints high_quads(ints a, ints b) { return _mm512_unpackhi_epi64(a, b); }
inline ints exclusive_or(ints a, ints b) { return _mm512_xor_si512(a, b); }

// Bit i: x[i] == value, for 32 values.
inline uint32_t equal_halfs(const uint16_t * x, uint16_t value) {
    return _mm512_cmpeq_epi16_mask(_mm512_loadu_si512(x), _mm512_set1_epi16((short) value));
}

#ifdef __AVX512VNNI__
#define SARAI_DOT4
inline ints dot4(ints sums, ints unsigned_bytes, ints signed_bytes) {
    return _mm512_dpbusd_epi32(sums, unsigned_bytes, signed_bytes);
}
#endif

#else

using floats = __m256;
using ints = __m256i;

inline floats load(const float * x) { return _mm256_loadu_ps(x); }
inline void store(float * x, floats a) { _mm256_storeu_ps(x, a); }
inline floats broadcast(float x) { return _mm256_set1_ps(x); }
inline floats add(floats a, floats b) { return _mm256_add_ps(a, b); }
inline floats sub(floats a, floats b) { return _mm256_sub_ps(a, b); }
inline floats mul(floats a, floats b) { return _mm256_mul_ps(a, b); }
inline floats fma(floats a, floats b, floats c) { return _mm256_fmadd_ps(a, b, c); }
inline floats larger(floats a, floats b) { return _mm256_max_ps(a, b); }
inline floats magnitude(floats a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
inline floats nearest(floats a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline float sum(floats a) {
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}
inline float largest(floats a) {
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}

inline ints load_ints(const void * x) { return _mm256_loadu_si256((const __m256i *) x); }
inline void store_ints(void * x, ints a) { _mm256_storeu_si256((__m256i *) x, a); }
inline ints broadcast_int(int32_t x) { return _mm256_set1_epi32(x); }
inline floats to_floats(ints a) { return _mm256_cvtepi32_ps(a); }
inline ints to_ints(floats a) { return _mm256_cvtps_epi32(a); }

inline floats from_halfs(const void * x) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) x)); }
inline floats from_bytes(const int8_t * x) {
    return to_floats(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *) x)));
}
inline void store_bytes(int8_t * x, ints a) {
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    _mm_storel_epi64((__m128i *) x, _mm_packs_epi16(words, words));
}

inline floats first(int64_t n, floats a, floats b) {
    const ints index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const ints keep = _mm256_cmpgt_epi32(broadcast_int(n >= lanes ? lanes : (int32_t) n), index);
    return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(keep));
}
inline floats zero_below(floats x, floats limit, floats a) {
    return _mm256_and_ps(_mm256_cmp_ps(x, limit, _CMP_NLT_UQ), a);
}
inline floats times_power(floats a, floats n) {
    const ints exponent = _mm256_slli_epi32(_mm256_add_epi32(to_ints(n), broadcast_int(127)), 23);
    return mul(a, _mm256_castsi256_ps(exponent));
}

inline ints every_fourth(const char * const * rows, int64_t offset) {
    const ints a = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *) (rows[0] + offset)));
    return _mm256_inserti128_si256(a, _mm_loadu_si128((const __m128i *) (rows[4] + offset)), 1);
}
inline ints low_pairs(ints a, ints b) { return _mm256_unpacklo_epi32(a, b); }
inline ints high_pairs(ints a, ints b) { return _mm256_unpackhi_epi32(a, b); }
inline ints low_quads(ints a, ints b) { return _mm256_unpacklo_epi64(a, b); }
inline ints high_quads(ints a, ints b) { return _mm256_unpackhi_epi64(a, b); }
inline ints exclusive_or(ints a, ints b) { return _mm256_xor_si256(a, b); }

inline uint32_t equal_halfs(const uint16_t * x, uint16_t value) {
    const ints same = _mm256_set1_epi16((short) value);
    const ints a = _mm256_cmpeq_epi16(load_ints(x), same);
    const ints b = _mm256_cmpeq_epi16(load_ints(x + 16), same);
    const ints bytes = _mm256_permute4x64_epi64(_mm256_packs_epi16(a, b), _MM_SHUFFLE(3, 1, 2, 0));
    return (uint32_t) _mm256_movemask_epi8(bytes);
}

#ifdef __AVXVNNI__
#define SARAI_DOT4
inline ints dot4(ints sums, ints unsigned_bytes, ints signed_bytes) {
    return _mm256_dpbusd_avx_epi32(sums, unsigned_bytes, signed_bytes);
}
#endif

#endif

// e^x for x <= 0, to about 1 ulp; 0 where it is no normal number. The range is reduced to |x| <= ln 2 / 2, where a
// polynomial of degree 6 (Cephes' coefficients) is exact enough.
inline floats exp_of_negative(floats x) {
    const floats limit = broadcast(-87.3f);
    const floats y = larger(limit, x);  // x where it is no number
    const floats n = nearest(mul(y, broadcast(1.44269504088896341f)));
    const floats r = fma(n, broadcast(2.12194440e-4f), fma(n, broadcast(-0.693359375f), y));
    floats p = broadcast(1.9875691500e-4f);
    p = fma(p, r, broadcast(1.3981999507e-3f));
    p = fma(p, r, broadcast(8.3334519073e-3f));
    p = fma(p, r, broadcast(4.1665795894e-2f));
    p = fma(p, r, broadcast(1.6666665459e-1f));
    p = fma(p, r, broadcast(5.0000001201e-1f));
    p = fma(mul(p, r), r, add(r, broadcast(1.0f)));
    return zero_below(x, limit, times_power(p, n));
}

// Keeps the compiler from loading a value again for each of its uses: loads are what limits such loops.
template <class T> inline T in_register(T x) {
    asm("" : "+v"(x));
    return x;
}

// Writes the 4 x `lanes` matrix of 32-bit values transposed: 16 bytes of each of `lanes` rows become 4 vectors, the
// j-th of which has value j of every row.
inline void transpose(const char * const * rows, int64_t offset, ints out[4]) {
    const ints a = every_fourth(rows + 0, offset), b = every_fourth(rows + 1, offset);
    const ints c = every_fourth(rows + 2, offset), d = every_fourth(rows + 3, offset);
    const ints ab = low_pairs(a, b), cd = low_pairs(c, d), AB = high_pairs(a, b), CD = high_pairs(c, d);
    out[0] = low_quads(ab, cd);
    out[1] = high_quads(ab, cd);
    out[2] = low_quads(AB, CD);
    out[3] = high_quads(AB, CD);
}

}  // namespace
}  // namespace sarai

#endif
