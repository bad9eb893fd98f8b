/* test_vectors.c - the C decoder on all test vectors, and on any payload.
 *
 *     test_vectors vectors DIR                  prints "N passed, N failed"; 1 if any failed
 *     test_vectors dump [--verify] [--limits ROWS,COLUMNS,MATRICES,TOTAL] FILE ...
 *                                               verdict of each payload; what it decodes to goes to FILE.decoded
 *     test_vectors multiply TERMS FILE ...      verdict of each payload; its products with a vector go to FILE.product
 *
 * Compile: cc -std=c99 -D_POSIX_C_SOURCE=200809L -O2 test_vectors.c -o test_vectors
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0 */
#define WSIC_IMPLEMENTATION
#include "wsic.h"

#include "gguf.h"
#include "wsic_multiply.h"

/* The four lists of one matrix (spec/vectors/README.md). */
typedef struct {
    char of[256]; /* "" or ":tensor" */
    uint32_t index, tiles, positions;
    uint8_t *lists[4];
    size_t sizes[4];
} result;

typedef struct {
    result *items;
    size_t count;
    char of[256];
} results;

static void *need(void *memory) {
    if (!memory) {
        fprintf(stderr, "out of memory\n");
        exit(2);
    }
    return memory;
}

static void put(result *r, int list, const void *bytes, size_t size) {
    r->lists[list] = need(realloc(r->lists[list], r->sizes[list] + size + 1));
    memcpy(r->lists[list] + r->sizes[list], bytes, size);
    r->sizes[list] += size;
}

/* The lists are little endian. */
static void put_words(result *r, int list, const void *words, size_t count) {
    uint8_t block[4096];
    size_t i, used = 0;
    for (i = 0; i < count; i++) {
        uint32_t word;
        memcpy(&word, (const uint8_t *)words + 4 * i, 4);
        block[used++] = (uint8_t)word;
        block[used++] = (uint8_t)(word >> 8);
        block[used++] = (uint8_t)(word >> 16);
        block[used++] = (uint8_t)(word >> 24);
        if (used == sizeof block) {
            put(r, list, block, used);
            used = 0;
        }
    }
    put(r, list, block, used);
}

static void collect(void *user, uint32_t index, const wsic_matrix *m, uint32_t first, uint32_t rows,
                    const int32_t *integers, const float *weights) {
    results *all = user;
    result *r;
    if (first == 0) {
        all->items = need(realloc(all->items, (all->count + 1) * sizeof *all->items));
        r = &all->items[all->count++];
        memset(r, 0, sizeof *r);
        memcpy(r->of, all->of, sizeof r->of);
        r->index = index;
        r->tiles = m->tiles;
        r->positions = m->positions;
        put_words(r, 0, m->inputs, m->positions);
        put_words(r, 1, m->scales, m->positions);
    }
    r = &all->items[all->count - 1];
    if (integers) put_words(r, 2, integers, (size_t)rows * m->positions);
    put_words(r, 3, weights, (size_t)rows * m->columns);
}

static void forget(results *all) {
    size_t i;
    int list;
    for (i = 0; i < all->count; i++)
        for (list = 0; list < 4; list++) free(all->items[i].lists[list]);
    free(all->items);
    memset(all, 0, sizeof *all);
}

static wsic_limits limits;

static int decode_payload(const uint8_t *bytes, size_t size, int verify, results *all) {
    size_t memory_size;
    uint8_t *memory;
    int error = wsic_decode_all_memory(bytes, size, &limits, &memory_size);
    if (error) return error;
    memory = need(malloc(memory_size + 1));
    /* from an odd address: memory need not be aligned */
    error = wsic_decode_all(bytes, size, &limits, verify, memory + 1, memory_size, collect, all);
    free(memory);
    return error;
}

