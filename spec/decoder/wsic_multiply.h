/* wsic_multiply.h - products of WSIC matrices with vectors, for section 7 of FORMAT.md ("with integer activations").
 * Include it where WSIC_IMPLEMENTATION is defined, after wsic.h, and in no other file.
 *
 *     memory = malloc(wsic_vector_memory(&matrix, 2));
 *     error = wsic_prepare(&matrix, x, 2, memory, size, &vector);          once for each vector: [columns] numbers
 *     scratch = malloc(wsic_multiply_memory(&matrix, 2));                  for each thread
 *     for each tile, on any thread:
 *         error = wsic_multiply_tile(&matrix, tile, &vector, scratch, size, y + tile * matrix.rows_per_tile);
 *
 * z[s] = scale[s] * x[input of s] is cut into groups of 128 positions, of 512 if there are two terms. Each has a factor d = largest |z| / 127 and
 * integers a = z * (127 / largest), rounded to nearest, ties to even; of a second term the same for what the first one
 * leaves, z - d * a. One term costs half the products of two and leaves an error of the order of 1 %, two .01 %.
 * The integers' dot products are exact. Each step of the sums in binary32 has one rounding, in a fixed order: the groups
 * of each term, the terms, the escapes, the row's scale. So every machine and both paths of this file give the same bits.
 * A tile that a decoder refuses is refused here too.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0 */
#ifndef WSIC_MULTIPLY_H
#define WSIC_MULTIPLY_H

/* Positions of a group, by the number of terms. */
#define WSIC_GROUP(terms) ((terms) == 1 ? 128u : 512u)

/* A vector ready for one matrix. It points into the memory given. */
typedef struct {
    uint32_t terms;
    float *z;          /* [positions] */
    float *factors;    /* [terms][groups] */
    int8_t *integers;  /* [terms][positions] */
} wsic_vector;

static uint32_t wsic__groups(const wsic_matrix *m, uint32_t terms) {
    return m->positions / WSIC_GROUP(terms) + (m->positions % WSIC_GROUP(terms) != 0);
}

/* Bytes for wsic_prepare; `terms` is 1 or 2. */
size_t wsic_vector_memory(const wsic_matrix *m, uint32_t terms) {
    return 3 + (size_t)m->positions * (4 + terms) + (size_t)wsic__groups(m, terms) * terms * 4;
}

int wsic_prepare(const wsic_matrix *m, const float *x, uint32_t terms, void *memory, size_t memory_size,
                        wsic_vector *v) {
    uint8_t *at = (uint8_t *)memory;
    uint32_t groups = wsic__groups(m, terms), group, term, s;
    if (terms < 1 || terms > 2) return WSIC_BAD_CALL;
    if (!memory || memory_size < wsic_vector_memory(m, terms)) return WSIC_NO_MEMORY;
    at += (4 - (uintptr_t)at % 4) % 4;
    v->terms = terms;
    v->z = (float *)(void *)at;
    v->factors = v->z + m->positions;
    v->integers = (int8_t *)(v->factors + (size_t)terms * groups);
    for (s = 0; s < m->positions; s++) v->z[s] = s < m->padding ? 0 : m->scales[s] * x[m->inputs[s]];
    for (group = 0; group < groups; group++) {
        uint32_t first = group * WSIC_GROUP(terms), count = m->positions - first;
        float left[WSIC_GROUP(2)];
        if (count > WSIC_GROUP(terms)) count = WSIC_GROUP(terms);
        memcpy(left, v->z + first, count * sizeof left[0]);
        for (term = 0; term < terms; term++) {
            int8_t *integers = v->integers + (size_t)term * m->positions + first;
            uint32_t largest_bits = 0;
            float largest, factor, inverse;
            for (s = 0; s < count; s++) { /* magnitudes order as their bits do, NaN above all */
                uint32_t bits;
                memcpy(&bits, &left[s], 4);
                bits &= 0x7FFFFFFFu;
                if (bits > largest_bits) largest_bits = bits;
            }
            largest = wsic__float(largest_bits);
            if (largest_bits >= 0x7F800000u) { /* so that it shows in every result */
                factor = wsic__float(0x7FC00000u);
                inverse = 0;
            } else if (largest_bits < (uint32_t)(127 - 100) << 23) { /* below 2^-100 */
                factor = inverse = 0;
            } else {
                factor = largest / 127.0f;
                inverse = 127.0f / largest;
            }
            v->factors[(size_t)term * groups + group] = factor;
            for (s = 0; s < count; s++) {
                /* volatile: no compiler may fuse a product with the addition that follows */
                volatile float product = left[s] * inverse;
                float rounded = product + 12582912.0f; /* 1.5 * 2^23: the integer is in the low bits */
                uint32_t bits;
                memcpy(&bits, &rounded, 4);
                bits &= 255;
                integers[s] = (int8_t)(bits < 128 ? (int32_t)bits : (int32_t)bits - 256);
                product = factor * (float)integers[s];
                left[s] -= product;
            }
        }
    }
    return WSIC_OK;
}

