/* The self-synchronous scrambler x^43+1 of ITU-T G.7041 clause 6.1.2.3. */
#include "kernel.h"
#include "vector.h"

#define HISTORY_MASK ((UINT64_C(1) << 43) - 1)

/* One word of 64 bits: y = x + y delayed by 43. Its first 43 bits see the history, its last 21 see its own first. */
static inline uint64_t scrambled_word(uint64_t word, uint64_t history)
{
    uint64_t early = history << 21;
    return word ^ word >> 43 ^ early ^ early >> 43;
}

static uint64_t scramble_bytes(const uint8_t *source, uint8_t *target, size_t size, uint64_t history)
{
    for (size_t at = 0; at < size; at++) {
        target[at] = source[at] ^ (uint8_t)(history >> 35);
        history = (history << 8 | target[at]) & HISTORY_MASK;
    }
    return history;
}

static uint64_t scramble_words(const uint8_t *source, uint8_t *target, size_t size, uint64_t history)
{
    size_t at = 0;
    for (; at + 8 <= size; at += 8) {
        history = scrambled_word(load_big64(source + at), history);
        store_big64(target + at, history);
    }
    return scramble_bytes(source + at, target + at, size - at, history & HISTORY_MASK);
}

/* Descrambling has no recursion: every word is added to the line 43 bits earlier. */
static uint64_t descramble_words(const uint8_t *source, uint8_t *target, size_t size, uint64_t history)
{
    size_t at = 0;
    for (; at + 8 <= size; at += 8) {
        uint64_t word = load_big64(source + at);
        store_big64(target + at, word ^ word >> 43 ^ history << 21);
        history = word;
    }
    history &= HISTORY_MASK;
    for (; at < size; at++) {
        uint8_t line = source[at];
        target[at] = line ^ (uint8_t)(history >> 35);
        history = (history << 8 | line) & HISTORY_MASK;
    }
    return history;
}

#ifdef QSOTN_X86
/* In wide registers the first bit on the line is the lowest of the lowest word: every byte is turned around on the way
 * in and out, and a delay is a shift to the left across the words. `EARLIER` is every word's n-th predecessor. */
#define EARLIER(now, before, n) _mm512_alignr_epi64((now), (before), 8 - (n))
#define DELAYED(now, before, words, bits) \
    _mm512_shldi_epi64(EARLIER(now, before, words), EARLIER(now, before, (words) + 1), (bits))

TARGET_AVX512 static inline __m512i turned(__m512i bytes)
{
    return _mm512_gf2p8affine_epi64_epi8(bytes, _mm512_set1_epi64((int64_t)0x8040201008040201), 0);
}

/* Eight consecutive words of the sequence of period 43 that ends, sixteen words from its beginning, in `history`. */
TARGET_AVX512 static inline __m512i repeated(uint64_t history, int first)
{
    /* 64 bits earlier is the pattern turned by 21 of its 43 bits. */
    const __m512i turn = first ? _mm512_set_epi64(0, 21, 42, 20, 41, 19, 40, 18)
                               : _mm512_set_epi64(39, 17, 38, 16, 37, 15, 36, 14);
    const __m512i order = _mm512_set4_epi32(0x08090a0b, 0x0c0d0e0f, 0x00010203, 0x04050607);
    const __m512i pattern = _mm512_set1_epi64((int64_t)history);
    __m512i words = _mm512_or_si512(_mm512_srlv_epi64(pattern, turn),
                                    _mm512_sllv_epi64(pattern, _mm512_sub_epi64(_mm512_set1_epi64(43), turn)));
    words = _mm512_and_si512(words, _mm512_set1_epi64((int64_t)HISTORY_MASK));
    words = _mm512_or_si512(words, _mm512_slli_epi64(words, 43));
    return turned(_mm512_shuffle_epi8(words, order));
}

/* The last 43 of the bits before byte `end` of `now`, which follows `before`: taken from the registers, since reading
 * back what was just stored would wait for it to reach memory. */