static int decode_model(const char *path, int verify, results *all) {
    gguf_model model;
    size_t i;
    int error = gguf_open(path, 704, &model);
    for (i = 0; i < model.wsic_count && !error; i++) {
        const uint8_t *bytes = NULL;
        size_t size = 0, memory_size;
        wsic_payload payload;
        snprintf(all->of, sizeof all->of, ":%.*s", (int)model.wsic[i]->name.length,
                 (const char *)model.wsic[i]->name.bytes);
        error = gguf_find_payload(&model, model.wsic[i], &bytes, &size);
        if (!error) error = wsic_decode_all_memory(bytes, size, &limits, &memory_size);
        if (!error) error = wsic_open(bytes, size, &limits, &payload);
        if (!error) error = gguf_check_shape(model.wsic[i], &payload);
        if (!error) error = decode_payload(bytes, size, verify, all);
    }
    if (!error && verify) error = gguf_check_gaps(&model, 704);
    gguf_close(&model);
    return error;
}

static uint8_t *read_file(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    uint8_t *bytes = NULL;
    size_t room = 0, got;
    *size = 0;
    if (!file) return NULL;
    do {
        room = room * 2 + 4096;
        bytes = need(realloc(bytes, room));
        got = fread(bytes + *size, 1, room - *size - 1, file);
        *size += got;
    } while (got > 0);
    fclose(file);
    bytes[*size] = 0;
    return bytes;
}

static int ends_with(const char *text, const char *end) {
    size_t a = strlen(text), b = strlen(end);
    return a >= b && strcmp(text + a - b, end) == 0;
}

static int decode_path(const char *path, int verify, results *all) {
    size_t size;
    uint8_t *bytes, *exact;
    int error;
    memset(all, 0, sizeof *all);
    if (ends_with(path, ".gguf")) return decode_model(path, verify, all);
    bytes = read_file(path, &size);
    if (!bytes) {
        fprintf(stderr, "cannot read %s\n", path);
        exit(2);
    }
    exact = need(malloc(size ? size : 1)); /* so that the address sanitizer sees the end */
    memcpy(exact, bytes, size);
    free(bytes);
    error = decode_payload(exact, size, verify, all);
    free(exact);
    return error;
}

/* Cuts the next line into fields at tabs; returns the number of fields, 0 at the end. */
static int next_line(char **at, char **fields, int most) {
    int count = 0;
    char *p = *at;
    if (*p == 0) return 0;
    fields[count++] = p;
    for (; *p && *p != '\n'; p++) {
        if (*p == '\t' && count < most) {
            *p = 0;
            fields[count++] = p + 1;
        }
    }
    if (*p) *p++ = 0;
    *at = p;
    return count;
}

/* Compares what a valid vector decodes to with the lines of expected.tsv; returns the number of differences. */
static int compare(const char *name, const results *all, const char *expected) {
    size_t size, i, found = 0, wanted = 0;
    int bad = 0, list;
    char *text = (char *)read_file(expected, &size), *at = text, *fields[8];
    while (text && next_line(&at, fields, 8) == 8) {
        size_t length = strlen(name);
        if (strncmp(fields[0], name, length) != 0 || (fields[0][length] != 0 && fields[0][length] != ':')) continue;
        wanted++;
        for (i = 0; i < all->count; i++) {
            const result *r = &all->items[i];
            if (strcmp(r->of, fields[0] + length) != 0 || r->index != strtoul(fields[1], NULL, 10)) continue;
            found++;
            if (r->tiles != strtoul(fields[2], NULL, 10) || r->positions != strtoul(fields[3], NULL, 10)) {
                printf("%s matrix %u: %u tiles, %u positions\n", fields[0], r->index, r->tiles, r->positions);
                bad++;
            }
            for (list = 0; list < 4; list++) {
                static const char *const names[4] = {"inputs", "scales", "integers", "weights"};
                uint32_t crc = wsic_crc32c(r->lists[list], r->sizes[list]);
                if (crc == strtoul(fields[4 + list], NULL, 16)) continue;
                printf("%s matrix %u: %s differ: %08X, not %s\n", fields[0], r->index, names[list], crc,
                       fields[4 + list]);
                bad++;
            }
        }
    }
    free(text);
    if (found != wanted || found != all->count) {
        printf("%s: %u matrices, %u expected\n", name, (unsigned)all->count, (unsigned)wanted);
        bad++;
    }
    return bad;
}

