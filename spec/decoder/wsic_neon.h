/* wsic_neon.h - part of wsic.h: steps of a chunk with the vector instructions of aarch64.
 *
 * Sixteen lanes are one register, so a step is four times the same. `tbl` looks up 64 bytes: a slot's group of 4 and the
 * parity of the trellis state give a bias, and slot plus bias is 4 times the slot's run plus 0 to 3, because the bias
 * carries into the next run exactly from the slot on where that one starts. The run gives frequency, rank and value.
 * Single tables where two runs start inside one group are left to the portable code.
 *
 * The runs of a pair table become shorter and shorter, so from some group on two or three runs start inside each: there
 * slot plus bias plus 2 times the slot's place in its group does the same. Both parities together have up to 128 runs:
 * 64 of parity 0 by `tbl`, which gives 0 for the lanes of the other parity, and 64 of parity 1 by `tbx` over them.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0 */
#include <arm_neon.h>

typedef struct {
    uint8_t bias[2][64]; /* by parity and group of 4 slots */
    /* By run; slot - base is the rank. Single tables have all their runs in the first row, pair tables those of each
     * parity in one row. */
    uint8_t frequency[2][64], base[2][64], value[2][64];
    uint8_t second[2][64];  /* pair tables: the second value */
    uint8_t last_coarse[2]; /* pair tables: the last slot before the groups where several runs start */
} wsic__neon_table;

/* 0 if the table is one of those that are left to the portable code. */
static int wsic__neon_make(const wsic_slot *slots, int32_t offset, wsic__neon_table *t) {
    uint32_t runs = 0, q, i;
    memset(t, 0, sizeof *t);
    for (q = 0; q < 2; q++) {
        const wsic_slot *of_parity = slots + 256 * q;
        uint32_t group_run = 0, start = 0; /* run of the group's first slot; place where the next one starts, or 0 */
        for (i = 0; i < 256; i++) {
            const wsic_slot *slot = &of_parity[i];
            int starts = i == 0 || slot->integer != slot[-1].integer || slot->rank != slot[-1].rank + 1;
            if (starts) {
                if (runs == 64) return 0;
                t->frequency[0][runs] = slot->frequency;
                t->base[0][runs] = (uint8_t)(i - slot->rank);
                t->value[0][runs] = (uint8_t)(slot->integer + offset);
                runs++;
            }
            if (i % 4 == 0) {
                group_run = runs - 1;
                start = 0;
            } else if (starts) {
                if (start != 0) return 0;
                start = i % 4;
            }
            if (i % 4 == 3)
                t->bias[q][i / 4] = (uint8_t)(4 * group_run - (i - 3) + (start != 0 ? 4 - start : 0));
        }
    }
    return 1;
}

/* Whether (slope * j + bias) >> 2 is the number of runs that start at the places 1 to j of a group, for j in 0..4. */
static int wsic__neon_fits(const wsic_slot *group, uint32_t slope, uint32_t bias) {
    uint32_t starts = 0, j;
    for (j = 0; j < 4; j++) {
        starts += j > 0 && group[j].rank == 0;
        if ((slope * j + bias) >> 2 != starts) return 0;
    }
    return 1;
}

/* The same for a pair table. It returns 1 for every one that obeys the rules. */
static int wsic__neon_make_pairs(const wsic_slot *slots, int32_t offset, wsic__neon_table *t) {
    uint32_t q, i;
    memset(t, 0, sizeof *t);
    for (q = 0; q < 2; q++) {
        const wsic_slot *of_parity = slots + 256 * q;
        uint32_t runs = 0, slope = 1;
        t->last_coarse[q] = 255;
        for (i = 0; i < 256; i++) {
            const wsic_slot *slot = &of_parity[i];
            if (slot->rank == 0) { /* each pair has one run */
                if (runs == 64) return 0;
                t->frequency[q][runs] = slot->frequency;
                t->base[q][runs] = (uint8_t)i;
                t->value[q][runs] = (uint8_t)(slot->integer + offset);
                t->second[q][runs] = (uint8_t)(slot->second + offset);
                runs++;
            }
            if (i % 4 == 0) {
                uint32_t bias = 0;
                while (bias < 4 && !wsic__neon_fits(slot, slope, bias)) bias++;
                if (bias == 4 && slope == 1 && i > 0) {
                    slope = 3;
                    t->last_coarse[q] = (uint8_t)(i - 1);
                    for (bias = 0; bias < 4 && !wsic__neon_fits(slot, slope, bias);) bias++;
                }
                if (bias == 4) return 0;
                t->bias[q][i / 4] = (uint8_t)(4 * (runs - 1) - i + bias);
            }
        }
    }
    return 1;
}

