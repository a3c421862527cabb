// The limits of one core of this machine: how fast it reads memory, and how fast it multiplies and adds 8-bit integers.
// Usage: limits READ_MB; prints "read GB/s", then a line "NAME GMAC/s" for each instruction set that this CPU has.
#define _GNU_SOURCE
#include <immintrin.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

// Twelve accumulators hide the latency of a multiplication; an empty asm keeps the compiler from eliding steps.
#define ROUNDS 2000000L
#define TWELVE(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define MEASURE(name, attributes, vector, zero, BEGIN, STEP)             \
    __attribute__((target(attributes))) static double name(void) {       \
        vector a = zero, w = zero, ones = zero;                          \
        __asm__ volatile("" : "+x"(a), "+x"(w), "+x"(ones));             \
        TWELVE(BEGIN)                                                    \
        double begin = now();                                            \
        for (long i = 0; i < ROUNDS; i++) {                              \
            TWELVE(STEP)                                                 \
        }                                                                \
        return 12 * sizeof(vector) * (double) ROUNDS / (now() - begin) / 1e9; \
    }

#define BEGIN512(i) __m512i c##i = a;
#define BEGIN256(i) __m256i c##i = a;
#define VNNI512(i) c##i = _mm512_dpbusd_epi32(c##i, w, a); __asm__ volatile("" : "+v"(c##i));
#define VNNI256(i) c##i = _mm256_dpbusd_avx_epi32(c##i, w, a); __asm__ volatile("" : "+x"(c##i));
#define PAIRS(i)                                                                                  \
    c##i = _mm256_add_epi32(c##i, _mm256_madd_epi16(_mm256_maddubs_epi16(w, a), ones)); \
    __asm__ volatile("" : "+x"(c##i), "+x"(w));

MEASURE(avx512_vnni, "avx512f,avx512bw,avx512vl,avx512vnni", __m512i, _mm512_setzero_si512(), BEGIN512, VNNI512)
MEASURE(avx_vnni, "avx2,avxvnni", __m256i, _mm256_setzero_si256(), BEGIN256, VNNI256)
MEASURE(avx2, "avx2", __m256i, _mm256_setzero_si256(), BEGIN256, PAIRS)

__attribute__((target("avx2"))) static uint64_t read_all(const char * from, size_t bytes) {
    __m256i c[8];
    for (int i = 0; i < 8; i++) c[i] = _mm256_setzero_si256();
    for (size_t at = 0; at < bytes; at += 256) {
        _mm_prefetch(from + at + 4096, _MM_HINT_T0);
        _mm_prefetch(from + at + 4160, _MM_HINT_T0);
        _mm_prefetch(from + at + 4224, _MM_HINT_T0);
        _mm_prefetch(from + at + 4288, _MM_HINT_T0);
        for (int i = 0; i < 8; i++) {
            c[i] = _mm256_xor_si256(c[i], _mm256_load_si256((const __m256i *) (from + at + 32 * i)));
        }
    }
    for (int i = 1; i < 8; i++) c[0] = _mm256_xor_si256(c[0], c[i]);
    return (uint64_t) _mm256_extract_epi64(c[0], 0);
}

static double best(double (*measure)(void)) {
    double most = 0;
    for (int i = 0; i < 3; i++) {
        double rate = measure();
        most = rate > most ? rate : most;
    }
    return most;
}

int main(int count, char ** arguments) {
    size_t bytes = (size_t) (count > 1 ? atol(arguments[1]) : 256) << 20;
    char * memory = aligned_alloc(2 << 20, bytes);
    if (!memory) return 1;
    madvise(memory, bytes, MADV_HUGEPAGE);
    for (size_t at = 0; at < bytes; at += 64) memory[at] = (char) at;
    double least = 1e9;
    volatile uint64_t sink;
    for (int i = 0; i < 5; i++) {
        double begin = now();
        sink = read_all(memory, bytes);
        double seconds = now() - begin;
        least = seconds < least ? seconds : least;
    }
    (void) sink;
    printf("read %.1f\n", bytes / least / 1e9);
    if (__builtin_cpu_supports("avx512vnni")) printf("avx512_vnni %.1f\n", best(avx512_vnni));
    if (__builtin_cpu_supports("avxvnni")) printf("avx_vnni %.1f\n", best(avx_vnni));
    printf("avx2 %.1f\n", best(avx2));
    return 0;
}