/* Compares with NAME.expected, if it exists. */
static int compare_file(const char *path, const results *all) {
    char name[1024];
    size_t size, at = 0, i;
    uint8_t *bytes;
    int list, bad = 0;
    if (!ends_with(path, ".wsic")) return 0;
    snprintf(name, sizeof name, "%.*s.expected", (int)(strlen(path) - 5), path);
    bytes = read_file(name, &size);
    if (!bytes) return 0;
    for (i = 0; i < all->count; i++) {
        for (list = 0; list < 4; list++) {
            const result *r = &all->items[i];
            size_t length = r->sizes[list];
            if (length == 0) continue;
            if (size - at < length || memcmp(bytes + at, r->lists[list], length) != 0) bad = 1;
            else at += length;
        }
    }
    if (at != size) bad = 1;
    if (bad) printf("%s: differs from .expected\n", path);
    free(bytes);
    return bad;
}

static int run_vectors(const char *directory) {
    char path[1024], expected[1024], *fields[4], *at, *text;
    size_t size;
    unsigned passed = 0, failed = 0;
    snprintf(path, sizeof path, "%s/manifest.tsv", directory);
    snprintf(expected, sizeof expected, "%s/expected.tsv", directory);
    text = (char *)read_file(path, &size);
    if (!text) {
        fprintf(stderr, "cannot read %s\n", path);
        return 2;
    }
    at = text;
    next_line(&at, fields, 4);
    while (next_line(&at, fields, 4) == 4) {
        int level, bad = 0;
        for (level = 0; level < 2; level++) {
            results all;
            int error;
            snprintf(path, sizeof path, "%s/%s", directory, fields[0]);
            error = decode_path(path, level, &all);
            if (strcmp(wsic_error_name(error), fields[1 + level]) != 0) {
                printf("%s: %s says %s, not %s\n", fields[0], level ? "verifier" : "decoder", wsic_error_name(error),
                       fields[1 + level]);
                bad++;
            }
            if (!error && strncmp(fields[0], "valid/", 6) == 0) {
                bad += compare(fields[0], &all, expected);
                bad += compare_file(path, &all);
            }
            forget(&all);
        }
        if (bad) failed++;
        else passed++;
    }
    free(text);
    printf("%u passed, %u failed\n", passed, failed);
    return failed || !passed;
}

static int run_dump(int count, char **paths) {
    int i, verify = 0;
    for (i = 0; i < count; i++) {
        results all;
        int error;
        if (strcmp(paths[i], "--verify") == 0) {
            verify = 1;
            continue;
        }
        if (strcmp(paths[i], "--limits") == 0 && i + 1 < count) {
            unsigned long total;
            unsigned rows, columns, matrices;
            if (sscanf(paths[++i], "%u,%u,%u,%lu", &rows, &columns, &matrices, &total) != 4) return 2;
            limits.rows = rows;
            limits.columns = columns;
            limits.matrices = matrices;
            limits.total = total;
            continue;
        }
        error = decode_path(paths[i], verify, &all);
        if (!error) {
            char name[1024];
            size_t j;
            int list;
            FILE *file;
            snprintf(name, sizeof name, "%s.decoded", paths[i]);
            file = fopen(name, "wb");
            if (!file) {
                fprintf(stderr, "cannot write %s\n", name);
                return 2;
            }
            for (j = 0; j < all.count; j++)
                for (list = 0; list < 4; list++)
                    if (all.items[j].sizes[list]) fwrite(all.items[j].lists[list], 1, all.items[j].sizes[list], file);
            if (fclose(file) != 0) return 2;
        }
        printf("%s\t%s\n", paths[i], wsic_error_name(error));
        forget(&all);
    }
    return 0;
}

