/* wsic.h - decoder of the WSIC tensor format, version 1, in one file of C99. Written from spec/FORMAT.md.
 *
 * One source file of a program defines WSIC_IMPLEMENTATION before it includes this file; all others only include it.
 * standard_tables.h has to stand beside it. Nothing is allocated, no global is written, no libc beyond memcpy and
 * memset is used. Every function may be called with bytes of a stranger: it reads nothing outside of them and its time
 * is linear in their number and in what they decode to.
 *
 *     wsic_payload payload;
 *     int error = wsic_open(bytes, size, NULL, &payload);
 *     for each matrix, in order:
 *         size_t memory_size;
 *         error = wsic_matrix_memory(&payload, index, &memory_size);
 *         wsic_matrix matrix;
 *         error = wsic_open_matrix(&payload, index, malloc(memory_size), memory_size, &matrix);
 *         for each tile:
 *             error = wsic_decode_tile(&matrix, tile, integers, capacity);
 *
 * An opened matrix is not changed any more, so its tiles can be decoded on several threads. It points into the payload
 * and into the memory given; both have to outlive it. Floating point has to be plain IEEE 754 binary32 rounded to
 * nearest, with subnormal numbers: no -ffast-math, no flush to zero, no x87.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0 */
#ifndef WSIC_H
#define WSIC_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Section 11: the classes of refusals. The last two are not the payload's fault. */
enum {
    WSIC_OK = 0,
    WSIC_TRUNCATED,
    WSIC_BAD_MAGIC,
    WSIC_UNSUPPORTED_VERSION,
    WSIC_UNSUPPORTED_FEATURE,
    WSIC_TRAILING_BYTES,
    WSIC_BAD_HEADER,
    WSIC_LIMIT_EXCEEDED,
    WSIC_BAD_CHECKSUM,
    WSIC_BAD_DIRECTORY,
    WSIC_BAD_SIDE_INFORMATION,
    WSIC_BAD_TABLE,
    WSIC_CORRUPT_TILE,
    WSIC_BAD_ESCAPE,
    WSIC_BAD_CONTAINER,
    WSIC_SHAPE_MISMATCH,
    WSIC_METADATA_MISMATCH,
    WSIC_NO_MEMORY, /* memory or buffer smaller than the query function said */
    WSIC_BAD_CALL   /* no such matrix, tile or row */
};

/* The name of section 11; "ok" for 0, "unknown" for anything else. */
const char *wsic_error_name(int error);

/* Section 10. */
typedef struct {
    uint32_t rows, columns, matrices;
    uint64_t total; /* (rows + columns) * matrices */
} wsic_limits;

extern const wsic_limits wsic_default_limits;

/* Limits of this implementation whatever the caller says: columns. */
#define WSIC_MOST_COLUMNS ((uint32_t)1 << 30)

/* An opened payload header (section 3.1). */
typedef struct {
    const uint8_t *bytes;
    size_t size;
    uint32_t columns, rows, matrices;
} wsic_payload;

/* What one slot of a class table decodes to. */
typedef struct {
    uint8_t frequency, rank;
    int16_t integer; /* 2k + q, raw bits 0 */
    int16_t second;  /* pair tables: the second integer of the pair */
} wsic_slot;

/* An opened matrix (sections 3.2, 3.3 and 4). Fields may be read. */
typedef struct {
    uint32_t columns, rows;
    uint32_t k, k_log2, steps; /* K, its logarithm, S */
    uint32_t rows_per_step, rows_per_tile, tiles;
    uint32_t positions, padding, chunks;
    uint32_t *inputs;     /* [positions] input column, UINT32_MAX for padding */
    float *scales;        /* [positions] scale[s] of section 6, 0 for padding */
    float *row_scales;    /* [rows], or NULL */
    uint8_t *parts;       /* [positions] number of earlier positions with the same input column */
    uint8_t *chunk_class; /* [chunks] */
    wsic_slot *slots;     /* [classes][parity][256] */
    uint8_t raw_bits[32]; /* of each class */
    uint8_t of_pairs[32]; /* 1 for classes with a pair table */
    uint32_t classes, trellis;
    /* private */
    const uint8_t *section;
    size_t section_bytes;
    uint32_t header_length, side_length, extra, column_kind, row_kind;
    uint32_t counts[32];
    uint64_t raw_per_step;
    float tensor_scale;
} wsic_matrix;

/* Length that a payload announces, from its first 16 bytes (section 2, check 4). */
int wsic_announced_length(const uint8_t *bytes, size_t size, uint64_t *length);

/* Checks the payload header, up to its CRC. `limits` may be NULL. */
int wsic_open(const uint8_t *bytes, size_t size, const wsic_limits *limits, wsic_payload *payload);

/* Checks matrix `index` completely but for its tiles, and says how much memory opening it takes, exactly.
 * Errors are those of section 11 if the matrices are asked for in rising order from 0 to the last one. */
int wsic_matrix_memory(const wsic_payload *payload, uint32_t index, size_t *memory_size);

/* The same checks; the lists of the matrix are put into `memory`, which need not be aligned. */
int wsic_open_matrix(const wsic_payload *payload, uint32_t index, void *memory, size_t memory_size,
                     wsic_matrix *matrix);

/* Rows of tile `tile`; 0 if there is no such tile. */
uint32_t wsic_rows_in(const wsic_matrix *matrix, uint32_t tile);

/* Checks the CRC of a tile (what a verifier does before it decodes it). */
int wsic_verify_tile(const wsic_matrix *matrix, uint32_t tile);

/* Integers of a tile, row by row: rows_in(tile) * positions numbers, padding 0; `capacity` is the length of
 * `integers`. After an error its content is unspecified. */
int wsic_decode_tile(const wsic_matrix *matrix, uint32_t tile, int32_t *integers, size_t capacity);

/* Weights of `rows` rows from their integers (section 6): rows * columns numbers. `first` is the row of the matrix
 * that `integers` begin with. */
void wsic_reconstruct(const wsic_matrix *matrix, uint32_t first, uint32_t rows, const int32_t *integers,
                      float *weights);

/* Weights of rows first .. first + count: count * columns numbers. `scratch` holds the integers of a tile:
 * rows_per_tile * positions numbers. */
int wsic_dequantize_rows(const wsic_matrix *matrix, uint32_t first, uint32_t count, int32_t *scratch,
                         size_t scratch_length, float *weights, size_t weights_length);

/* Receives rows first .. first + rows of matrix `index`, in order, at most those of one tile at a time;
 * `integers` is NULL if the matrix has no stream positions. */
typedef void wsic_sink(void *user, uint32_t index, const wsic_matrix *matrix, uint32_t first, uint32_t rows,
                       const int32_t *integers, const float *weights);

/* Memory for wsic_decode_all. Errors are those of opening the payload and all matrices. */
int wsic_decode_all_memory(const uint8_t *bytes, size_t size, const wsic_limits *limits, size_t *memory_size);

