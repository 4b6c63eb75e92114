/* RS(255,239) of ITU-T G.709 Annex A: field x^8+x^4+x^3+x^2+1, roots alpha^0 to alpha^15, sixteen byte-interleaved
 * codewords in each row. Symbol i of codeword c of a row is byte 16i+c; symbol 0 is the coefficient of x^254. */
#include "kernel.h"
#include "vector.h"

enum { FIELD_POLYNOMIAL = 0x11D, ORDER = 255, CORRECTABLE = PARITY_SIZE / 2 };

static uint8_t exponent[2 * ORDER + 2], logarithm[256];
static uint8_t generator[PARITY_SIZE + 1]; /* coefficient of x^i */
static uint8_t products[256][PARITY_SIZE]; /* of a symbol with the generator's coefficients, x^15 first */
static uint8_t low_products[PARITY_SIZE][16], high_products[PARITY_SIZE][16];
static uint64_t factor_matrices[PARITY_SIZE]; /* of the generator's coefficients; the first byte makes bit 7 */

static uint8_t product(uint8_t a, uint8_t b)
{
    return a && b ? exponent[logarithm[a] + logarithm[b]] : 0;
}

static uint8_t quotient(uint8_t a, uint8_t b)
{
    return a ? exponent[logarithm[a] + ORDER - logarithm[b]] : 0;
}

void fec_initialise(void)
{
    unsigned power = 1;
    for (int at = 0; at < ORDER; at++) {
        exponent[at] = exponent[at + ORDER] = (uint8_t)power;
        logarithm[power] = (uint8_t)at;
        power = power << 1 ^ (power >> 7 ? FIELD_POLYNOMIAL : 0);
    }
    memset(generator, 0, sizeof generator);
    memset(factor_matrices, 0, sizeof factor_matrices);
    generator[0] = 1;
    for (int root = 0; root < PARITY_SIZE; root++) {
        for (int degree = root + 1; degree; degree--)
            generator[degree] = generator[degree - 1] ^ product(generator[degree], exponent[root]);
        generator[0] = product(generator[0], exponent[root]);
    }
    for (unsigned symbol = 0; symbol < 256; symbol++)
        for (int degree = 0; degree < PARITY_SIZE; degree++)
            products[symbol][PARITY_SIZE - 1 - degree] = product(generator[degree], (uint8_t)symbol);
    for (int degree = 0; degree < PARITY_SIZE; degree++)
        for (unsigned nibble = 0; nibble < 16; nibble++) {
            low_products[degree][nibble] = product(generator[degree], (uint8_t)nibble);
            high_products[degree][nibble] = product(generator[degree], (uint8_t)(nibble << 4));
        }
    for (int degree = 0; degree < PARITY_SIZE; degree++)
        for (int out = 0; out < 8; out++)
            for (int in = 0; in < 8; in++) {
                uint64_t bit = product(generator[degree], (uint8_t)(1 << in)) >> out & 1;
                factor_matrices[degree] |= bit << (8 * (7 - out) + in);
            }
}

/* The remainders of the sixteen codewords of a row, as they stand in the row's last 256 columns. */
static void row_parity_by_tables(const uint8_t *row, uint8_t *parity)
{
    for (int codeword = 0; codeword < CODEWORDS; codeword++) {
        uint8_t rest[PARITY_SIZE] = {0};
        for (int symbol = 0; symbol < MESSAGE_SIZE; symbol++) {
            const uint8_t *add = products[row[CODEWORDS * symbol + codeword] ^ rest[0]];
            for (int at = 0; at < PARITY_SIZE - 1; at++)
                rest[at] = rest[at + 1] ^ add[at];
            rest[PARITY_SIZE - 1] = add[PARITY_SIZE - 1];
        }
        for (int at = 0; at < PARITY_SIZE; at++)
            parity[CODEWORDS * at + codeword] = rest[at];
    }
}

static void frame_parity_by_tables(const uint8_t *frame, uint8_t parity[ROWS][PARITY_SIZE * CODEWORDS])
{
    for (int row = 0; row < ROWS; row++)
        row_parity_by_tables(frame + (size_t)row * COLUMNS, parity[row]);
}

#ifdef QSOTN_X86
/* Sixteen codewords go side by side in sixteen bytes, two rows in one register; a symbol is multiplied by a constant by
 * looking up its two halves. */