/* Products of all matrices with x[j] = (37 j mod 101 - 50) / 50, 40 times as large where 29 divides j. */
static int multiply_payload(const uint8_t *bytes, size_t size, uint32_t terms, result *r) {
    wsic_payload payload;
    size_t all;
    uint32_t index, j, tile;
    int error = wsic_decode_all_memory(bytes, size, &limits, &all); /* opens all matrices */
    if (!error) error = wsic_open(bytes, size, &limits, &payload);
    for (index = 0; !error && index < payload.matrices; index++) {
        wsic_matrix m;
        wsic_vector vector;
        size_t need_bytes, vector_bytes, scratch_bytes;
        void *memory, *prepared, *scratch;
        float *x = need(malloc(payload.columns * sizeof *x)), *y = need(calloc(payload.rows, sizeof *y));
        for (j = 0; j < payload.columns; j++) {
            x[j] = ((float)((uint64_t)37 * j % 101) - 50.0f) / 50.0f;
            if (j % 29 == 0) x[j] *= 40.0f;
        }
        error = wsic_matrix_memory(&payload, index, &need_bytes);
        memory = need(malloc(need_bytes + 1));
        if (!error) error = wsic_open_matrix(&payload, index, memory, need_bytes, &m);
        if (!error) {
            vector_bytes = wsic_vector_memory(&m, terms);
            scratch_bytes = wsic_multiply_memory(&m, terms);
            prepared = need(malloc(vector_bytes));
            scratch = need(malloc(scratch_bytes));
            error = wsic_prepare(&m, x, terms, prepared, vector_bytes, &vector);
            for (tile = 0; tile < m.tiles && !error; tile++)
                error = wsic_multiply_tile(&m, tile, &vector, scratch, scratch_bytes,
                                           y + (size_t)tile * m.rows_per_tile);
            if (!error) put_words(r, 0, y, payload.rows);
            free(prepared);
            free(scratch);
        }
        free(memory);
        free(x);
        free(y);
    }
    return error;
}

static int run_multiply(uint32_t terms, int count, char **paths) {
    int i;
    for (i = 0; i < count; i++) {
        size_t size;
        uint8_t *bytes = read_file(paths[i], &size);
        result r;
        int error;
        if (!bytes) {
            fprintf(stderr, "cannot read %s\n", paths[i]);
            return 2;
        }
        memset(&r, 0, sizeof r);
        error = multiply_payload(bytes, size, terms, &r);
        if (!error) {
            char name[1024];
            FILE *file;
            snprintf(name, sizeof name, "%s.product", paths[i]);
            file = fopen(name, "wb");
            if (!file) {
                fprintf(stderr, "cannot write %s\n", name);
                return 2;
            }
            if (r.sizes[0]) fwrite(r.lists[0], 1, r.sizes[0], file);
            if (fclose(file) != 0) return 2;
        }
        printf("%s\t%s\n", paths[i], wsic_error_name(error));
        free(r.lists[0]);
        free(bytes);
    }
    return 0;
}

int main(int count, char **arguments) {
    limits = wsic_default_limits;
    if (count == 3 && strcmp(arguments[1], "vectors") == 0) return run_vectors(arguments[2]);
    if (count >= 3 && strcmp(arguments[1], "dump") == 0) return run_dump(count - 2, arguments + 2);
    if (count >= 4 && strcmp(arguments[1], "multiply") == 0)
        return run_multiply((uint32_t)strtoul(arguments[2], NULL, 10), count - 3, arguments + 3);
    fprintf(stderr, "test_vectors vectors DIR | test_vectors multiply TERMS FILE ... | test_vectors dump [--verify] [--limits R,C,M,T] FILE ...\n");
    return 2;
}
