/* The loops over every byte of the data plane, in C. `module.c` is their door to Python and checks every length before
 * anything here is called; `kernel_numpy.py` is their twin, which the tests hold them against.
 *
 * Bits are numbered as on the fibre: the most significant bit of a byte comes first. Nothing here allocates, keeps
 * state between calls, or branches on data that is secret: it all runs on what is, or will be, ciphertext and framing.
 */
#ifndef QSOTN_KERNEL_H
#define QSOTN_KERNEL_H

#include <stddef.h>
#include <stdint.h>

enum {
    ROWS = 4,
    COLUMNS = 4080,
    FRAME_SIZE = ROWS * COLUMNS,
    OVERHEAD_COLUMNS = 16,
    PARITY_COLUMN = 14, /* the first that BIP-8 covers */
    OVERHEAD_SIZE = ROWS * OVERHEAD_COLUMNS,
    ROW_PAYLOAD = 3808,
    PAYLOAD_SIZE = ROWS * ROW_PAYLOAD,
    FEC_COLUMN = OVERHEAD_COLUMNS + ROW_PAYLOAD,
    CODEWORDS = 16, /* of a row */
    CODEWORD_SIZE = 255,
    MESSAGE_SIZE = 239,
    PARITY_SIZE = CODEWORD_SIZE - MESSAGE_SIZE,
    CORE_SIZE = 4,
    TYPE_SIZE = 4,
    EXTENSION_SIZE = 4, /* of a linear frame */
    FCS_SIZE = 4,
    LONGEST_AREA = 65535,
};

enum level { PORTABLE, AVX2, AVX512 };

/* What this processor can do, and the most the functions below may use. */
extern enum level kernel_level;
/* Before anything else here; not from two threads at once. */
void kernel_initialise(void);
enum level kernel_supported(void);

/* CRC-32 of G.7041's payload FCS: most significant bit first, initial and final value all ones. */
uint32_t crc32_payload(const uint8_t *data, size_t size);
/* CRC-16 of cHEC, tHEC and eHEC over two bytes. */
uint16_t crc16_pair(uint8_t first, uint8_t second);
uint16_t crc16(const uint8_t *data, size_t size);

/* The x^43+1 scrambler; `history` holds the last 43 bits on the line, in its low bits; all return the next. Scrambles to
 * the same place or to one that does not overlap it. */
uint64_t scramble_x43(const uint8_t *source, uint8_t *target, size_t size, uint64_t history);
/* The same for four bytes, given as the word they make. */
uint64_t scramble_x43_word(uint32_t word, uint8_t *target, uint64_t history);
/* Descrambles into another place, which must not overlap the source. */
uint64_t descramble_x43(const uint8_t *source, uint8_t *target, size_t size, uint64_t history);

/* G.709 frames. A frame is FRAME_SIZE bytes; its overhead OVERHEAD_SIZE, its OPU payload PAYLOAD_SIZE. */
uint8_t otu_parity(const uint8_t *frame);
void otu_scramble(const uint8_t *source, uint8_t *target, size_t frames);
/* Builds one frame; returns its BIP-8. `fec`: Reed-Solomon parity, else zeros; both before scrambling. */
uint8_t otu_build(const uint8_t *overhead, const uint8_t *payload, uint8_t *frame, int fec);
/* Takes one descrambled frame apart; returns its BIP-8. */
uint8_t otu_take(const uint8_t *frame, uint8_t *overhead, uint8_t *payload);
/* The same for a scrambled frame. */
uint8_t otu_take_scrambled(const uint8_t *frame, uint8_t *overhead, uint8_t *payload);

/* RS(255,239) of G.709 Annex A over the four rows of a frame, byte-interleaved. */
void fec_encode(uint8_t *frame);
struct fec_result { int64_t corrected, uncorrectable; };
void fec_decode(uint8_t *frame, struct fec_result *result);

/* GFP-F. */
struct gfp_clients { const uint8_t *data; const int64_t *starts; const int64_t *sizes; size_t count; };
/* Maps whole client frames while they fit into `room` and less than `enough` is written; returns bytes written, and how
 * many frames by `mapped`. */
size_t gfp_map(const struct gfp_clients *clients, uint32_t type, uint8_t *target, size_t room, size_t enough,
               uint64_t *history, size_t *mapped);

enum gfp_verdict { GFP_INTACT, GFP_WRONG_TYPE, GFP_WRONG_FCS, GFP_WRONG_EXTENSION };
struct gfp_areas {
    uint8_t *data; /* descrambled payload areas, one behind the other */
    size_t room;
    int64_t *starts, *sizes; /* of the payload information fields, or of whole areas where a header is wrong */
    int64_t *types; /* type fields, as received */
    int64_t *verdicts;
    size_t limit, count;
};
struct gfp_progress { size_t position; uint64_t history; int64_t corrected; int lost; };
/* Follows core headers in SYNC from `progress->position` until the stream, the room or the limit ends, or a header is
 * beyond correction (`lost`). */
void gfp_follow(const uint8_t *stream, size_t size, struct gfp_areas *areas, struct gfp_progress *progress);

#endif