/* A whole decoder (`verify` 0) or verifier (1) of section 9: opens the payload and all matrices, then decodes all
 * tiles in order. `sink` may be NULL. */
int wsic_decode_all(const uint8_t *bytes, size_t size, const wsic_limits *limits, int verify, void *memory,
                    size_t memory_size, wsic_sink *sink, void *user);

/* Section 3.4. */
uint32_t wsic_crc32c(const uint8_t *bytes, size_t size);

#ifdef __cplusplus
}
#endif
#endif /* WSIC_H */

#if defined(WSIC_IMPLEMENTATION) && !defined(WSIC_IMPLEMENTED)
#define WSIC_IMPLEMENTED

#include <float.h>
#include <string.h>

#include "standard_tables.h"

#ifdef __FAST_MATH__
#error "wsic.h: section 6 of the format needs IEEE 754 arithmetic; compile without -ffast-math"
#endif
#if defined(FLT_EVAL_METHOD) && (FLT_EVAL_METHOD == 1 || FLT_EVAL_METHOD == 2)
#error "wsic.h: binary32 operations have to be rounded to binary32; use -msse2 -mfpmath=sse"
#endif

const wsic_limits wsic_default_limits = {(uint32_t)1 << 24, (uint32_t)1 << 20, (uint32_t)1 << 14, (uint64_t)1 << 25};

const char *wsic_error_name(int error) {
    static const char *const names[] = {"ok",
                                        "truncated",
                                        "bad-magic",
                                        "unsupported-version",
                                        "unsupported-feature",
                                        "trailing-bytes",
                                        "bad-header",
                                        "limit-exceeded",
                                        "bad-checksum",
                                        "bad-directory",
                                        "bad-side-information",
                                        "bad-table",
                                        "corrupt-tile",
                                        "bad-escape",
                                        "bad-container",
                                        "shape-mismatch",
                                        "metadata-mismatch",
                                        "no-memory",
                                        "bad-call"};
    return error >= 0 && error <= WSIC_BAD_CALL ? names[error] : "unknown";
}

/* ---- Section 1: notation ---- */