/* Bytes of scratch for wsic_multiply_tile. */
size_t wsic_multiply_memory(const wsic_matrix *m, uint32_t terms) {
    return 3 + WSIC__MOST_VALUES + (size_t)m->rows_per_tile * (1 + 2 * (size_t)terms) * 4;
}

/* Adds the products of the rows of one chunk with its integers; u are the values, m + offset. */
static void wsic__dot_chunk(uint32_t k, uint32_t rows, const uint8_t *u, uint32_t r, int32_t offset, const int8_t *a,
                            int32_t *sums) {
    int32_t all = 0;
    uint32_t i, row = 0;
    for (i = 0; i < k; i++) all += a[i];
    all *= offset;
#ifdef WSIC_NEON
    if (r == 0) row = wsic__neon_dot(k, rows, u, all, a, sums); /* values of 7 bits */
#else
    (void)r;
#endif
    for (; row < rows; row++) {
        int32_t sum = -all;
        for (i = 0; i < k; i++) sum += u[row * k + i] * a[i];
        sums[row] += sum;
    }
}

/* y of the rows of one tile. */
int wsic_multiply_tile(const wsic_matrix *m, uint32_t tile, const wsic_vector *v, void *memory,
                              size_t memory_size, float *y) {
    uint8_t *at = (uint8_t *)memory, *values;
    uint32_t groups = wsic__groups(m, v->terms), rows = wsic_rows_in(m, tile), steps, chunk, term, row, per_group;
    float *sums, *escaped;
    int32_t *integers;
    const uint8_t *bytes, *end;
    size_t size, escapes, i;
    wsic__lanes lanes;
    wsic__class class_;
    wsic__escapes list;
    int error, pending = 0, refused = WSIC_OK;
    if (tile >= m->tiles) return WSIC_BAD_CALL;
    if (!memory || memory_size < wsic_multiply_memory(m, v->terms)) return WSIC_NO_MEMORY;
    at += (4 - (uintptr_t)at % 4) % 4;
    sums = (float *)(void *)at; /* [terms][rows] */
    integers = (int32_t *)(void *)(sums + (size_t)v->terms * rows);
    escaped = (float *)(void *)(integers + (size_t)v->terms * rows);
    values = (uint8_t *)(escaped + rows);
    for (i = 0; i < (size_t)v->terms * rows; i++) {
        sums[i] = 0;
        integers[i] = 0;
    }
    for (row = 0; row < rows; row++) escaped[row] = 0;
    steps = wsic__steps_in(m, tile);
    bytes = wsic__tile(m, tile, &size);
    escapes = wsic__entry(m, tile, 1);
    end = bytes + (size - escapes);
    error = wsic__start_tile(m, steps, bytes, end, &lanes);
    if (escapes) {
        refused = wsic__first_escape(&list, rows, steps, end, escapes);
        if (!refused) refused = wsic__next_escape(m, &list);
        pending = !refused;
    }
    per_group = WSIC_GROUP(v->terms) / m->k;
    for (chunk = 0; chunk < m->chunks && !error; chunk++) {
        uint32_t of_class = m->chunk_class[chunk];
        if (chunk == 0 || of_class != m->chunk_class[chunk - 1]) wsic__select_class(m, of_class, &class_);
        error = wsic__chunk(m, &class_, steps, &lanes, values);
        if (error) break;
        for (term = 0; term < v->terms; term++)
            wsic__dot_chunk(m->k, rows, values, class_.r, class_.offset,
                            v->integers + (size_t)term * m->positions + (size_t)chunk * m->k,
                            integers + (size_t)term * rows);
        if (chunk + 1 == m->chunks || (chunk + 1) % per_group == 0) {
            for (i = 0; i < (size_t)v->terms * rows; i++) {
                volatile float product = v->factors[i / rows * groups + chunk / per_group] * (float)integers[i];
                sums[i] += product;
                integers[i] = 0;
            }
        }
        /* The list is in the order of chunks. */
        while (pending && list.p / ((uint64_t)64 * steps) == chunk) {
            volatile float product = (float)list.addend * v->z[list.column];
            int32_t integer = values[list.p % ((uint64_t)64 * steps)] - class_.offset;
            if (!wsic__legal(integer + list.addend)) refused = WSIC_BAD_ESCAPE;
            escaped[list.row] += product;
            if (!refused && !wsic__at_end(&list.bits)) refused = wsic__next_escape(m, &list);
            else pending = 0;
            if (refused) pending = 0;
        }
    }
    if (!error) error = wsic__end_tile(&lanes);
    if (!error) error = refused;
    if (error) return error;
    for (row = 0; row < rows; row++) {
        float sum = v->terms == 1 ? sums[row] : sums[row] + sums[rows + row];
        y[row] = sum + escaped[row];
        if (m->row_scales) y[row] *= m->row_scales[(size_t)tile * m->rows_per_tile + row];
    }
    return WSIC_OK;
}

#endif /* WSIC_MULTIPLY_H */
