/* The C decoder under other names (the C ABI has functions of the same ones), and what the fuzz target needs of it. */
#define wsic_error_name spec_error_name
#define wsic_default_limits spec_default_limits
#define wsic_announced_length spec_announced_length
#define wsic_open spec_open
#define wsic_matrix_memory spec_matrix_memory
#define wsic_open_matrix spec_open_matrix
#define wsic_rows_in spec_rows_in
#define wsic_verify_tile spec_verify_tile
#define wsic_decode_tile spec_decode_tile
#define wsic_reconstruct spec_reconstruct
#define wsic_dequantize_rows spec_dequantize_rows
#define wsic_decode_all_memory spec_decode_all_memory
#define wsic_decode_all spec_decode_all
#define wsic_crc32c spec_crc32c
#define WSIC_IMPLEMENTATION
#include "wsic.h"

#ifdef COUNT_PLACES
/* gcc calls a function from each block. libFuzzer's function of that name only complains, so the name gets another
 * meaning in this file: one counter for each place, in the section that libFuzzer looks for. */
#define COUNTERS 16384
__attribute__((section("__libfuzzer_extra_counters"), used)) static uint8_t counters[COUNTERS];

__attribute__((no_sanitize_coverage, noinline, used)) static void count_place(void) {
    uintptr_t place = (uintptr_t)__builtin_return_address(0) - (uintptr_t)&counters;
    counters[(place ^ place >> 14) % COUNTERS]++;
}

__asm__(".set __sanitizer_cov_trace_pc, count_place");
#endif

const uint32_t *spec_inputs(const wsic_matrix *matrix, uint32_t *count) {
    *count = matrix->positions;
    return matrix->inputs;
}

const float *spec_scales(const wsic_matrix *matrix) { return matrix->scales; }

/* Weights of some rows of matrix `index`. `memory` is enough for any of the matrices up to that one. */
int spec_rows(const uint8_t *bytes, size_t size, const wsic_limits *limits, uint32_t index, void *memory,
              size_t memory_size, uint32_t first, uint32_t count, int32_t *scratch, size_t scratch_length,
              float *weights, size_t weights_length) {
    wsic_payload payload;
    wsic_matrix matrix;
    uint32_t i;
    int error = wsic_open(bytes, size, limits, &payload);
    for (i = 0; i <= index && !error; i++) {
        size_t needed;
        error = wsic_matrix_memory(&payload, i, &needed);
        if (!error && needed > memory_size) return WSIC_NO_MEMORY;
        if (!error) error = wsic_open_matrix(&payload, i, memory, needed, &matrix);
    }
    if (error) return error;
    return wsic_dequantize_rows(&matrix, first, count, scratch, scratch_length, weights, weights_length);
}