static uint32_t wsic__u32(const uint8_t *b) {
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

static uint64_t wsic__u64(const uint8_t *b) { return (uint64_t)wsic__u32(b) | (uint64_t)wsic__u32(b + 4) << 32; }

static float wsic__float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* a divided by 16 or 4 and rounded down, for any sign, with no shift of negative numbers */
static int32_t wsic__floor_div(int32_t a, int32_t b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }

/* ---- Section 3.4: checksums ---- */

uint32_t wsic_crc32c(const uint8_t *bytes, size_t size) {
    /* remainders of the 4-bit numbers */
    static const uint32_t table[16] = {0x00000000, 0x105EC76F, 0x20BD8EDE, 0x30E349B1, 0x417B1DBC, 0x5125DAD3,
                                       0x61C69362, 0x7198540D, 0x82F63B78, 0x92A8FC17, 0xA24BB5A6, 0xB21572C9,
                                       0xC38D26C4, 0xD3D3E1AB, 0xE330A81A, 0xF36E6F75};
    uint32_t crc = 0xFFFFFFFFu;
    size_t i;
    for (i = 0; i < size; i++) {
        crc ^= bytes[i];
        crc = crc >> 4 ^ table[crc & 15];
        crc = crc >> 4 ^ table[crc & 15];
    }
    return crc ^ 0xFFFFFFFFu;
}

/* ---- Section 4.1: the coder of the side information ---- */

typedef struct {
    const uint8_t *bytes;
    size_t size, position;
    uint32_t range, code;
    int failed; /* stays; after that every bit is 0 */
} wsic__coder;

typedef struct {
    uint32_t bits;
    uint16_t node[64];
} wsic__tree;

typedef struct {
    uint16_t length[24], first[24];
} wsic__number;

static void wsic__new_tree(wsic__tree *t, uint32_t bits) {
    int i;
    t->bits = bits;
    for (i = 0; i < 64; i++) t->node[i] = 2048;
}

static void wsic__new_number(wsic__number *n) {
    int i;
    for (i = 0; i < 24; i++) n->length[i] = n->first[i] = 2048;
}

static int wsic__start(wsic__coder *c, const uint8_t *bytes, size_t size) {
    memset(c, 0, sizeof *c);
    if (size < 4) return WSIC_BAD_SIDE_INFORMATION;
    c->bytes = bytes;
    c->size = size;
    c->position = 4;
    c->code = (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
    c->range = 0xFFFFFFFFu;
    return c->code != 0xFFFFFFFFu ? WSIC_OK : WSIC_BAD_SIDE_INFORMATION;
}

static uint32_t wsic__split(wsic__coder *c, uint32_t bound) {
    uint32_t bit;
    if (c->code < bound) {
        bit = 0;
        c->range = bound;
    } else {
        bit = 1;
        c->range -= bound;
        c->code -= bound;
    }
    while (c->range < 0x1000000u) {
        if (c->position >= c->size) {
            c->failed = 1; /* the range stays small, so all later calls end here too */
            return 0;
        }
        c->range <<= 8;
        c->code = c->code << 8 | c->bytes[c->position++];
    }
    return bit;
}

static uint32_t wsic__adaptive(wsic__coder *c, uint16_t *context) {
    uint32_t p = *context;
    uint32_t bit = wsic__split(c, (c->range >> 12) * p);
    *context = (uint16_t)(bit == 0 ? p + ((4096 - p) >> 4) : p - (p >> 4));
    return bit;
}

static uint32_t wsic__direct(wsic__coder *c, uint32_t bits) {
    uint32_t value = 0;
    while (bits-- > 0) value = value << 1 | wsic__split(c, c->range >> 1);
    return value;
}

static uint32_t wsic__read_tree(wsic__coder *c, wsic__tree *t) {
    uint32_t node = 1, i;
    for (i = 0; i < t->bits; i++) node = node << 1 | wsic__adaptive(c, &t->node[node]);
    return node - ((uint32_t)1 << t->bits);
}

static uint32_t wsic__read_number(wsic__coder *c, wsic__number *n) {
    uint32_t exponent = 0, value;
    while (wsic__adaptive(c, &n->length[exponent]) == 1) {
        if (++exponent > 23) {
            c->failed = 1;
            return 0;
        }
    }
    if (exponent == 0) return 0;
    value = 2 | wsic__adaptive(c, &n->first[exponent]);
    value = value << (exponent - 1) | wsic__direct(c, exponent - 1);
    return value - 1;
}

static int32_t wsic__signed(uint32_t u) { return (u & 1) == 0 ? (int32_t)(u >> 1) : -(int32_t)(u >> 1) - 1; }

/* ---- Section 4.3: class tables ---- */

typedef struct {
    uint32_t raw_bits, run_count;
    int32_t smallest[2];
    int of_pairs;
    uint8_t symbols[2][256]; /* of each slot; in pair tables 16 * s + t */
} wsic__table;

/* Contexts that the inline tables of a matrix share. */
typedef struct {
    wsic__tree symbols;
    wsic__number lengths, frequencies;
} wsic__table_contexts;

/* The smallest multiple of 4 that makes all integers of a table unsigned. */
static int32_t wsic__table_offset(const wsic__table *t) {
    int32_t unit = (int32_t)1 << t->raw_bits;
    int32_t least = 2 * t->smallest[0] * unit, least1 = 2 * t->smallest[1] * unit + 1;
    if (least1 < least) least = least1;
    return least < 0 ? (3 - least) / 4 * 4 : 0;
}

static int wsic__table_rules(const wsic__table *t) {
    int32_t unit, offset, largest;
    uint32_t q, slot;
    if (t->raw_bits > 4 || t->run_count > 64) return WSIC_BAD_TABLE;
    unit = (int32_t)1 << t->raw_bits;
    offset = wsic__table_offset(t);
    for (q = 0; q < 2; q++) {
        uint32_t frequency[64] = {0};
        for (slot = 0; slot < 256; slot++) {
            uint8_t symbol = t->symbols[q][slot];
            if (++frequency[symbol] > 255) return WSIC_BAD_TABLE;
            largest = 2 * ((t->smallest[q] + symbol + 1) * unit - 1) + (int32_t)q;
            if (largest + offset > (t->raw_bits == 0 ? 127 : 255)) return WSIC_BAD_TABLE;
        }
    }
    return WSIC_OK;
}

static int32_t wsic__read_smallest(wsic__coder *c) {
    int32_t smallest = (int32_t)wsic__direct(c, 8);
    return smallest >= 128 ? smallest - 256 : smallest;
}

static int wsic__inline_table(wsic__coder *c, uint32_t trellis, wsic__table_contexts *contexts, wsic__table *t) {
    uint32_t q, slots, runs = 0;
    t->of_pairs = 0;
    t->raw_bits = wsic__direct(c, 3);
    for (q = 0; q < 2; q++) {
        if (trellis == 0 && q == 1) {
            t->smallest[1] = t->smallest[0];
            memcpy(t->symbols[1], t->symbols[0], 256);
            runs *= 2;
            continue;
        }
        t->smallest[q] = wsic__read_smallest(c);
        slots = 0;
        while (slots < 256) {
            uint32_t symbol = wsic__read_tree(c, &contexts->symbols);
            uint32_t length = wsic__read_number(c, &contexts->lengths) + 1;
            if (c->failed) return WSIC_BAD_SIDE_INFORMATION;
            if (length > 255 || slots + length > 256) return WSIC_BAD_TABLE;
            memset(&t->symbols[q][slots], (int)symbol, length);
            slots += length;
            runs++;
        }
    }
    t->run_count = runs;
    return wsic__table_rules(t);
}

static void wsic__standard_table(uint32_t identifier, wsic__table *t) {
    const uint8_t *b = &wsic_standard_bytes[wsic_standard_start[identifier]];
    uint32_t q, run;
    t->of_pairs = 0;
    t->raw_bits = *b++;
    for (q = 0; q < 2; q++) {
        uint32_t slots = 0, runs = b[1];
        t->smallest[q] = b[0] >= 128 ? (int32_t)b[0] - 256 : b[0];
        b += 2;
        for (run = 0; run < runs; run++, b += 2) {
            memset(&t->symbols[q][slots], b[0], b[1]);
            slots += b[1];
        }
    }
}

/* Gives the slots of one parity of a pair table to its pairs. The frequencies are those of all side * side pairs, and
 * their sum is 256. The order is that of falling frequency, then of rising 16 * s + t, which is that of s * side + t. */
static void wsic__place_pairs(const uint8_t *frequencies, uint32_t side, uint8_t *symbols) {
    uint32_t start[256] = {0}; /* of each frequency: the slots of its pairs, then the first slot of the next pair */
    uint32_t slots = 0, f, i;
    for (i = 0; i < side * side; i++) start[frequencies[i]] += frequencies[i];
    for (f = 255; f > 0; f--) {
        uint32_t taken = start[f];
        start[f] = slots;
        slots += taken;
    }
    for (i = 0; i < side * side; i++) {
        f = frequencies[i];
        if (f == 0) continue;
        memset(symbols + start[f], (int)(16 * (i / side) + i % side), f);
        start[f] += f;
    }
}

static int wsic__inline_pair_table(wsic__coder *c, wsic__table_contexts *contexts, wsic__table *t) {
    uint32_t side[2], most_pairs = 0, q, i;
    t->of_pairs = 1;
    t->raw_bits = 0;
    for (q = 0; q < 2; q++) {
        uint8_t frequencies[256];
        uint32_t sum = 0, pairs = 0;
        t->smallest[q] = wsic__read_smallest(c);
        side[q] = wsic__direct(c, 4) + 1;
        for (i = 0; i < side[q] * side[q]; i++) {
            uint32_t f = wsic__read_number(c, &contexts->frequencies);
            if (c->failed) return WSIC_BAD_SIDE_INFORMATION;
            if (f > 255) return WSIC_BAD_TABLE;
            frequencies[i] = (uint8_t)f;
            sum += f;
            pairs += f > 0;
        }
        if (sum != 256) return WSIC_BAD_TABLE;
        if (pairs > most_pairs) most_pairs = pairs;
        wsic__place_pairs(frequencies, side[q], t->symbols[q]);
    }
    if (most_pairs > 64) return WSIC_BAD_TABLE;
    for (q = 0; q < 2; q++) {
        int32_t largest = 2 * (t->smallest[q] + (int32_t)side[q] - 1) + (int32_t)q;
        if (largest + wsic__table_offset(t) > 127) return WSIC_BAD_TABLE;
    }
    return WSIC_OK;
}

static void wsic__standard_pair_table(uint32_t identifier, wsic__table *t) {
    const uint8_t *b = &wsic_standard_pair_bytes[wsic_standard_pair_start[identifier]];
    uint32_t q;
    t->of_pairs = 1;
    t->raw_bits = 0;
    for (q = 0; q < 2; q++) {
        uint32_t side = b[1];
        t->smallest[q] = b[0] >= 128 ? (int32_t)b[0] - 256 : b[0];
        b += 2;
        wsic__place_pairs(b, side, t->symbols[q]);
        b += side * side;
    }
}

static int wsic__read_table(wsic__coder *c, uint32_t trellis, wsic__table_contexts *contexts, wsic__table *t) {
    uint32_t identifier = wsic__direct(c, 8);
    if (c->failed) return WSIC_BAD_SIDE_INFORMATION;
    if (identifier == 255) return wsic__inline_table(c, trellis, contexts, t);
    if (identifier == 254 && trellis == 2) return wsic__inline_pair_table(c, contexts, t);
    if (identifier == 253 && trellis == 2) {
        identifier = wsic__direct(c, 8);
        if (c->failed || identifier > 103) return WSIC_BAD_SIDE_INFORMATION;
        wsic__standard_pair_table(identifier, t);
        return WSIC_OK;
    }
    if (identifier > 251) return WSIC_BAD_SIDE_INFORMATION;
    wsic__standard_table(identifier, t);
    return WSIC_OK;
}

static int16_t wsic__integer(const wsic__table *t, uint32_t q, uint32_t symbol) {
    return (int16_t)(2 * (t->smallest[q] + (int32_t)symbol) * ((int32_t)1 << t->raw_bits) + (int32_t)q);
}

static void wsic__expand_table(const wsic__table *t, wsic_slot *slots) {
    uint32_t q, i;
    for (q = 0; q < 2; q++) {
        uint32_t frequency[256] = {0}, rank[256] = {0};
        for (i = 0; i < 256; i++) frequency[t->symbols[q][i]]++;
        for (i = 0; i < 256; i++) {
            uint32_t symbol = t->symbols[q][i];
            wsic_slot *slot = &slots[256 * q + i];
            slot->frequency = (uint8_t)frequency[symbol];
            slot->rank = (uint8_t)rank[symbol]++;
            slot->integer = wsic__integer(t, q, t->of_pairs ? symbol >> 4 : symbol);
            slot->second = t->of_pairs ? wsic__integer(t, q, symbol & 15) : 0;
        }
    }
}

/* ---- Section 4.5: scales ---- */

static uint32_t wsic__read_scale(wsic__coder *c, int half, int32_t *prediction, wsic__number *n) {
    if (half) {
        uint32_t code = wsic__direct(c, 16);
        if (code >> 10 < 1 || code >> 10 > 30) c->failed = 1;
        return code;
    } else {
        int32_t code = wsic__floor_div(*prediction + 8, 16) + wsic__signed(wsic__read_number(c, n));
        if (code < 0 || code > 255) {
            c->failed = 1;
            return 0;
        }
        *prediction += wsic__floor_div(code * 16 - *prediction, 4);
        return (uint32_t)code;
    }
}

static float wsic__scale_value(uint32_t code, int half, int32_t octaves) {
    static const uint32_t e[8] = {0x3F800000, 0x3F8B95C2, 0x3F9837F0, 0x3FA5FED7,
                                  0x3FB504F3, 0x3FC5672A, 0x3FD744FD, 0x3FEAC0C7};
    if (half) return wsic__float((code << 13) + 0x38000000u);
    return wsic__float(e[code & 7] + (uint32_t)((int32_t)(code >> 3) + octaves) * 0x800000u);
}

/* ---- Sections 4.2, 4.4 and 4.6: columns and stream order ----
 * The side information is read twice: first to check and count, then to put everything in its place. */

static int wsic__read_columns(wsic__coder *c, wsic_matrix *m, int place) {
    wsic__tree classes;
    wsic__number gaps, scales;
    int32_t prediction[32];
    uint32_t next[32];
    uint32_t bits = 0, input = 0, copies = 0, symbol, code, at, i;
    uint64_t turn;
    while ((uint32_t)1 << bits < m->classes + 1) bits++;
    wsic__new_tree(&classes, bits);
    wsic__new_number(&gaps);
    wsic__new_number(&scales);
    at = m->padding;
    for (i = 0; i < m->classes; i++) {
        prediction[i] = 2048;
        next[i] = at;
        at += m->counts[i];
    }
    for (turn = 0; turn < (uint64_t)m->columns + m->extra; turn++) {
        if (turn < m->columns) {
            input = (uint32_t)turn;
        } else {
            uint32_t gap = wsic__read_number(c, &gaps);
            copies = turn > m->columns && gap == 0 ? copies + 1 : 1;
            input = turn == m->columns ? gap : input + gap; /* both below 2^30 */
            if (input >= m->columns || copies > 2) return WSIC_BAD_SIDE_INFORMATION;
        }
        symbol = wsic__read_tree(c, &classes);
        if (c->failed || symbol > m->classes || (symbol == 0 && turn >= m->columns)) return WSIC_BAD_SIDE_INFORMATION;
        if (symbol == 0) continue;
        code = wsic__read_scale(c, m->column_kind == 1, &prediction[symbol - 1], &scales);
        if (c->failed) return WSIC_BAD_SIDE_INFORMATION;
        if (place) {
            at = next[symbol - 1]++;
            m->inputs[at] = input;
            m->scales[at] = m->tensor_scale * wsic__scale_value(code, m->column_kind == 1, 0);
        } else {
            m->counts[symbol - 1]++;
        }
    }
    return WSIC_OK;
}

static int wsic__side_information(wsic_matrix *m, int place) {
    wsic__coder coder;
    wsic__table_contexts contexts;
    wsic__table table;
    uint32_t i;
    int error = wsic__start(&coder, m->section + 24, m->side_length);
    if (error) return error;
    wsic__new_tree(&contexts.symbols, 6);
    wsic__new_number(&contexts.lengths);
    wsic__new_number(&contexts.frequencies);
    for (i = 0; i < m->classes; i++) {
        error = wsic__read_table(&coder, m->trellis, &contexts, &table);
        if (error) return error;
        m->raw_bits[i] = (uint8_t)table.raw_bits;
        m->of_pairs[i] = (uint8_t)table.of_pairs;
        if (place) wsic__expand_table(&table, m->slots + (size_t)512 * i);
    }
    if (m->classes > 0) {
        error = wsic__read_columns(&coder, m, place);
        if (error) return error;
    } else if (m->extra > 0) {
        return WSIC_BAD_SIDE_INFORMATION;
    }
    if (m->row_kind > 0) {
        wsic__number n;
        int32_t prediction = 2048;
        wsic__new_number(&n);
        for (i = 0; i < m->rows; i++) {
            uint32_t code = wsic__read_scale(&coder, m->row_kind == 2, &prediction, &n);
            if (coder.failed) return WSIC_BAD_SIDE_INFORMATION;
            if (place) m->row_scales[i] = wsic__scale_value(code, m->row_kind == 2, -16);
        }
    }
    return !coder.failed && coder.position == coder.size && coder.code == 0 ? WSIC_OK : WSIC_BAD_SIDE_INFORMATION;
}

/* Section 4.6, from the numbers of columns of the classes. */
static int wsic__arrange(wsic_matrix *m) {
    uint64_t n = 0, end, positions;
    uint32_t i;
    m->raw_per_step = 0;
    for (i = 0; i < m->classes; i++) n += m->counts[i];
    positions = (n + m->k - 1) / m->k * m->k;
    if (positions > UINT32_MAX) return WSIC_LIMIT_EXCEEDED; /* not with 2^30 columns */
    m->positions = (uint32_t)positions;
    m->padding = (uint32_t)(positions - n);
    m->chunks = m->positions / m->k;
    for (i = 0; i < m->classes; i++)
        if (m->counts[i] == 0) return WSIC_BAD_SIDE_INFORMATION;
    end = m->padding;
    for (i = 0; i < m->classes; i++) {
        uint64_t start = i == 0 ? 0 : end;
        end += m->counts[i];
        if (end % m->k != 0) return WSIC_BAD_SIDE_INFORMATION;
        m->raw_per_step += (uint64_t)8 * m->raw_bits[i] * ((end - start) / m->k);
    }
    return WSIC_OK;
}

/* ---- Section 3.3: directory ---- */

static uint32_t wsic__entry(const wsic_matrix *m, uint32_t tile, uint32_t field) {
    return wsic__u32(m->section + 24 + (size_t)m->side_length + (size_t)12 * tile + (size_t)4 * field);
}

uint32_t wsic_rows_in(const wsic_matrix *m, uint32_t tile) {
    uint32_t first;
    if (tile >= m->tiles) return 0;
    first = tile * m->rows_per_tile;
    return m->rows - first < m->rows_per_tile ? m->rows - first : m->rows_per_tile;
}

static uint32_t wsic__steps_in(const wsic_matrix *m, uint32_t tile) {
    return (wsic_rows_in(m, tile) + m->rows_per_step - 1) / m->rows_per_step;
}

static int wsic__directory(wsic_matrix *m) {
    uint64_t all = m->section_bytes - m->header_length, start = 0, end, escapes;
    uint32_t tile;
    m->rows_per_step = 64 / m->k;
    m->rows_per_tile = m->rows_per_step * m->steps;
    m->tiles = m->positions == 0 ? 0 : (uint32_t)(((uint64_t)m->rows + m->rows_per_tile - 1) / m->rows_per_tile);
    if ((uint64_t)12 * m->tiles != m->header_length - 28 - m->side_length) return WSIC_BAD_DIRECTORY;
    for (tile = 0; tile < m->tiles; tile++) {
        end = wsic__entry(m, tile, 0);
        escapes = wsic__entry(m, tile, 1);
        if (end < start || end > all || escapes > end - start) return WSIC_BAD_DIRECTORY;
        if (end - start - escapes < m->raw_per_step * wsic__steps_in(m, tile) + 128) return WSIC_BAD_DIRECTORY;
        start = end;
    }
    return start == all ? WSIC_OK : WSIC_BAD_DIRECTORY;
}

/* Bytes of a tile, escapes included. */
static const uint8_t *wsic__tile(const wsic_matrix *m, uint32_t tile, size_t *size) {
    uint32_t start = tile == 0 ? 0 : wsic__entry(m, tile - 1, 0);
    *size = wsic__entry(m, tile, 0) - start;
    return m->section + m->header_length + start;
}

/* ---- Section 3.2: matrix header ---- */

static int wsic__matrix_header(wsic_matrix *m) {
    const uint8_t *b = m->section;
    uint32_t bits;
    if (m->section_bytes < 24) return WSIC_TRUNCATED;
    m->header_length = wsic__u32(b);
    if (m->header_length > m->section_bytes) return WSIC_TRUNCATED;
    if (m->header_length < 28) return WSIC_BAD_HEADER;
    if (wsic_crc32c(b, m->header_length - 4) != wsic__u32(b + m->header_length - 4)) return WSIC_BAD_CHECKSUM;
    m->k = b[4];
    m->trellis = b[5];
    m->steps = (uint32_t)b[6] | (uint32_t)b[7] << 8;
    m->classes = b[8];
    m->column_kind = b[9];
    m->row_kind = b[10];
    bits = wsic__u32(b + 12);
    m->extra = wsic__u32(b + 16);
    m->side_length = wsic__u32(b + 20);
    if (m->k != 4 && m->k != 16 && m->k != 64) return WSIC_BAD_HEADER;
    if (m->steps < 1 || m->steps > 256) return WSIC_BAD_HEADER;
    if (m->trellis > 2) return WSIC_UNSUPPORTED_FEATURE;
    if (m->classes > 32) return WSIC_BAD_HEADER;
    if (m->column_kind > 1 || m->row_kind > 2 || b[11] != 0) return WSIC_UNSUPPORTED_FEATURE;
    if (bits >> 23 < 31 || bits >> 23 > 167) return WSIC_BAD_HEADER;
    if (m->extra > (uint64_t)2 * m->columns) return WSIC_BAD_HEADER;
    if (m->side_length > m->header_length - 28) return WSIC_BAD_HEADER;
    m->tensor_scale = wsic__float(bits);
    m->k_log2 = m->k == 4 ? 2 : m->k == 16 ? 4 : 6;
    return WSIC_OK;
}

/* All checks of a matrix but for its tiles. */
static int wsic__check_matrix(const wsic_payload *payload, uint32_t index, wsic_matrix *m) {
    uint64_t base = 36 + (uint64_t)8 * payload->matrices, room = payload->size - base, start, end;
    int error;
    memset(m, 0, sizeof *m);
    if (index >= payload->matrices) return WSIC_BAD_CALL;
    start = index == 0 ? 0 : wsic__u64(payload->bytes + 32 + (size_t)8 * (index - 1));
    end = wsic__u64(payload->bytes + 32 + (size_t)8 * index);
    if (start > end || end > room) return WSIC_BAD_DIRECTORY;
    m->columns = payload->columns;
    m->rows = payload->rows;
    m->section = payload->bytes + (size_t)(base + start);
    m->section_bytes = (size_t)(end - start);
    error = wsic__matrix_header(m);
    if (!error) error = wsic__side_information(m, 0);
    if (!error) error = wsic__arrange(m);
    if (!error) error = wsic__directory(m);
    if (!error && index == payload->matrices - 1 && end != room) error = WSIC_BAD_DIRECTORY;
    return error;
}

/* ---- Section 3.1: payload header ---- */

int wsic_announced_length(const uint8_t *bytes, size_t size, uint64_t *length) {
    if (size < 16) return WSIC_TRUNCATED;
    if (memcmp(bytes, "WSIC", 4) != 0) return WSIC_BAD_MAGIC;
    *length = wsic__u64(bytes + 8);
    return WSIC_OK;
}

int wsic_open(const uint8_t *bytes, size_t size, const wsic_limits *limits, wsic_payload *payload) {
    uint64_t length, base;
    if (!limits) limits = &wsic_default_limits;
    memset(payload, 0, sizeof *payload);
    if (size < 4) return WSIC_TRUNCATED;
    if (memcmp(bytes, "WSIC", 4) != 0) return WSIC_BAD_MAGIC;
    if (size < 32) return WSIC_TRUNCATED;
    if (bytes[4] != 1) return WSIC_UNSUPPORTED_VERSION;
    if (bytes[5] | bytes[6] | bytes[7] | bytes[28] | bytes[29] | bytes[30] | bytes[31])
        return WSIC_UNSUPPORTED_FEATURE;
    length = wsic__u64(bytes + 8);
    if (length > size) return WSIC_TRUNCATED;
    if (length < size) return WSIC_TRAILING_BYTES;
    payload->bytes = bytes;
    payload->size = size;
    payload->columns = wsic__u32(bytes + 16);
    payload->rows = wsic__u32(bytes + 20);
    payload->matrices = wsic__u32(bytes + 24);
    if (payload->columns < 1 || payload->rows < 1 || payload->matrices < 1) return WSIC_BAD_HEADER;
    if (payload->rows > limits->rows || payload->columns > limits->columns || payload->matrices > limits->matrices ||
        payload->columns > WSIC_MOST_COLUMNS ||
        (uint64_t)payload->rows + payload->columns > limits->total / payload->matrices)
        return WSIC_LIMIT_EXCEEDED;
    base = 36 + (uint64_t)8 * payload->matrices;
    if (size < base) return WSIC_TRUNCATED;
    if (wsic_crc32c(bytes, (size_t)base - 4) != wsic__u32(bytes + (size_t)base - 4)) return WSIC_BAD_CHECKSUM;
    return WSIC_OK;
}

/* ---- Memory of a matrix ---- */

static uint64_t wsic__memory(const wsic_matrix *m) {
    return 3 + (uint64_t)m->positions * 9 + (m->row_kind ? (uint64_t)m->rows * 4 : 0) +
           (m->positions ? m->columns : 0) + m->chunks + (uint64_t)m->classes * 512 * sizeof(wsic_slot);
}

int wsic_matrix_memory(const wsic_payload *payload, uint32_t index, size_t *memory_size) {
    wsic_matrix m;
    int error = wsic__check_matrix(payload, index, &m);
    uint64_t memory = wsic__memory(&m);
    *memory_size = 0;
    if (error) return error;
    if (memory > SIZE_MAX) return WSIC_NO_MEMORY;
    *memory_size = (size_t)memory;
    return WSIC_OK;
}

int wsic_open_matrix(const wsic_payload *payload, uint32_t index, void *memory, size_t memory_size, wsic_matrix *m) {
    uint8_t *at = (uint8_t *)memory, *seen;
    uint32_t i, chunk, end;
    int error = wsic__check_matrix(payload, index, m);
    if (error) return error;
    if (!memory || wsic__memory(m) > memory_size) return WSIC_NO_MEMORY;
    at += (4 - (uintptr_t)at % 4) % 4;
    m->slots = (wsic_slot *)(void *)at;
    at += (size_t)m->classes * 512 * sizeof(wsic_slot);
    m->inputs = (uint32_t *)(void *)at;
    at += (size_t)m->positions * 4;
    m->scales = (float *)(void *)at;
    at += (size_t)m->positions * 4;
    if (m->row_kind) {
        m->row_scales = (float *)(void *)at;
        at += (size_t)m->rows * 4;
    }
    m->parts = at;
    at += m->positions;
    m->chunk_class = at;
    at += m->chunks;
    seen = at;
    for (i = 0; i < m->padding; i++) {
        m->inputs[i] = UINT32_MAX;
        m->scales[i] = 0;
        m->parts[i] = 0;
    }
    error = wsic__side_information(m, 1);
    if (error) return error;
    end = m->padding;
    chunk = 0;
    for (i = 0; i < m->classes; i++) {
        end += m->counts[i];
        while (chunk < end / m->k) m->chunk_class[chunk++] = (uint8_t)i;
    }
    if (m->positions) memset(seen, 0, m->columns);
    for (i = m->padding; i < m->positions; i++) m->parts[i] = seen[m->inputs[i]]++;
    return WSIC_OK;
}

/* ---- Section 5: tiles ---- */

int wsic_verify_tile(const wsic_matrix *m, uint32_t tile) {
    const uint8_t *bytes;
    size_t size;
    if (tile >= m->tiles) return WSIC_BAD_CALL;
    bytes = wsic__tile(m, tile, &size);
    return wsic_crc32c(bytes, size) == wsic__entry(m, tile, 2) ? WSIC_OK : WSIC_BAD_CHECKSUM;
}

/* Section 5.4. */

typedef struct {
    const uint8_t *bytes;
    uint64_t at, end; /* bits */
    int failed;
} wsic__bits;

static uint64_t wsic__unary(wsic__bits *b) {
    uint64_t zeros = 0;
    while (b->at < b->end) {
        uint32_t bit = b->bytes[b->at >> 3] >> (b->at & 7) & 1;
        b->at++;
        if (bit) return zeros;
        zeros++;
    }
    b->failed = 1;
    return 0;
}

static uint32_t wsic__take(wsic__bits *b, uint32_t n) {
    uint32_t value = 0, i;
    if (b->end - b->at < n) {
        b->failed = 1;
        return 0;
    }
    for (i = 0; i < n; i++, b->at++) value |= (uint32_t)(b->bytes[b->at >> 3] >> (b->at & 7) & 1) << i;
    return value;
}

static int wsic__at_end(const wsic__bits *b) {
    if (b->end - b->at >= 8) return 0;
    return b->at == b->end || b->bytes[b->at >> 3] >> (b->at & 7) == 0;
}

typedef struct {
    wsic__bits bits;
    uint32_t g, rows, steps;
    uint64_t next; /* first symbol that may have an escape */
    /* the escape read last: its symbol, place and addend */
    uint64_t p;
    uint32_t row, column;
    int32_t addend;
} wsic__escapes;

/* Begins a list that is not empty. */
static int wsic__first_escape(wsic__escapes *e, uint32_t rows, uint32_t steps, const uint8_t *bytes, size_t size) {
    e->g = bytes[0];
    e->rows = rows;
    e->steps = steps;
    e->next = 0;
    e->bits.bytes = bytes + 1;
    e->bits.at = 0;
    e->bits.end = (uint64_t)8 * (size - 1);
    e->bits.failed = 0;
    return e->g > 24 ? WSIC_BAD_ESCAPE : WSIC_OK;
}

static int wsic__next_escape(const wsic_matrix *m, wsic__escapes *e) {
    uint64_t high = wsic__unary(&e->bits), exponent, chunk, column;
    uint32_t code, lane;
    e->p = e->next + (high << e->g | wsic__take(&e->bits, e->g));
    exponent = wsic__unary(&e->bits);
    if (e->bits.failed || exponent > 22) return WSIC_BAD_ESCAPE;
    code = (uint32_t)1 << exponent | wsic__take(&e->bits, (uint32_t)exponent);
    if (e->bits.failed) return WSIC_BAD_ESCAPE;
    e->next = e->p + 1;
    e->addend = 4 * wsic__signed(code);
    lane = (uint32_t)(e->p % 64);
    chunk = e->p / ((uint64_t)64 * e->steps);
    if (chunk >= m->chunks) return WSIC_BAD_ESCAPE;
    column = chunk * m->k + lane % m->k;
    e->column = (uint32_t)column;
    e->row = (uint32_t)(e->p / 64 % e->steps) * m->rows_per_step + (lane >> m->k_log2);
    return column < m->padding || e->row >= e->rows ? WSIC_BAD_ESCAPE : WSIC_OK;
}

/* Whether an integer is in the legal range. */
static int wsic__legal(int32_t m) { return m > -((int32_t)1 << 23) && m < (int32_t)1 << 23; }

static int wsic__add_escapes(const wsic_matrix *m, uint32_t rows, uint32_t steps, const uint8_t *bytes, size_t size,
                             int32_t *integers) {
    wsic__escapes e;
    int error = wsic__first_escape(&e, rows, steps, bytes, size);
    while (!error) {
        int32_t *at;
        error = wsic__next_escape(m, &e);
        if (error) break;
        at = &integers[(size_t)e.row * m->positions + e.column];
        *at += e.addend;
        if (!wsic__legal(*at)) return WSIC_BAD_ESCAPE;
        if (wsic__at_end(&e.bits)) break;
    }
    return error;
}

/* Section 5.3. */

/* Values of one chunk: m + offset is 0 to 255 for every legal table, and a multiple of 4 leaves bit 1 alone. There is
 * room for 256 steps, so the second integer of the last pair of an odd number of steps has a place too. */
#define WSIC__MOST_VALUES (64 * 256)

/* The lanes of a tile between two chunks, and what is left of its bytes. */
typedef struct {
    uint8_t high[64], low[64];
    const uint8_t *raw, *at, *end;
} wsic__lanes;

static int wsic__start_tile(const wsic_matrix *m, uint32_t steps, const uint8_t *bytes, const uint8_t *end,
                            wsic__lanes *l) {
    size_t raw_bytes = (size_t)(m->raw_per_step * steps);
    int lane;
    l->raw = bytes;
    l->at = bytes + raw_bytes + 128;
    l->end = end;
    memcpy(l->high, bytes + raw_bytes, 64);
    memcpy(l->low, bytes + raw_bytes + 64, 64);
    for (lane = 0; lane < 64; lane++)
        if (l->high[lane] == 0) return WSIC_CORRUPT_TILE;
    return WSIC_OK;
}

static int wsic__end_tile(const wsic__lanes *l) {
    int lane;
    for (lane = 0; lane < 64; lane++)
        if (l->high[lane] != 1 || l->low[lane] != 0) return WSIC_CORRUPT_TILE;
    return l->at == l->end ? WSIC_OK : WSIC_CORRUPT_TILE;
}

/* Section 5.2. */

static const uint8_t wsic__next_states[8][2] = {{0, 2}, {5, 7}, {1, 3}, {4, 6}, {2, 0}, {7, 5}, {3, 1}, {6, 4}};

/* States after a step; bit 1 of a value is the lowest bit of its k. The values of the step before stand in front. */
static void wsic__next_step(uint32_t trellis, uint32_t step, const uint8_t *values, uint8_t *state) {
    uint32_t lane;
    if (trellis == 1) {
        for (lane = 0; lane < 64; lane++) state[lane] = wsic__next_states[state[lane]][values[lane] >> 1 & 1];
    } else if (trellis == 2 && step % 2 == 1) {
        const uint8_t *before = values - 64;
        for (lane = 0; lane < 64; lane++) {
            uint32_t differ = (uint32_t)(values[lane] ^ before[lane]) >> 1 & 1;
            state[lane] = (uint8_t)(state[lane] >> 1 ^ (state[lane] & 1) * 45u ^ differ * 17u);
        }
    }
}

#if defined(__aarch64__) && defined(__ARM_NEON) && !defined(__AARCH64EB__) && !defined(WSIC_NO_NEON)
#define WSIC_NEON
#include "wsic_neon.h"
#endif

#define WSIC__LANE_BEGIN                                                                    \
    const wsic_slot *slot = &slots[(uint32_t)(state[lane] & 1) << 8 | l->low[lane]];        \
    uint32_t value = (uint32_t)(slot->integer + offset);                                    \
    uint32_t next = (uint32_t)slot->frequency * l->high[lane] + slot->rank;

#define WSIC__LANE_END                                                                      \
    for (i = 0; i < r; i++) value += (uint32_t)(l->raw[8 * i + (lane >> 3)] >> (lane & 7) & 1) << (i + 1); \
    l->high[lane] = (uint8_t)(next >> 8);                                                   \
    l->low[lane] = (uint8_t)next;                                                           \
    values[lane] = (uint8_t)value;                                                          \
    if (pairs) values[64 + lane] = (uint8_t)(slot->second + offset);

/* A class as the chunks of a tile need it. */
typedef struct {
    const wsic_slot *slots;
    uint32_t r, pairs; /* raw bits; 1 if the table is one of pairs, else 0 */
    int32_t offset;    /* added to integers to make them unsigned */
#ifdef WSIC_NEON
    wsic__neon_table table;
    int usable;
#endif
} wsic__class;

static void wsic__select_class(const wsic_matrix *m, uint32_t of_class, wsic__class *c) {
    int32_t least = 0;
    int i;
    c->slots = m->slots + (size_t)512 * of_class;
    c->r = m->raw_bits[of_class];
    c->pairs = m->of_pairs[of_class];
    for (i = 0; i < 512; i++) {
        if (c->slots[i].integer < least) least = c->slots[i].integer;
        if (c->pairs && c->slots[i].second < least) least = c->slots[i].second;
    }
    c->offset = (3 - least) / 4 * 4;
#ifdef WSIC_NEON
    c->usable = c->pairs ? wsic__neon_make_pairs(c->slots, c->offset, &c->table)
                         : wsic__neon_make(c->slots, c->offset, &c->table);
#endif
}

/* Values of the next chunk: 64 for each step, and with a pair table for an even number of steps. */
static int wsic__chunk(const wsic_matrix *m, const wsic__class *c, uint32_t steps, wsic__lanes *l, uint8_t *values) {
    const wsic_slot *slots = c->slots;
    int32_t offset = c->offset;
    uint32_t r = c->r, pairs = c->pairs, lane, step = 0, i;
    uint8_t state[64] = {0};
#ifdef WSIC_NEON
    if (c->usable)
        step = pairs ? wsic__neon_pairs(&c->table, steps, l, state, values)
                     : wsic__neon_steps(&c->table, m->trellis, r, steps, l, state, values);
    values += (size_t)64 * step;
#endif
    for (; step < steps; step += 1 + pairs) {
        if (l->end - l->at >= 64) { /* enough for every lane: no branch */
            for (lane = 0; lane < 64; lane++) {
                WSIC__LANE_BEGIN
                uint32_t small = next < 256;
                next = small ? next << 8 | *l->at : next;
                l->at += small;
                WSIC__LANE_END
            }
        } else {
            for (lane = 0; lane < 64; lane++) {
                WSIC__LANE_BEGIN
                if (next < 256) {
                    if (l->at == l->end) return WSIC_CORRUPT_TILE;
                    next = next << 8 | *l->at++;
                }
                WSIC__LANE_END
            }
        }
        l->raw += (size_t)8 * r;
        values += (size_t)64 * pairs;
        wsic__next_step(m->trellis, step + pairs, values, state);
        values += 64;
    }
    return WSIC_OK;
}

int wsic_decode_tile(const wsic_matrix *m, uint32_t tile, int32_t *integers, size_t capacity) {
    uint8_t values[WSIC__MOST_VALUES];
    wsic__lanes lanes;
    wsic__class class_;
    uint32_t rows, steps, chunk, row, i;
    const uint8_t *bytes, *end;
    size_t size, escapes;
    int error;
    if (tile >= m->tiles) return WSIC_BAD_CALL;
    rows = wsic_rows_in(m, tile);
    steps = wsic__steps_in(m, tile);
    if (capacity / m->positions < rows) return WSIC_NO_MEMORY;
    bytes = wsic__tile(m, tile, &size);
    escapes = wsic__entry(m, tile, 1);
    end = bytes + (size - escapes);
    error = wsic__start_tile(m, steps, bytes, end, &lanes);
    for (chunk = 0; chunk < m->chunks && !error; chunk++) {
        uint32_t of_class = m->chunk_class[chunk];
        if (chunk == 0 || of_class != m->chunk_class[chunk - 1]) wsic__select_class(m, of_class, &class_);
        error = wsic__chunk(m, &class_, steps, &lanes, values);
        for (row = 0; row < rows && !error; row++) {
            int32_t *out = &integers[(size_t)row * m->positions + (size_t)chunk * m->k];
            for (i = 0; i < m->k; i++) out[i] = values[row * m->k + i] - class_.offset;
        }
    }
    if (!error) error = wsic__end_tile(&lanes);
    if (error) return error;
    for (i = 0; i < rows; i++) memset(&integers[(size_t)i * m->positions], 0, m->padding * sizeof integers[0]);
    return escapes ? wsic__add_escapes(m, rows, steps, end, escapes, integers) : WSIC_OK;
}

/* ---- Section 6: reconstruction ---- */

void wsic_reconstruct(const wsic_matrix *m, uint32_t first, uint32_t rows, const int32_t *integers, float *weights) {
    uint32_t i, s;
    size_t j;
    for (i = 0; i < rows; i++) {
        float *w = weights + (size_t)i * m->columns;
        const int32_t *row = integers ? integers + (size_t)i * m->positions : NULL;
        for (j = 0; j < m->columns; j++) w[j] = 0;
        for (s = m->padding; s < m->positions; s++) {
            /* The first product of a column is added to +0.0, which does not change it: m = 0 gives +0.0. Later ones
             * go through a volatile variable, so that no compiler fuses them with the addition. */
            if (m->parts[s] == 0) {
                w[m->inputs[s]] = m->scales[s] * (float)row[s];
            } else {
                volatile float product = m->scales[s] * (float)row[s];
                w[m->inputs[s]] += product;
            }
        }
        if (m->row_scales)
            for (j = 0; j < m->columns; j++) w[j] *= m->row_scales[first + i];
    }
}

int wsic_dequantize_rows(const wsic_matrix *m, uint32_t first, uint32_t count, int32_t *scratch,
                         size_t scratch_length, float *weights, size_t weights_length) {
    if (first > m->rows || count > m->rows - first) return WSIC_BAD_CALL;
    if (weights_length / m->columns < count) return WSIC_NO_MEMORY;
    if (m->tiles == 0) {
        wsic_reconstruct(m, first, count, NULL, weights);
        return WSIC_OK;
    }
    while (count > 0) {
        uint32_t tile = first / m->rows_per_tile, skip = first % m->rows_per_tile;
        uint32_t rows = wsic_rows_in(m, tile) - skip;
        int error = wsic_decode_tile(m, tile, scratch, scratch_length);
        if (error) return error;
        if (rows > count) rows = count;
        wsic_reconstruct(m, first, rows, scratch + (size_t)skip * m->positions, weights);
        first += rows;
        count -= rows;
        weights += (size_t)rows * m->columns;
    }
    return WSIC_OK;
}

/* ---- Section 9: a whole decoder or verifier ---- */

/* Rows of the largest tile. */
static uint32_t wsic__tile_rows(const wsic_matrix *m) {
    return m->rows < m->rows_per_tile ? m->rows : m->rows_per_tile;
}

/* Rows that are reconstructed at a time: one, or as many as have 2^16 weights. */
static uint32_t wsic__part_rows(const wsic_matrix *m) {
    uint32_t rows = ((uint32_t)1 << 16) / m->columns, most = wsic__tile_rows(m);
    return rows < 1 ? 1 : rows < most ? rows : most;
}

int wsic_decode_all_memory(const uint8_t *bytes, size_t size, const wsic_limits *limits, size_t *memory_size) {
    wsic_payload payload;
    wsic_matrix m;
    uint64_t most = 0, memory;
    uint32_t index;
    int error = wsic_open(bytes, size, limits, &payload);
    *memory_size = 0;
    if (error) return error;
    for (index = 0; index < payload.matrices; index++) {
        error = wsic__check_matrix(&payload, index, &m);
        if (error) return error;
        /* below 2^40 + 2^2 * 2^12 * 2^32 + 2^32 */
        memory = wsic__memory(&m) + 3 + (uint64_t)4 * wsic__tile_rows(&m) * m.positions +
                 (uint64_t)4 * wsic__part_rows(&m) * m.columns;
        if (memory > most) most = memory;
    }
    if (most > SIZE_MAX) return WSIC_NO_MEMORY;
    *memory_size = (size_t)most;
    return WSIC_OK;
}

int wsic_decode_all(const uint8_t *bytes, size_t size, const wsic_limits *limits, int verify, void *memory,
                    size_t memory_size, wsic_sink *sink, void *user) {
    wsic_payload payload;
    wsic_matrix m;
    size_t needed, capacity;
    uint32_t index, first, rows;
    int error = wsic_decode_all_memory(bytes, size, limits, &needed);
    if (!error) error = wsic_open(bytes, size, limits, &payload);
    if (error) return error;
    if (!memory || needed > memory_size) return WSIC_NO_MEMORY;
    for (index = 0; index < payload.matrices; index++) {
        uint8_t *at = (uint8_t *)memory;
        int32_t *integers;
        float *weights;
        error = wsic_open_matrix(&payload, index, at, memory_size, &m);
        if (error) return error;
        at += (size_t)wsic__memory(&m);
        at += (4 - (uintptr_t)at % 4) % 4;
        capacity = (size_t)wsic__tile_rows(&m) * m.positions;
        integers = (int32_t *)(void *)at;
        weights = (float *)(void *)(at + capacity * 4);
        for (first = 0; first < m.rows; first += rows) {
            uint32_t tile = first / m.rows_per_tile, skip = first % m.rows_per_tile;
            const int32_t *part = m.tiles ? integers + (size_t)skip * m.positions : NULL;
            rows = wsic__part_rows(&m);
            if (rows > m.rows_per_tile - skip) rows = m.rows_per_tile - skip;
            if (rows > m.rows - first) rows = m.rows - first;
            if (m.tiles && skip == 0) {
                if (verify) error = wsic_verify_tile(&m, tile);
                if (!error) error = wsic_decode_tile(&m, tile, integers, capacity);
                if (error) return error;
            }
            wsic_reconstruct(&m, first, rows, part, weights);
            if (sink) sink(user, index, &m, first, rows, part, weights);
        }
    }
    return WSIC_OK;
}

#endif /* WSIC_IMPLEMENTATION */
