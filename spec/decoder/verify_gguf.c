/* verify_gguf.c - verifies all WSIC tensors of a GGUF file, or decodes one of them.
 *
 *     verify_gguf FILE.gguf                    the checks of a verifier (sections 2 and 9)
 *     verify_gguf FILE.gguf TENSOR OUT.f32     weights, binary32 in the byte order of the machine, row by row
 *
 * Compile: cc -std=c99 -D_POSIX_C_SOURCE=200809L -O2 verify_gguf.c -o verify_gguf
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0 */
#define WSIC_IMPLEMENTATION
#include "wsic.h"

#include <time.h>

#include "gguf.h"

/* Processor time, so that a busy machine does not change the figures. */
static double now(void) { return (double)clock() / CLOCKS_PER_SEC; }

static void write_weights(void *user, uint32_t index, const wsic_matrix *m, uint32_t first, uint32_t rows,
                          const int32_t *integers, const float *weights) {
    (void)index, (void)first, (void)integers;
    if (user) fwrite(weights, sizeof *weights, (size_t)rows * m->columns, user);
}

static int one_tensor(gguf_model *model, gguf_tensor *t, int verify, FILE *out, double *weights) {
    const uint8_t *bytes = NULL;
    size_t size = 0, memory_size = 0;
    wsic_payload payload;
    void *memory;
    int error = gguf_find_payload(model, t, &bytes, &size);
    if (!error) error = wsic_decode_all_memory(bytes, size, NULL, &memory_size);
    if (!error) error = wsic_open(bytes, size, NULL, &payload);
    if (!error) error = gguf_check_shape(t, &payload);
    if (error) return error;
    memory = malloc(memory_size ? memory_size : 1);
    error = wsic_decode_all(bytes, size, NULL, verify, memory, memory_size, write_weights, out);
    free(memory);
    *weights += (double)payload.rows * payload.columns * payload.matrices;
    return error;
}

int main(int count, char **arguments) {
    gguf_model model;
    double start = now(), weights = 0, bytes = 0, seconds;
    const char *tensor = count == 4 ? arguments[2] : NULL;
    FILE *out = NULL;
    size_t i, done = 0;
    int error;
    if (count != 2 && count != 4) {
        fprintf(stderr, "verify_gguf FILE.gguf [TENSOR OUT.f32]\n");
        return 2;
    }
    error = gguf_open(arguments[1], 704, &model);
    if (!error && tensor) {
        out = fopen(arguments[3], "wb");
        if (!out) {
            fprintf(stderr, "cannot write %s\n", arguments[3]);
            return 2;
        }
    }
    for (i = 0; i < model.wsic_count && !error; i++) {
        gguf_tensor *t = model.wsic[i];
        if (tensor && !gguf_is(t->name, tensor)) continue;
        error = one_tensor(&model, t, !tensor, out, &weights);
        if (error) fprintf(stderr, "%.*s: ", (int)t->name.length, (const char *)t->name.bytes);
        bytes += (double)t->length;
        done++;
    }
    if (!error && !tensor) error = gguf_check_gaps(&model, 704);
    if (out && fclose(out) != 0) error = WSIC_NO_MEMORY;
    gguf_close(&model);
    if (error) {
        fprintf(stderr, "%s\n", wsic_error_name(error));
        return 1;
    }
    if (tensor && !done) {
        fprintf(stderr, "no WSIC tensor %s\n", tensor);
        return 1;
    }
    seconds = now() - start;
    printf("%u tensors, %.0f weights in %.0f bytes are good: %.2f s of processor time, %.1f million weights/s, %.1f MB/s\n",
           (unsigned)done, weights, bytes, seconds, weights / seconds / 1e6, bytes / seconds / 1e6);
    return 0;
}