TARGET_AVX2 static void two_rows_parity(const uint8_t *upper, const uint8_t *lower, uint8_t *above, uint8_t *below)
{
    const __m256i half = _mm256_set1_epi8(15);
    __m256i rest[PARITY_SIZE];
    for (int degree = 0; degree < PARITY_SIZE; degree++)
        rest[degree] = _mm256_setzero_si256();
    for (int symbol = 0; symbol < MESSAGE_SIZE; symbol++) {
        __m256i next = _mm256_loadu2_m128i((const void *)(lower + CODEWORDS * symbol),
                                           (const void *)(upper + CODEWORDS * symbol));
        __m256i fed_back = _mm256_xor_si256(next, rest[PARITY_SIZE - 1]);
        __m256i low = _mm256_and_si256(fed_back, half);
        __m256i high = _mm256_and_si256(_mm256_srli_epi16(fed_back, 4), half);
#pragma GCC unroll 16
        for (int degree = PARITY_SIZE - 1; degree >= 0; degree--) {
            __m256i lows = _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)low_products[degree]));
            __m256i highs = _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)high_products[degree]));
            __m256i term = _mm256_xor_si256(_mm256_shuffle_epi8(lows, low), _mm256_shuffle_epi8(highs, high));
            rest[degree] = degree ? _mm256_xor_si256(rest[degree - 1], term) : term;
        }
    }
    for (int degree = 0; degree < PARITY_SIZE; degree++) {
        size_t at = (size_t)CODEWORDS * (size_t)(PARITY_SIZE - 1 - degree);
        _mm256_storeu2_m128i((void *)(below + at), (void *)(above + at), rest[degree]);
    }
}

TARGET_AVX2 static void frame_parity_avx2(const uint8_t *frame, uint8_t parity[ROWS][PARITY_SIZE * CODEWORDS])
{
    two_rows_parity(frame, frame + COLUMNS, parity[0], parity[1]);
    two_rows_parity(frame + 2 * COLUMNS, frame + 3 * COLUMNS, parity[2], parity[3]);
}
#endif

#ifdef QSOTN_X86
/* The four rows of a frame in one register; a constant factor is a matrix over the bits of a symbol. */
TARGET_AVX512 static void frame_parity_avx512(const uint8_t *frame, uint8_t parity[ROWS][PARITY_SIZE * CODEWORDS])
{
    __m512i rest[PARITY_SIZE];
    for (int degree = 0; degree < PARITY_SIZE; degree++)
        rest[degree] = _mm512_setzero_si512();
    for (int symbol = 0; symbol < MESSAGE_SIZE; symbol++, frame += CODEWORDS) {
        __m512i next = _mm512_castsi128_si512(_mm_loadu_si128((const void *)frame));
        next = _mm512_inserti32x4(next, _mm_loadu_si128((const void *)(frame + COLUMNS)), 1);
        next = _mm512_inserti32x4(next, _mm_loadu_si128((const void *)(frame + 2 * COLUMNS)), 2);
        next = _mm512_inserti32x4(next, _mm_loadu_si128((const void *)(frame + 3 * COLUMNS)), 3);
        __m512i fed_back = _mm512_xor_si512(next, rest[PARITY_SIZE - 1]);
#pragma GCC unroll 16
        for (int degree = PARITY_SIZE - 1; degree >= 0; degree--) {
            __m512i matrix = _mm512_set1_epi64((int64_t)factor_matrices[degree]);
            __m512i term = _mm512_gf2p8affine_epi64_epi8(fed_back, matrix, 0);
            rest[degree] = degree ? _mm512_xor_si512(rest[degree - 1], term) : term;
        }
    }
    for (int degree = 0; degree < PARITY_SIZE; degree++) {
        uint8_t rows[ROWS][CODEWORDS];
        _mm512_storeu_si512(rows, rest[degree]);
        for (int row = 0; row < ROWS; row++)
            memcpy(parity[row] + CODEWORDS * (PARITY_SIZE - 1 - degree), rows[row], CODEWORDS);
    }
}
#endif

static void frame_parity(const uint8_t *frame, uint8_t parity[ROWS][PARITY_SIZE * CODEWORDS])
{
#ifdef QSOTN_X86
    if (kernel_level >= AVX512) {
        frame_parity_avx512(frame, parity);
        return;
    }
    if (kernel_level >= AVX2) {
        frame_parity_avx2(frame, parity);
        return;
    }
#endif
    frame_parity_by_tables(frame, parity);
}

void fec_encode(uint8_t *frame)
{
    uint8_t parity[ROWS][PARITY_SIZE * CODEWORDS];
    frame_parity(frame, parity);
    for (int row = 0; row < ROWS; row++)
        memcpy(frame + (size_t)row * COLUMNS + FEC_COLUMN, parity[row], sizeof parity[row]);
}

