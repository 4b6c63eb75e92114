/* Frame-mapped GFP of ITU-T G.7041: client frames to a stream, and in SYNC back again. */
#include "kernel.h"
#include "vector.h"

static const uint32_t CORE_MASK = 0xB6AB31E0;
enum { PFI = 1 << 28, LINEAR = 1 };

static unsigned extension_of(uint32_t type) { return type >> 24 & 15; }

static uint32_t core_header(uint32_t length)
{
    return length << 16 | crc16_pair((uint8_t)(length >> 8), (uint8_t)length);
}

/* 0 for a header whose check holds; else what depends only on which bits are wrong. */
static uint16_t syndrome(uint32_t header)
{
    return (uint16_t)(crc16_pair((uint8_t)(header >> 24), (uint8_t)(header >> 16)) ^ header);
}

/* The one bit that explains why the check of a core header fails, or 0. */
static uint32_t wrong_bit(uint32_t header)
{
    uint16_t found = syndrome(header);
    for (int bit = 0; bit < 32; bit++)
        if (found == syndrome(UINT32_C(1) << bit))
            return UINT32_C(1) << bit;
    return 0;
}

size_t gfp_map(const struct gfp_clients *clients, uint32_t type, uint8_t *target, size_t room, size_t enough,
               uint64_t *history, size_t *mapped)
{
    const size_t checked = type & PFI ? FCS_SIZE : 0;
    size_t written = 0, frame = 0;
    for (; frame < clients->count && written < enough; frame++) {
        size_t size = (size_t)clients->sizes[frame], length = TYPE_SIZE + size + checked;
        if (length > LONGEST_AREA || room - written < CORE_SIZE + length)
            break;
        uint8_t *area = target + written + CORE_SIZE;
        store_big32(area - CORE_SIZE, core_header((uint32_t)length) ^ CORE_MASK);
        const uint8_t *client = clients->data + clients->starts[frame];
        uint64_t line = scramble_x43_word(type, area, *history);
        line = scramble_x43(client, area + TYPE_SIZE, size, line);
        if (checked)
            line = scramble_x43_word(crc32_payload(client, size), area + TYPE_SIZE + size, line);
        *history = line;
        written += CORE_SIZE + length;
    }
    *mapped = frame;
    return written;
}

/* Judges a descrambled payload area and records where its payload information field is. */
static void judge(struct gfp_areas *areas, const uint8_t *area, size_t length)
{
    size_t at = areas->count++;
    uint32_t type = load_big32(area);
    size_t checked = type & PFI ? FCS_SIZE : 0, headers = TYPE_SIZE;
    areas->types[at] = type >> 16;
    areas->starts[at] = area - areas->data;
    areas->sizes[at] = (int64_t)length;
    if (syndrome(type) || length < TYPE_SIZE + checked) {
        areas->verdicts[at] = GFP_WRONG_TYPE;
        return;
    }
    if (extension_of(type)) {
        headers += EXTENSION_SIZE;
        if (extension_of(type) != LINEAR || length < headers + checked || syndrome(load_big32(area + TYPE_SIZE))) {
            areas->verdicts[at] = GFP_WRONG_EXTENSION;
            return;
        }
    }
    size_t size = length - headers - checked;
    areas->starts[at] += (int64_t)headers;
    areas->sizes[at] = (int64_t)size;
    areas->verdicts[at] = GFP_INTACT;
    if (checked && crc32_payload(area + headers, size) != load_big32(area + headers + size))
        areas->verdicts[at] = GFP_WRONG_FCS;
}

void gfp_follow(const uint8_t *stream, size_t size, struct gfp_areas *areas, struct gfp_progress *progress)
{
    size_t used = 0;
    progress->lost = 0;
    while (progress->position + CORE_SIZE <= size) {
        const uint8_t *at = stream + progress->position;
        uint32_t header = load_big32(at) ^ CORE_MASK;
        if (!header) {
            progress->position += CORE_SIZE;
            continue;
        }
        uint32_t wrong = syndrome(header) ? wrong_bit(header) : 0;
        if (syndrome(header ^ wrong)) {
            progress->lost = 1;
            return;
        }
        size_t length = (header ^ wrong) >> 16;
        length = length < TYPE_SIZE ? 0 : length;
        if (length > size - progress->position - CORE_SIZE)
            return;
        if (length && (areas->count == areas->limit || areas->room - used < length))
            return;
        if (length) {
            uint8_t *area = areas->data + used;
            progress->history = descramble_x43(at + CORE_SIZE, area, length, progress->history);
            judge(areas, area, length);
            used += length;
        }
        progress->corrected += wrong != 0;
        progress->position += CORE_SIZE + length;
    }
}
