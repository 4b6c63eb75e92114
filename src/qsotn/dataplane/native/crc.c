/* The cyclic redundancy checks of ITU-T G.7041, most significant bit first. */
#include "kernel.h"
#include "vector.h"

#include <string.h>

static const uint32_t CRC32_POLYNOMIAL = 0x04C11DB7;
static uint32_t table32[8][256];
static uint16_t table16[256];

void crc_initialise(void)
{
    for (unsigned value = 0; value < 256; value++) {
        uint32_t long_rest = (uint32_t)value << 24;
        uint16_t short_rest = (uint16_t)(value << 8);
        for (int bit = 0; bit < 8; bit++) {
            long_rest = long_rest << 1 ^ (long_rest >> 31 ? CRC32_POLYNOMIAL : 0);
            short_rest = (uint16_t)(short_rest << 1 ^ (short_rest >> 15 ? 0x1021 : 0));
        }
        table32[0][value] = long_rest;
        table16[value] = short_rest;
    }
    for (int zeros = 1; zeros < 8; zeros++)
        for (unsigned value = 0; value < 256; value++)
            table32[zeros][value] = table32[zeros - 1][value] << 8 ^ table32[0][table32[zeros - 1][value] >> 24];
}

uint16_t crc16_pair(uint8_t first, uint8_t second)
{
    uint16_t rest = table16[first];
    return (uint16_t)(rest << 8 ^ table16[(uint8_t)(rest >> 8 ^ second)]);
}

uint16_t crc16(const uint8_t *data, size_t size)
{
    uint16_t rest = 0;
    for (size_t at = 0; at < size; at++)
        rest = (uint16_t)(rest << 8 ^ table16[(uint8_t)(rest >> 8 ^ data[at])]);
    return rest;
}

/* Eight bytes at a time: each goes through the table that knows how many bytes follow it. */
static uint32_t crc32_by_tables(uint32_t rest, const uint8_t *data, size_t size)
{
    for (; size >= 8; data += 8, size -= 8) {
        rest ^= load_big32(data);
        rest = table32[7][rest >> 24] ^ table32[6][rest >> 16 & 255] ^ table32[5][rest >> 8 & 255] ^
               table32[4][rest & 255] ^ table32[3][data[4]] ^ table32[2][data[5]] ^ table32[1][data[6]] ^
               table32[0][data[7]];
    }
    for (; size; data++, size--)
        rest = rest << 8 ^ table32[0][rest >> 24 ^ *data];
    return rest;
}

#ifdef QSOTN_X86
/* x^n modulo the polynomial, for folding n bits ahead. */
static uint64_t power_of_x(unsigned exponent)
{
    uint32_t rest = 1;
    while (exponent--)
        rest = rest << 1 ^ (rest >> 31 ? CRC32_POLYNOMIAL : 0);
    return rest;
}

static uint8_t ascending[64] __attribute__((aligned(64)));
static uint64_t fold1024[2], fold512[2], fold128[2];

void crc_initialise_folding(void)
{
    for (uint8_t at = 0; at < sizeof ascending; at++)
        ascending[at] = at;
    fold1024[0] = power_of_x(1024);
    fold1024[1] = power_of_x(1024 + 64);
    fold512[0] = power_of_x(512);
    fold512[1] = power_of_x(512 + 64);
    fold128[0] = power_of_x(128);
    fold128[1] = power_of_x(128 + 64);
}

#define REVERSE_16 0x00010203, 0x04050607, 0x08090a0b, 0x0c0d0e0f

/* Replaces what is 128 bits ahead by something congruent 128 bits nearer. */
TARGET_CLMUL static inline __m128i folded(__m128i rest, __m128i powers, __m128i next)
{
    __m128i low = _mm_clmulepi64_si128(rest, powers, 0x00);
    __m128i high = _mm_clmulepi64_si128(rest, powers, 0x11);
    return _mm_xor_si128(_mm_xor_si128(low, high), next);
}

TARGET_CLMUL static uint32_t finished(__m128i rest, const uint8_t *data, size_t size)
{
    const __m128i reverse = _mm_set_epi32(REVERSE_16);
    const __m128i powers = _mm_set_epi64x((int64_t)fold128[1], (int64_t)fold128[0]);
    for (; size >= 16; data += 16, size -= 16)
        rest = folded(rest, powers, _mm_shuffle_epi8(_mm_loadu_si128((const void *)data), reverse));
    uint8_t folded_down[16];
    _mm_storeu_si128((void *)folded_down, _mm_shuffle_epi8(rest, reverse));
    return crc32_by_tables(crc32_by_tables(0, folded_down, 16), data, size);
}

