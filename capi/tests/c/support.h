/* What the C tests share: buffers that notice accesses out of bounds, files. */
#ifndef SUPPORT_H
#define SUPPORT_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "wsic.h"

#define REQUIRE(condition)                                                        \
    do {                                                                          \
        if (!(condition)) {                                                       \
            fprintf(stderr, "%s:%d: not %s\n", __FILE__, __LINE__, #condition);   \
            exit(1);                                                              \
        }                                                                         \
    } while (0)

typedef struct {
    void *data;
    size_t size;
    void *pages;
    size_t page_bytes;
} Buffer;

/* With `GUARD` in the environment the buffer ends at a page that cannot be touched; else it is from malloc, whose
 * bounds valgrind and the address sanitizer watch. It is filled with the byte `FILL` (a number), so that results which
 * depend on what was there differ between runs. (Left undefined, scratch makes valgrind complain without cause: kernels
 * multiply rows that do not exist along with those that do, and valgrind does not tell lanes of a product apart.) */
static Buffer buffer_new(size_t size) {
    Buffer buffer = {NULL, size, NULL, 0};
    int fill = getenv("FILL") != NULL ? atoi(getenv("FILL")) : 0xA5;
    if (getenv("GUARD") == NULL) {
        buffer.data = malloc(size > 0 ? size : 1);
        REQUIRE(buffer.data != NULL);
        memset(buffer.data, fill, size);
        return buffer;
    }
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t used = (size + page - 1) / page * page;
    buffer.page_bytes = used + page;
    buffer.pages = mmap(NULL, buffer.page_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(buffer.pages != MAP_FAILED);
    REQUIRE(mprotect((char *)buffer.pages + used, page, PROT_NONE) == 0);
    buffer.data = (char *)buffer.pages + (used - size);
    memset(buffer.data, fill, size);
    return buffer;
}

static void buffer_free(Buffer buffer) {
    if (buffer.pages != NULL) {
        munmap(buffer.pages, buffer.page_bytes);
    } else {
        free(buffer.data);
    }
}

static Buffer buffer_of_file(const char *path) {
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        perror(path);
        exit(1);
    }
    REQUIRE(fseek(file, 0, SEEK_END) == 0);
    long size = ftell(file);
    REQUIRE(size >= 0);
    rewind(file);
    Buffer buffer = buffer_new((size_t)size);
    REQUIRE(fread(buffer.data, 1, buffer.size, file) == buffer.size);
    fclose(file);
    return buffer;
}

#endif