TARGET_AVX512 static inline uint64_t last_bits(__m512i before, __m512i now, size_t end)
{
    const __m512i places = _mm512_add_epi8(_mm512_set1_epi64(0x0001020304050607), _mm512_set1_epi8((char)(56 + end)));
    __m512i bytes = turned(_mm512_permutex2var_epi8(before, places, now));
    return (uint64_t)_mm_cvtsi128_si64(_mm512_castsi512_si128(bytes)) & HISTORY_MASK;
}

/* What scrambling needs of the registers before: input, two of the stages, and the last two of the line. */
struct wide { __m512i x, a, b, y1, y2; };

/* Twelve terms of 1/(1+z^43) = (1+z^43+z^86)(1+z^129)(1+z^258)/(1+z^516): the first three factors only look back at what
 * is already known; the last reaches back further than a register is long, so nothing waits for itself. */
TARGET_AVX512 static inline __m512i scrambled_wide(struct wide *line, __m512i x)
{
    const __m512i before = EARLIER(x, line->x, 1);
    __m512i a = _mm512_ternarylogic_epi64(x, _mm512_shldi_epi64(x, before, 43),
                                          _mm512_shldi_epi64(before, EARLIER(x, line->x, 2), 22), 0x96);
    __m512i b = _mm512_xor_si512(a, DELAYED(a, line->a, 2, 1));
    __m512i c = _mm512_xor_si512(b, DELAYED(b, line->b, 4, 2));
    __m512i y = _mm512_xor_si512(c, _mm512_shldi_epi64(line->y1, EARLIER(line->y1, line->y2, 1), 4));
    *line = (struct wide){x, a, b, y, line->y1};
    return y;
}

TARGET_AVX512 static uint64_t scramble_wide(const uint8_t *source, uint8_t *target, size_t size, uint64_t history)
{
    /* The line before is as if zeros had been sent since ever: it repeats itself every 43 bits. */
    struct wide line = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512(), repeated(history, 8),
                        repeated(history, 0)};
    for (; size > 64; source += 64, target += 64, size -= 64)
        _mm512_storeu_si512(target, turned(scrambled_wide(&line, turned(_mm512_loadu_si512(source)))));
    /* The last register's worth, whole or not, is masked, which the processor does not do as fast. */
    const __mmask64 present = ~UINT64_C(0) >> (64 - size);
    __m512i last = scrambled_wide(&line, turned(_mm512_maskz_loadu_epi8(present, source)));
    _mm512_mask_storeu_epi8(target, present, turned(last));
    return last_bits(line.y2, line.y1, size);
}

TARGET_AVX512 static uint64_t descramble_wide(const uint8_t *source, uint8_t *target, size_t size, uint64_t history)
{
    __m512i before = repeated(history, 8);
    const uint8_t *const end = source + size;
    for (; size > 64; source += 64, target += 64, size -= 64) {
        __m512i line = turned(_mm512_loadu_si512(source));
        __m512i late = _mm512_shldi_epi64(line, EARLIER(line, before, 1), 43);
        _mm512_storeu_si512(target, turned(_mm512_xor_si512(line, late)));
        before = line;
    }
    const __mmask64 present = ~UINT64_C(0) >> (64 - size);
    __m512i line = turned(_mm512_maskz_loadu_epi8(present, source));
    __m512i late = _mm512_shldi_epi64(line, EARLIER(line, before, 1), 43);
    _mm512_mask_storeu_epi8(target, present, turned(_mm512_xor_si512(line, late)));
    return load_big64(end - 8) & HISTORY_MASK;
}
#endif

uint64_t scramble_x43(const uint8_t *source, uint8_t *target, size_t size, uint64_t history)
{
#ifdef QSOTN_X86
    if (kernel_level >= AVX512 && size >= 64)
        return scramble_wide(source, target, size, history);
#endif
    return scramble_words(source, target, size, history);
}

uint64_t scramble_x43_word(uint32_t word, uint8_t *target, uint64_t history)
{
    uint32_t line = word ^ (uint32_t)(history >> 11);
    store_big32(target, line);
    return (history << 32 | line) & HISTORY_MASK;
}

uint64_t descramble_x43(const uint8_t *source, uint8_t *target, size_t size, uint64_t history)
{
#ifdef QSOTN_X86
    if (kernel_level >= AVX512 && size >= 64)
        return descramble_wide(source, target, size, history);
#endif
    return descramble_words(source, target, size, history);
}