/* Horner's rule for every root. */
static void syndromes_of(const uint8_t *symbols, uint8_t syndromes[PARITY_SIZE])
{
    memset(syndromes, 0, PARITY_SIZE);
    for (int symbol = 0; symbol < CODEWORD_SIZE; symbol++)
        for (int root = 0; root < PARITY_SIZE; root++)
            syndromes[root] = product(syndromes[root], exponent[root]) ^ symbols[CODEWORDS * symbol];
}

/* Berlekamp and Massey: the shortest recursion that makes the syndromes; returns its length. */
static int error_locator(const uint8_t syndromes[PARITY_SIZE], uint8_t locator[PARITY_SIZE + 1])
{
    uint8_t former[PARITY_SIZE + 1] = {1}, saved[PARITY_SIZE + 1];
    uint8_t former_discrepancy = 1;
    int length = 0, since = 1;
    memset(locator, 0, PARITY_SIZE + 1);
    locator[0] = 1;
    for (int step = 0; step < PARITY_SIZE; step++, since++) {
        uint8_t discrepancy = syndromes[step];
        for (int degree = 1; degree <= length; degree++)
            discrepancy ^= product(locator[degree], syndromes[step - degree]);
        if (!discrepancy)
            continue;
        memcpy(saved, locator, sizeof saved);
        uint8_t factor = quotient(discrepancy, former_discrepancy);
        for (int degree = since; degree <= PARITY_SIZE; degree++)
            locator[degree] ^= product(factor, former[degree - since]);
        if (2 * length <= step) {
            length = step + 1 - length;
            memcpy(former, saved, sizeof former);
            former_discrepancy = discrepancy;
            since = 0;
        }
    }
    return length;
}

static uint8_t value_at(const uint8_t *polynomial, int degree, uint8_t at)
{
    uint8_t value = 0;
    for (; degree >= 0; degree--)
        value = product(value, at) ^ polynomial[degree];
    return value;
}

/* Forney, for roots that begin at alpha^0: the error is X * omega(1/X) / lambda'(1/X). */
static uint8_t error_value(const uint8_t *locator, const uint8_t *evaluator, int place)
{
    uint8_t inverse = exponent[(ORDER - place) % ORDER], slope = 0;
    for (int degree = CORRECTABLE % 2 ? CORRECTABLE : CORRECTABLE - 1; degree > 0; degree -= 2)
        slope = product(product(slope, inverse), inverse) ^ locator[degree];
    uint8_t value = value_at(evaluator, CORRECTABLE - 1, inverse);
    return slope ? product(exponent[place], quotient(value, slope)) : 0;
}

/* Corrects one codeword; returns how many symbols were wrong, or -1 and nothing changed if more than eight were. */
static int corrected(uint8_t *symbols)
{
    uint8_t syndromes[PARITY_SIZE], locator[PARITY_SIZE + 1], evaluator[CORRECTABLE] = {0};
    int places[CORRECTABLE], found = 0;
    syndromes_of(symbols, syndromes);
    int length = error_locator(syndromes, locator);
    if (length > CORRECTABLE)
        return -1;
    for (int place = 0; place < ORDER; place++)
        if (!value_at(locator, length, exponent[(ORDER - place) % ORDER])) {
            if (found == length)
                return -1;
            places[found++] = place;
        }
    if (found != length)
        return -1;
    for (int degree = 0; degree < CORRECTABLE; degree++)
        for (int term = 0; term <= degree; term++)
            evaluator[degree] ^= product(syndromes[degree - term], locator[term]);
    for (int error = 0; error < found; error++)
        symbols[CODEWORDS * (ORDER - 1 - places[error])] ^= error_value(locator, evaluator, places[error]);
    return found;
}

void fec_decode(uint8_t *frame, struct fec_result *result)
{
    uint8_t parity[ROWS][PARITY_SIZE * CODEWORDS];
    frame_parity(frame, parity);
    for (int row = 0; row < ROWS; row++) {
        uint8_t *symbols = frame + (size_t)row * COLUMNS, damaged[CODEWORDS] = {0};
        if (!memcmp(symbols + FEC_COLUMN, parity[row], sizeof parity[row]))
            continue;
        for (size_t at = 0; at < sizeof parity[row]; at++)
            damaged[at % CODEWORDS] |= symbols[FEC_COLUMN + at] ^ parity[row][at];
        for (int codeword = 0; codeword < CODEWORDS; codeword++) {
            int wrong = damaged[codeword] ? corrected(symbols + codeword) : 0;
            result->corrected += wrong > 0 ? wrong : 0;
            result->uncorrectable += wrong < 0;
        }
    }
}