static uint8x16x4_t wsic__neon_load(const uint8_t *bytes) {
    uint8x16x4_t table;
    int i;
    for (i = 0; i < 4; i++) table.val[i] = vld1q_u8(bytes + 16 * i);
    return table;
}

/* `value` in each lane whose bit of the 16 at `plane` is set. */
static uint8x16_t wsic__neon_bits(const uint8_t *plane, uint32_t value) {
    static const uint8_t bit[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    uint8x16_t bytes = vcombine_u8(vdup_n_u8(plane[0]), vdup_n_u8(plane[1]));
    return vandq_u8(vtstq_u8(bytes, vld1q_u8(bit)), vdupq_n_u8((uint8_t)value));
}

/* x = frequency * (x >> 8) + rank, and the refill. */
static inline void wsic__neon_advance(uint8x16_t f, uint8x16_t rank, uint8x16_t *high, uint8x16_t *low,
                                      wsic__lanes *l) {
    const uint8x16_t zero = vdupq_n_u8(0);
    uint16x8_t first = vmlal_u8(vmovl_u8(vget_low_u8(rank)), vget_low_u8(f), vget_low_u8(*high));
    uint16x8_t second = vmlal_high_u8(vmovl_high_u8(rank), f, *high);
    uint8x16_t new_low = vuzp1q_u8(vreinterpretq_u8_u16(first), vreinterpretq_u8_u16(second));
    uint8x16_t new_high = vuzp2q_u8(vreinterpretq_u8_u16(first), vreinterpretq_u8_u16(second));
    /* Lanes below 256 take a byte each: minus the number of them up to each lane, and its complement. */
    uint8x16_t below = vceqzq_u8(new_high);
    uint8x16_t count = vaddq_u8(below, vextq_u8(zero, below, 15));
    count = vaddq_u8(count, vextq_u8(zero, count, 14));
    count = vaddq_u8(count, vextq_u8(zero, count, 12));
    count = vaddq_u8(count, vextq_u8(zero, count, 8));
    *high = vbslq_u8(below, new_low, new_high);
    *low = vbslq_u8(below, vqtbl1q_u8(vld1q_u8(l->at), vmvnq_u8(count)), new_low);
    l->at += (uint8_t)(0u - vgetq_lane_u8(count, 15));
}

/* State of the trellis of pairs after the values u and v; `odd` is all ones where the state is odd. */
static inline uint8x16_t wsic__neon_after_pair(uint8x16_t state, uint8x16_t odd, uint8x16_t u, uint8x16_t v) {
    uint8x16_t differ = vtstq_u8(veorq_u8(u, v), vdupq_n_u8(2));
    uint8x16_t taps = veorq_u8(vandq_u8(odd, vdupq_n_u8(45)), vandq_u8(differ, vdupq_n_u8(17)));
    return veorq_u8(vshrq_n_u8(state, 1), taps);
}

/* Decodes steps of a chunk from its start as long as 64 bytes are left, one for every lane; their number. */
static uint32_t wsic__neon_steps(const wsic__neon_table *t, uint32_t trellis, uint32_t r, uint32_t steps,
                                 wsic__lanes *l, uint8_t *states, uint8_t *values) {
    uint8x16x4_t even_bias, odd_bias, frequency, base, value;
    uint8x16_t high[4], low[4], state[4], transitions;
    uint8_t next_state[16];
    uint32_t step, i, j;
    even_bias = wsic__neon_load(t->bias[0]);
    odd_bias = wsic__neon_load(t->bias[1]);
    frequency = wsic__neon_load(t->frequency[0]);
    base = wsic__neon_load(t->base[0]);
    value = wsic__neon_load(t->value[0]);
    for (i = 0; i < 16; i++) next_state[i] = trellis == 1 ? wsic__next_states[i & 7][i >> 3] : 0; /* bit of k, state */
    transitions = vld1q_u8(next_state);
    for (j = 0; j < 4; j++) {
        high[j] = vld1q_u8(l->high + 16 * j);
        low[j] = vld1q_u8(l->low + 16 * j);
        state[j] = vdupq_n_u8(0);
    }
    for (step = 0; step < steps && l->end - l->at >= 64; step++) {
        for (j = 0; j < 4; j++) {
            uint8x16_t group = vshrq_n_u8(low[j], 2);
            uint8x16_t odd = vtstq_u8(state[j], vdupq_n_u8(1));
            uint8x16_t bias = vbslq_u8(odd, vqtbl4q_u8(odd_bias, group), vqtbl4q_u8(even_bias, group));
            uint8x16_t run = vshrq_n_u8(vaddq_u8(bias, low[j]), 2);
            uint8x16_t f = vqtbl4q_u8(frequency, run), u = vqtbl4q_u8(value, run);
            uint8x16_t rank = vsubq_u8(low[j], vqtbl4q_u8(base, run));
            wsic__neon_advance(f, rank, &high[j], &low[j], l);
            for (i = 0; i < r; i++) u = vaddq_u8(u, wsic__neon_bits(l->raw + 8 * i + 2 * j, 2u << i));
            vst1q_u8(values + 16 * j, u);
            if (trellis != 2)
                state[j] = vqtbl1q_u8(transitions, vorrq_u8(state[j], vandq_u8(vshlq_n_u8(u, 2), vdupq_n_u8(8))));
            else if (step % 2 == 1)
                state[j] = wsic__neon_after_pair(state[j], odd, u, vld1q_u8(values - 64 + 16 * j));
        }
        l->raw += (size_t)8 * r;
        values += 64;
    }
    for (j = 0; j < 4; j++) {
        vst1q_u8(l->high + 16 * j, high[j]);
        vst1q_u8(l->low + 16 * j, low[j]);
        vst1q_u8(states + 16 * j, state[j]);
    }
    return step;
}

/* The same for a pair table, both steps of a pair at a time: the number is even, and may be `steps` plus 1. */
static uint32_t wsic__neon_pairs(const wsic__neon_table *t, uint32_t steps, wsic__lanes *l, uint8_t *states,
                                 uint8_t *values) {
    uint8x16x4_t bias[2], frequency[2], base[2], value[2], second[2];
    uint8x16_t high[4], low[4], state[4], last_coarse[2];
    const uint8x16_t row = vdupq_n_u8(64);
    uint32_t step, q, j;
    for (q = 0; q < 2; q++) {
        bias[q] = wsic__neon_load(t->bias[q]);
        frequency[q] = wsic__neon_load(t->frequency[q]);
        base[q] = wsic__neon_load(t->base[q]);
        value[q] = wsic__neon_load(t->value[q]);
        second[q] = wsic__neon_load(t->second[q]);
        last_coarse[q] = vdupq_n_u8(t->last_coarse[q]);
    }
    for (j = 0; j < 4; j++) {
        high[j] = vld1q_u8(l->high + 16 * j);
        low[j] = vld1q_u8(l->low + 16 * j);
        state[j] = vdupq_n_u8(0);
    }
    for (step = 0; step < steps && l->end - l->at >= 64; step += 2) {
        for (j = 0; j < 4; j++) {
            uint8x16_t slot = low[j], group = vshrq_n_u8(slot, 2);
            uint8x16_t odd = vtstq_u8(state[j], vdupq_n_u8(1));
            uint8x16_t to_run = vbslq_u8(odd, vqtbl4q_u8(bias[1], group), vqtbl4q_u8(bias[0], group));
            uint8x16_t fine = vcgtq_u8(slot, vbslq_u8(odd, last_coarse[1], last_coarse[0]));
            uint8x16_t twice = vandq_u8(vandq_u8(vaddq_u8(slot, slot), vdupq_n_u8(6)), fine);
            uint8x16_t run = vshrq_n_u8(vaddq_u8(vaddq_u8(to_run, slot), twice), 2);
            /* the run in its own row, 64 or more in the other one */
            uint8x16_t even_run = vorrq_u8(run, vandq_u8(odd, row)), odd_run = veorq_u8(even_run, row);
            uint8x16_t f = vqtbx4q_u8(vqtbl4q_u8(frequency[0], even_run), frequency[1], odd_run);
            uint8x16_t start = vqtbx4q_u8(vqtbl4q_u8(base[0], even_run), base[1], odd_run);
            uint8x16_t u = vqtbx4q_u8(vqtbl4q_u8(value[0], even_run), value[1], odd_run);
            uint8x16_t v = vqtbx4q_u8(vqtbl4q_u8(second[0], even_run), second[1], odd_run);
            wsic__neon_advance(f, vsubq_u8(slot, start), &high[j], &low[j], l);
            vst1q_u8(values + 16 * j, u);
            vst1q_u8(values + 64 + 16 * j, v);
            state[j] = wsic__neon_after_pair(state[j], odd, u, v);
        }
        values += 128;
    }
    for (j = 0; j < 4; j++) {
        vst1q_u8(l->high + 16 * j, high[j]);
        vst1q_u8(l->low + 16 * j, low[j]);
        vst1q_u8(states + 16 * j, state[j]);
    }
    return step;
}

/* Sums of four neighbouring products; u is below 128. */
static int32x4_t wsic__neon_fours(uint8x16_t u, int8x16_t a) {
    int8x16_t m = vreinterpretq_s8_u8(u);
#ifdef __ARM_FEATURE_DOTPROD
    return vdotq_s32(vdupq_n_s32(0), m, a);
#else
    int16x8_t first = vmull_s8(vget_low_s8(m), vget_low_s8(a)), second = vmull_high_s8(m, a);
    return vpaddq_s32(vpaddlq_s16(first), vpaddlq_s16(second));
#endif
}

/* Adds the products of the rows of a chunk with its k integers to `sums`, less `all`; the number of rows that are done. */
static inline uint32_t wsic__neon_dot(uint32_t k, uint32_t rows, const uint8_t *u, int32_t all, const int8_t *a,
                                      int32_t *sums) {
    uint32_t row, j;
    if (k == 64) {
        int8x16_t of_chunk[4];
        for (j = 0; j < 4; j++) of_chunk[j] = vld1q_s8(a + 16 * j);
        for (row = 0; row < rows; row++) {
            int32x4_t sum = vdupq_n_s32(0);
            for (j = 0; j < 4; j++)
                sum = vaddq_s32(sum, wsic__neon_fours(vld1q_u8(u + (size_t)64 * row + 16 * j), of_chunk[j]));
            sums[row] += vaddvq_s32(sum) - all;
        }
        return rows;
    }
    if (k == 16) {
        int8x16_t of_chunk = vld1q_s8(a);
        for (row = 0; row < rows; row++)
            sums[row] += vaddvq_s32(wsic__neon_fours(vld1q_u8(u + (size_t)16 * row), of_chunk)) - all;
        return rows;
    }
    {
        int32_t four;
        int8x16_t of_chunk;
        memcpy(&four, a, 4);
        of_chunk = vreinterpretq_s8_s32(vdupq_n_s32(four));
        for (row = 0; row + 4 <= rows; row += 4) {
            int32x4_t sum = wsic__neon_fours(vld1q_u8(u + (size_t)4 * row), of_chunk);
            vst1q_s32(sums + row, vaddq_s32(vld1q_s32(sums + row), vsubq_s32(sum, vdupq_n_s32(all))));
        }
        return row;
    }
}
