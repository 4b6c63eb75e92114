/* OTU frames of ITU-T G.709: BIP-8, the frame-synchronous scrambler, and building and reading in one pass. */
#include "kernel.h"
#include "vector.h"

enum { SCRAMBLED_FROM = 6 };

static uint8_t pad[FRAME_SIZE];

/* 1+x+x^3+x^12+x^16, all ones at the first bit behind the FAS (clause 11.2). */
void otu_initialise(void)
{
    uint32_t state = 0xFFFF;
    memset(pad, 0, sizeof pad);
    for (size_t bit = 8 * SCRAMBLED_FROM; bit < 8 * (size_t)FRAME_SIZE; bit++) {
        pad[bit / 8] |= (uint8_t)((state >> 15) << (7 - bit % 8));
        state = (state << 1 | ((state >> 15 ^ state >> 11 ^ state >> 2 ^ state) & 1)) & 0xFFFF;
    }
}

static inline uint8_t folded_parity(uint64_t words)
{
    words ^= words >> 32;
    words ^= words >> 16;
    return (uint8_t)(words ^ words >> 8);
}

/* The bodies are written once, for words; the compiler widens them for every processor they are instantiated for. */
#define INLINE static inline __attribute__((always_inline))

INLINE uint64_t xor_sum(const uint8_t *data, size_t size)
{
    uint64_t sum = 0;
    for (size_t at = 0; at < size; at += 8) {
        uint64_t word;
        memcpy(&word, data + at, 8);
        sum ^= word;
    }
    return sum;
}

INLINE void add_pad(const uint8_t *source, const uint8_t *mask, uint8_t *target, size_t size)
{
    for (size_t at = 0; at < size; at += 8) {
        uint64_t word, with;
        memcpy(&word, source + at, 8);
        memcpy(&with, mask + at, 8);
        word ^= with;
        memcpy(target + at, &word, 8);
    }
}

INLINE uint64_t add_pad_summing_source(const uint8_t *source, const uint8_t *mask, uint8_t *target, size_t size)
{
    uint64_t sum = 0;
    for (size_t at = 0; at < size; at += 8) {
        uint64_t word, with;
        memcpy(&word, source + at, 8);
        memcpy(&with, mask + at, 8);
        sum ^= word;
        word ^= with;
        memcpy(target + at, &word, 8);
    }
    return sum;
}

INLINE uint64_t add_pad_summing_target(const uint8_t *source, const uint8_t *mask, uint8_t *target, size_t size)
{
    uint64_t sum = 0;
    for (size_t at = 0; at < size; at += 8) {
        uint64_t word, with;
        memcpy(&word, source + at, 8);
        memcpy(&with, mask + at, 8);
        word ^= with;
        sum ^= word;
        memcpy(target + at, &word, 8);
    }
    return sum;
}

INLINE uint8_t parity_body(const uint8_t *frame)
{
    uint64_t sum = 0;
    uint8_t overhead = 0;
    for (int row = 0; row < ROWS; row++) {
        const uint8_t *at = frame + (size_t)row * COLUMNS;
        sum ^= xor_sum(at + OVERHEAD_COLUMNS, ROW_PAYLOAD);
        overhead ^= at[PARITY_COLUMN] ^ at[PARITY_COLUMN + 1];
    }
    return folded_parity(sum) ^ overhead;
}

INLINE uint8_t build_body(const uint8_t *overhead, const uint8_t *payload, uint8_t *frame)
{
    uint64_t sum = 0;
    uint8_t parity = 0;
    for (int row = 0; row < ROWS; row++) {
        uint8_t *at = frame + (size_t)row * COLUMNS;
        const uint8_t *mask = pad + (size_t)row * COLUMNS;
        const uint8_t *head = overhead + (size_t)row * OVERHEAD_COLUMNS;
        add_pad(head, mask, at, OVERHEAD_COLUMNS);
        sum ^= add_pad_summing_source(payload + (size_t)row * ROW_PAYLOAD, mask + OVERHEAD_COLUMNS,
                                      at + OVERHEAD_COLUMNS, ROW_PAYLOAD);
        memcpy(at + FEC_COLUMN, mask + FEC_COLUMN, COLUMNS - FEC_COLUMN);
        parity ^= head[PARITY_COLUMN] ^ head[PARITY_COLUMN + 1];
    }
    return folded_parity(sum) ^ parity;
}

INLINE uint8_t take_body(const uint8_t *frame, const uint8_t *masks, uint8_t *overhead, uint8_t *payload)
{
    uint64_t sum = 0;
    uint8_t parity = 0;
    for (int row = 0; row < ROWS; row++) {
        const uint8_t *at = frame + (size_t)row * COLUMNS;
        const uint8_t *mask = masks + (size_t)row * COLUMNS;
        uint8_t *head = overhead + (size_t)row * OVERHEAD_COLUMNS;
        add_pad(at, mask, head, OVERHEAD_COLUMNS);
        sum ^= add_pad_summing_target(at + OVERHEAD_COLUMNS, mask + OVERHEAD_COLUMNS,
                                      payload + (size_t)row * ROW_PAYLOAD, ROW_PAYLOAD);
        parity ^= head[PARITY_COLUMN] ^ head[PARITY_COLUMN + 1];
    }
    return folded_parity(sum) ^ parity;
}

static const uint8_t no_pad[FRAME_SIZE];

#define INSTANCES(suffix, target)                                                                                   \
    target static uint8_t parity_##suffix(const uint8_t *frame) { return parity_body(frame); }                      \
    target static void scramble_##suffix(const uint8_t *source, uint8_t *result, size_t frames)                     \
    {                                                                                                               \
        for (; frames; frames--, source += FRAME_SIZE, result += FRAME_SIZE)                                        \
            add_pad(source, pad, result, FRAME_SIZE);                                                               \
    }                                                                                                               \
    target static uint8_t build_##suffix(const uint8_t *overhead, const uint8_t *payload, uint8_t *frame)           \
    {                                                                                                               \
        return build_body(overhead, payload, frame);                                                                \
    }                                                                                                               \
    target static uint8_t take_##suffix(const uint8_t *frame, const uint8_t *masks, uint8_t *overhead,              \
                                        uint8_t *payload)                                                           \
    {                                                                                                               \
        return take_body(frame, masks, overhead, payload);                                                          \
    }

INSTANCES(words, )
#ifdef QSOTN_X86
INSTANCES(avx2, TARGET_AVX2)
INSTANCES(avx512, TARGET_AVX512)
#define BEST(function) \
    (kernel_level >= AVX512 ? function##_avx512 : kernel_level >= AVX2 ? function##_avx2 : function##_words)
#else
#define BEST(function) function##_words
#endif

uint8_t otu_parity(const uint8_t *frame) { return BEST(parity)(frame); }

void otu_scramble(const uint8_t *source, uint8_t *target, size_t frames) { BEST(scramble)(source, target, frames); }

uint8_t otu_build(const uint8_t *overhead, const uint8_t *payload, uint8_t *frame, int fec)
{
    uint8_t parity = BEST(build)(overhead, payload, frame);
    if (fec) {
        /* The parity symbols are those of the frame before scrambling. */
        otu_scramble(frame, frame, 1);
        fec_encode(frame);
        otu_scramble(frame, frame, 1);
    }
    return parity;
}

uint8_t otu_take(const uint8_t *frame, uint8_t *overhead, uint8_t *payload)
{
    return BEST(take)(frame, no_pad, overhead, payload);
}

uint8_t otu_take_scrambled(const uint8_t *frame, uint8_t *overhead, uint8_t *payload)
{
    return BEST(take)(frame, pad, overhead, payload);
}