/* 64 bytes or more, by carry-less multiplication. */
TARGET_CLMUL static uint32_t crc32_clmul(uint32_t initial, const uint8_t *data, size_t size)
{
    const __m128i reverse = _mm_set_epi32(REVERSE_16);
    const __m128i powers = _mm_set_epi64x((int64_t)fold512[1], (int64_t)fold512[0]);
    __m128i rest[4];
    for (int lane = 0; lane < 4; lane++)
        rest[lane] = _mm_shuffle_epi8(_mm_loadu_si128((const void *)(data + 16 * lane)), reverse);
    rest[0] = _mm_xor_si128(rest[0], _mm_set_epi32((int32_t)initial, 0, 0, 0));
    for (data += 64, size -= 64; size >= 64; data += 64, size -= 64)
        for (int lane = 0; lane < 4; lane++)
            rest[lane] = folded(rest[lane], powers,
                                _mm_shuffle_epi8(_mm_loadu_si128((const void *)(data + 16 * lane)), reverse));
    const __m128i nearer = _mm_set_epi64x((int64_t)fold128[1], (int64_t)fold128[0]);
    for (int lane = 1; lane < 4; lane++)
        rest[lane] = folded(rest[lane - 1], nearer, rest[lane]);
    return finished(rest[3], data, size);
}

TARGET_AVX512 static inline __m512i folded_wide(__m512i rest, __m512i powers, __m512i next)
{
    __m512i low = _mm512_clmulepi64_epi128(rest, powers, 0x00);
    __m512i high = _mm512_clmulepi64_epi128(rest, powers, 0x11);
    return _mm512_ternarylogic_epi64(low, high, next, 0x96);
}

/* 64 bytes or more. What is beyond a multiple of 64 comes first, behind as many zeros as are missing, which change
 * nothing; the initial value goes onto the first four bytes of the message, wherever they then are. Two remainders run at
 * a time, 64 bytes apart, because each waits for its own multiplications. */
TARGET_AVX512 static uint32_t crc32_wide(const uint8_t *data, size_t size)
{
    const __m512i reverse = _mm512_broadcast_i32x4(_mm_set_epi32(REVERSE_16));
    const __m512i near = _mm512_broadcast_i32x4(_mm_set_epi64x((int64_t)fold512[1], (int64_t)fold512[0]));
    const __m512i far = _mm512_broadcast_i32x4(_mm_set_epi64x((int64_t)fold1024[1], (int64_t)fold1024[0]));
    const __m512i ones = _mm512_set1_epi8(-1);
    const size_t beyond = size % 64 ? size % 64 : 64, missing = 64 - beyond;
    const __mmask64 present = ~UINT64_C(0) >> missing << missing;
    const __m512i places = _mm512_sub_epi8(_mm512_load_si512(ascending), _mm512_set1_epi8((char)missing));
    __m512i first = _mm512_maskz_permutexvar_epi8(present, places, _mm512_maskz_loadu_epi8(present >> missing, data));
    first = _mm512_xor_si512(first, _mm512_maskz_mov_epi8(UINT64_C(15) << missing, ones));
    __m512i rest = _mm512_shuffle_epi8(first, reverse);
    __mmask64 early = beyond < 4 ? UINT64_C(15) >> beyond : 0;
    data += beyond, size -= beyond;
    if (size) {
        __m512i second = _mm512_xor_si512(_mm512_loadu_si512(data), _mm512_maskz_mov_epi8(early, ones));
        second = _mm512_shuffle_epi8(second, reverse);
        for (data += 64, size -= 64; size >= 128; data += 128, size -= 128) {
            rest = folded_wide(rest, far, _mm512_shuffle_epi8(_mm512_loadu_si512(data), reverse));
            second = folded_wide(second, far, _mm512_shuffle_epi8(_mm512_loadu_si512(data + 64), reverse));
        }
        rest = folded_wide(rest, near, second);
        if (size)
            rest = folded_wide(rest, near, _mm512_shuffle_epi8(_mm512_loadu_si512(data), reverse));
    }
    const __m128i nearer = _mm_set_epi64x((int64_t)fold128[1], (int64_t)fold128[0]);
    __m128i joined = folded(_mm512_castsi512_si128(rest), nearer, _mm512_extracti32x4_epi32(rest, 1));
    joined = folded(joined, nearer, _mm512_extracti32x4_epi32(rest, 2));
    joined = folded(joined, nearer, _mm512_extracti32x4_epi32(rest, 3));
    return finished(joined, data, 0);
}
#endif

uint32_t crc32_payload(const uint8_t *data, size_t size)
{
    uint32_t rest = 0xFFFFFFFF;
#ifdef QSOTN_X86
    if (kernel_level >= AVX512 && size >= 64)
        return ~crc32_wide(data, size);
    if (kernel_level >= AVX2 && size >= 64)
        return ~crc32_clmul(rest, data, size);
#endif
    return ~crc32_by_tables(rest, data, size);
}
