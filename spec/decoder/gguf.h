/* gguf.h - finds WSIC tensors in GGUF files (spec/FORMAT.md, section 2), for the programs beside it.
 *
 * A model is mapped into memory (POSIX); only its tables are allocated. Include it in one source file, after wsic.h.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0 */
#ifndef WSIC_GGUF_H
#define WSIC_GGUF_H

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { GGUF_U32 = 4, GGUF_STRING = 8, GGUF_ARRAY = 9, GGUF_U64 = 10, GGUF_DEEPEST = 8 /* levels of arrays */ };

typedef struct {
    const uint8_t *bytes;
    uint64_t length;
} gguf_string;

typedef struct {
    const uint8_t *bytes;
    size_t size, at;
    int failed; /* stays */
} gguf_reader;

/* A metadata value: where its content begins (behind the type, and for arrays behind element type and count). */
typedef struct {
    int present;
    uint32_t type, element;
    uint64_t count;
    size_t at;
} gguf_value;

typedef struct {
    gguf_string name;
    uint32_t dim_count, type;
    uint64_t dims[4], offset;
    uint32_t file;
    uint64_t listed; /* wsic.tensor_bytes */
    uint64_t length; /* of a WSIC tensor, once it is checked */
} gguf_tensor;

typedef struct {
    uint8_t *bytes;
    size_t size;
    uint64_t alignment, data_start;
    gguf_tensor *tensors;
    uint64_t *offsets; /* sorted */
    size_t tensor_count;
    gguf_value version, names, lengths, type_id, split_no, split_count, split_tensors;
} gguf_file;

typedef struct {
    gguf_file *files;
    uint32_t file_count;
    gguf_tensor **wsic; /* in order */
    size_t wsic_count;
} gguf_model;

static const uint8_t *gguf_take(gguf_reader *r, uint64_t count) {
    const uint8_t *bytes = r->bytes + r->at;
    if (r->failed || count > r->size - r->at) {
        r->failed = 1;
        return NULL;
    }
    r->at += (size_t)count;
    return bytes;
}

static uint32_t gguf_u32(gguf_reader *r) {
    const uint8_t *b = gguf_take(r, 4);
    return b ? (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24 : 0;
}

static uint64_t gguf_u64(gguf_reader *r) {
    uint64_t low = gguf_u32(r);
    return low | (uint64_t)gguf_u32(r) << 32;
}

static gguf_string gguf_read_string(gguf_reader *r) {
    gguf_string s;
    s.length = gguf_u64(r);
    s.bytes = gguf_take(r, s.length);
    if (!s.bytes) s.length = 0;
    return s;
}

static int gguf_compare(const void *a, const void *b) {
    const gguf_string *x = a, *y = b;
    uint64_t shorter = x->length < y->length ? x->length : y->length;
    int order = shorter ? memcmp(x->bytes, y->bytes, (size_t)shorter) : 0;
    return order ? order : (x->length > y->length) - (x->length < y->length);
}

static int gguf_compare_u64(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static int gguf_is(gguf_string s, const char *text) {
    return s.length == strlen(text) && memcmp(s.bytes, text, (size_t)s.length) == 0;
}

/* Sorts the strings; 1 if two are equal. */
static int gguf_twice(gguf_string *strings, size_t count) {
    size_t i;
    if (count > 1) qsort(strings, count, sizeof *strings, gguf_compare);
    for (i = 1; i < count; i++)
        if (gguf_compare(&strings[i - 1], &strings[i]) == 0) return 1;
    return 0;
}

static uint64_t gguf_scalar_size(uint32_t type) {
    static const uint8_t sizes[13] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return type < 13 ? sizes[type] : 0;
}

static int gguf_signed(uint32_t type) { return type == 1 || type == 3 || type == 5 || type == 11; }

static int gguf_unsigned(uint32_t type) { return type == 0 || type == 2 || type == GGUF_U32 || type == GGUF_U64; }

static gguf_value gguf_read_value(gguf_reader *r, uint32_t type, int depth) {
    gguf_value v;
    uint64_t i, each;
    memset(&v, 0, sizeof v);
    v.present = 1;
    v.type = type;
    v.at = r->at;
    if (type == GGUF_STRING) {
        gguf_read_string(r);
    } else if (type == GGUF_ARRAY && depth < GGUF_DEEPEST) {
        v.element = gguf_u32(r);
        v.count = gguf_u64(r);
        v.at = r->at;
        each = gguf_scalar_size(v.element);
        if (!each && v.element != GGUF_STRING && v.element != GGUF_ARRAY) r->failed = 1;
        if (each) {
            if (v.count > r->size / each) r->failed = 1;
            gguf_take(r, v.count * each);
        } else {
            for (i = 0; i < v.count && !r->failed; i++) gguf_read_value(r, v.element, depth + 1);
        }
    } else if (gguf_scalar_size(type)) {
        gguf_take(r, gguf_scalar_size(type));
    } else {
        r->failed = 1;
    }
    return v;
}

static uint64_t gguf_number(const gguf_file *f, const gguf_value *v, uint64_t absent) {
    uint64_t value = 0, size = gguf_scalar_size(v->type), i;
    if (!v->present || size == 0) return absent;
    for (i = 0; i < size; i++) value |= (uint64_t)f->bytes[v->at + i] << (8 * i);
    return value;
}

/* Whether a value is an integer of any type with this value. */
static int gguf_equals(const gguf_file *f, const gguf_value *v, uint64_t wanted) {
    uint64_t size = gguf_scalar_size(v->type);
    if (!v->present || !(gguf_unsigned(v->type) || gguf_signed(v->type))) return 0;
    if (gguf_signed(v->type) && f->bytes[v->at + size - 1] >> 7) return 0; /* negative */
    return gguf_number(f, v, 0) == wanted;
}

/* Memory for `count` elements of a list in a file of `size` bytes where each takes at least `least` bytes. */
static void *gguf_list(gguf_reader *r, uint64_t count, size_t least, size_t element) {
    if (count > r->size / least) r->failed = 1;
    return r->failed ? NULL : calloc((size_t)count + 1, element);
}

static int gguf_parse(gguf_file *f, uint32_t number) {
    gguf_reader r;
    gguf_value alignment;
    gguf_string *strings;
    uint64_t tensors, pairs, i;
    uint32_t version, d;
    const uint8_t *magic;
    int bad;
    memset(&r, 0, sizeof r);
    memset(&alignment, 0, sizeof alignment);
    r.bytes = f->bytes;
    r.size = f->size;
    magic = gguf_take(&r, 4);
    if (!magic || memcmp(magic, "GGUF", 4) != 0) return WSIC_BAD_CONTAINER;
    version = gguf_u32(&r);
    if (version != 2 && version != 3) return WSIC_BAD_CONTAINER;
    tensors = gguf_u64(&r);
    pairs = gguf_u64(&r);
    strings = gguf_list(&r, pairs, 12, sizeof *strings);
    if (!strings) return WSIC_BAD_CONTAINER;
    for (i = 0; i < pairs && !r.failed; i++) {
        gguf_string key = strings[i] = gguf_read_string(&r);
        gguf_value v = gguf_read_value(&r, gguf_u32(&r), 0);
        if (gguf_is(key, "general.alignment")) alignment = v;
        if (gguf_is(key, "wsic.version")) f->version = v;
        if (gguf_is(key, "wsic.tensor_names")) f->names = v;
        if (gguf_is(key, "wsic.tensor_bytes")) f->lengths = v;
        if (gguf_is(key, "wsic.type_id")) f->type_id = v;
        if (gguf_is(key, "split.no")) f->split_no = v;
        if (gguf_is(key, "split.count")) f->split_count = v;
        if (gguf_is(key, "split.tensors.count")) f->split_tensors = v;
    }
    bad = r.failed || gguf_twice(strings, (size_t)pairs);
    free(strings);
    if (bad) return WSIC_BAD_CONTAINER;
    f->alignment = gguf_number(f, &alignment, 32);
    if (alignment.present && alignment.type != GGUF_U32) return WSIC_BAD_CONTAINER;
    if (f->alignment == 0 || (f->alignment & (f->alignment - 1)) != 0) return WSIC_BAD_CONTAINER;
    f->tensors = gguf_list(&r, tensors, 24, sizeof *f->tensors);
    if (!f->tensors) return WSIC_BAD_CONTAINER;
    strings = calloc((size_t)tensors + 1, sizeof *strings);
    f->offsets = calloc((size_t)tensors + 1, sizeof *f->offsets);
    if (!strings || !f->offsets) r.failed = 1;
    for (i = 0; i < tensors && !r.failed; i++) {
        gguf_tensor *t = &f->tensors[i];
        t->name = strings[i] = gguf_read_string(&r);
        t->dim_count = gguf_u32(&r);
        t->file = number;
        if (t->dim_count > 4) r.failed = 1;
        for (d = 0; d < 4 && d < t->dim_count; d++) t->dims[d] = gguf_u64(&r);
        t->type = gguf_u32(&r);
        t->offset = f->offsets[i] = gguf_u64(&r);
    }
    bad = r.failed || gguf_twice(strings, (size_t)tensors);
    free(strings);
    if (bad) return WSIC_BAD_CONTAINER;
    f->tensor_count = (size_t)tensors;
    if (tensors > 1) qsort(f->offsets, (size_t)tensors, sizeof *f->offsets, gguf_compare_u64);
    f->data_start = ((uint64_t)r.at + f->alignment - 1) / f->alignment * f->alignment;
    return WSIC_OK;
}

static int gguf_map(const char *path, gguf_file *f) {
    struct stat about;
    int handle = open(path, O_RDONLY);
    void *bytes = NULL;
    memset(f, 0, sizeof *f);
    if (handle < 0) return WSIC_BAD_CONTAINER;
    if (fstat(handle, &about) == 0 && about.st_size > 0)
        bytes = mmap(NULL, (size_t)about.st_size, PROT_READ, MAP_PRIVATE, handle, 0);
    close(handle);
    if (!bytes || bytes == MAP_FAILED) return WSIC_BAD_CONTAINER;
    f->bytes = bytes;
    f->size = (size_t)about.st_size;
    return WSIC_OK;
}

static void gguf_close(gguf_model *model) {
    uint32_t i;
    for (i = 0; model->files && i < model->file_count; i++) {
        if (model->files[i].bytes) munmap(model->files[i].bytes, model->files[i].size);
        free(model->files[i].tensors);
        free(model->files[i].offsets);
    }
    free(model->files);
    free(model->wsic);
    memset(model, 0, sizeof *model);
}

/* Whether the files of a model belong together: their split.* keys, and no tensor name twice. */
static int gguf_check_files(const gguf_model *model) {
    gguf_string *names;
    uint64_t tensors = 0;
    uint32_t n;
    size_t i;
    int bad = 0;
    if (model->file_count == 1) return WSIC_OK;
    for (n = 0; n < model->file_count; n++) tensors += model->files[n].tensor_count;
    names = calloc((size_t)tensors + 1, sizeof *names);
    if (!names) return WSIC_NO_MEMORY;
    tensors = 0;
    for (n = 0; n < model->file_count; n++)
        for (i = 0; i < model->files[n].tensor_count; i++) names[tensors++] = model->files[n].tensors[i].name;
    for (n = 0; n < model->file_count; n++) {
        const gguf_file *f = &model->files[n];
        if (!gguf_equals(f, &f->split_no, n) || !gguf_equals(f, &f->split_count, model->file_count) ||
            !gguf_equals(f, &f->split_tensors, tensors))
            bad = 1;
    }
    if (gguf_twice(names, (size_t)tensors)) bad = 1;
    free(names);
    return bad ? WSIC_BAD_CONTAINER : WSIC_OK;
}

/* Check 1. */
static int gguf_check_metadata(gguf_model *model, uint32_t type_id) {
    const gguf_file *f = &model->files[0];
    gguf_reader r;
    size_t i;
    if (model->wsic_count == 0) return WSIC_OK;
    if (!f->version.present || f->version.type != GGUF_U32) return WSIC_METADATA_MISMATCH;
    if (f->names.type != GGUF_ARRAY || f->names.element != GGUF_STRING) return WSIC_METADATA_MISMATCH;
    if (f->lengths.type != GGUF_ARRAY || f->lengths.element != GGUF_U64) return WSIC_METADATA_MISMATCH;
    if (f->names.count != model->wsic_count || f->lengths.count != model->wsic_count) return WSIC_METADATA_MISMATCH;
    memset(&r, 0, sizeof r);
    r.bytes = f->bytes;
    r.size = f->size;
    r.at = f->names.at;
    for (i = 0; i < model->wsic_count; i++) {
        gguf_string name = gguf_read_string(&r);
        if (gguf_compare(&name, &model->wsic[i]->name) != 0) return WSIC_METADATA_MISMATCH;
    }
    r.at = f->lengths.at;
    for (i = 0; i < model->wsic_count; i++) model->wsic[i]->listed = gguf_u64(&r);
    if (gguf_number(f, &f->version, 0) != 1) return WSIC_UNSUPPORTED_VERSION;
    if (f->type_id.present && (f->type_id.type != GGUF_U32 || gguf_number(f, &f->type_id, 0) != type_id))
        return WSIC_UNSUPPORTED_FEATURE;
    return WSIC_OK;
}

/* Opens a model of one or more files; `path` is the first one. gguf_close is due in any case. */
static int gguf_open(const char *path, uint32_t type_id, gguf_model *model) {
    static const char mark_form[] = "-00001-of-%05u.gguf";
    char mark[40], *sibling;
    gguf_file first;
    size_t length = strlen(path), mark_length, i;
    uint64_t count;
    uint32_t n;
    int error;
    memset(model, 0, sizeof *model);
    error = gguf_map(path, &first);
    if (!error) error = gguf_parse(&first, 0);
    count = error ? 1 : gguf_number(&first, &first.split_count, 1);
    if (first.split_count.present && !gguf_unsigned(first.split_count.type)) error = WSIC_BAD_CONTAINER;
    if (count > 99999) error = WSIC_BAD_CONTAINER;
    if (count < 1 || error) count = 1;
    model->files = calloc((size_t)count, sizeof *model->files);
    if (!model->files) return WSIC_NO_MEMORY;
    model->files[0] = first;
    model->file_count = 1;
    if (error) return error;
    mark_length = (size_t)snprintf(mark, sizeof mark, mark_form, (unsigned)count);
    if (count > 1 && (length < mark_length || strcmp(path + length - mark_length, mark) != 0))
        return WSIC_BAD_CONTAINER;
    for (n = 1; n < count; n++) {
        sibling = malloc(length + 1);
        if (!sibling) return WSIC_NO_MEMORY;
        memcpy(sibling, path, length + 1);
        snprintf(sibling + length - mark_length, mark_length + 1, "-%05u-of-%05u.gguf", (unsigned)(n + 1),
                 (unsigned)count);
        error = gguf_map(sibling, &model->files[n]);
        free(sibling);
        model->file_count = n + 1;
        if (!error) error = gguf_parse(&model->files[n], n);
        if (error) return error;
    }
    error = gguf_check_files(model);
    if (error) return error;
    for (n = 0; n < model->file_count; n++)
        for (i = 0; i < model->files[n].tensor_count; i++) model->wsic_count += model->files[n].tensors[i].type == type_id;
    model->wsic = calloc(model->wsic_count + 1, sizeof *model->wsic);
    if (!model->wsic) return WSIC_NO_MEMORY;
    model->wsic_count = 0;
    for (n = 0; n < model->file_count; n++)
        for (i = 0; i < model->files[n].tensor_count; i++)
            if (model->files[n].tensors[i].type == type_id)
                model->wsic[model->wsic_count++] = &model->files[n].tensors[i];
    return gguf_check_metadata(model, type_id);
}

/* Number of tensors of the file that begin before `offset`. */
static size_t gguf_before(const gguf_file *f, uint64_t offset) {
    size_t low = 0, high = f->tensor_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (f->offsets[middle] < offset) low = middle + 1;
        else high = middle;
    }
    return low;
}

/* Bytes of a tensor of one of ggml's types, at most UINT64_MAX / 2; 0 if the type is not known here. */
static int gguf_plain_length(const gguf_tensor *t, uint64_t *length) {
    static const uint16_t blocks[40][2] = {
        {1, 4},     {1, 2},    {32, 18},  {32, 20},  {0, 0},    {0, 0},   {32, 22},  {32, 24},   {32, 34},   {32, 36},
        {256, 84},  {256, 110}, {256, 144}, {256, 176}, {256, 210}, {256, 292}, {256, 66}, {256, 74}, {256, 98}, {256, 50},
        {32, 18},   {256, 110}, {256, 82}, {256, 136}, {1, 1},   {1, 2},   {1, 4},    {1, 8},     {1, 8},     {256, 56},
        {1, 2},     {0, 0},    {0, 0},    {0, 0},    {256, 54}, {256, 66}, {0, 0},   {0, 0},     {0, 0},     {32, 17}};
    uint64_t count = 1;
    uint32_t d;
    if (t->type >= 40 || blocks[t->type][0] == 0) return 0;
    for (d = 0; d < t->dim_count; d++) {
        if (t->dims[d] != 0 && count > UINT64_MAX / 1024 / t->dims[d]) {
            *length = UINT64_MAX / 2; /* more than any file has */
            return 1;
        }
        count *= t->dims[d];
    }
    *length = count / blocks[t->type][0] * blocks[t->type][1];
    return 1;
}

/* Whether a tensor of a type with fixed block size begins before `offset` and reaches beyond it. */
static int gguf_reached(const gguf_file *f, uint64_t offset) {
    size_t i;
    for (i = 0; i < f->tensor_count; i++) {
        const gguf_tensor *t = &f->tensors[i];
        uint64_t length;
        if (t->offset < offset && gguf_plain_length(t, &length) && length > offset - t->offset) return 1;
    }
    return 0;
}

/* Checks 2 to 6 of a WSIC tensor, the payload header of check 7; the matrices are for the caller to open, then
 * check 8 with gguf_check_shape. */
static int gguf_find_payload(const gguf_model *model, gguf_tensor *t, const uint8_t **bytes, size_t *size) {
    const gguf_file *f = &model->files[t->file];
    uint64_t left, length;
    int error;
    if (t->dim_count != 2 && t->dim_count != 3) return WSIC_SHAPE_MISMATCH;
    if (t->offset % f->alignment != 0) return WSIC_BAD_CONTAINER;
    if (f->data_start > f->size || t->offset > f->size - f->data_start) return WSIC_BAD_CONTAINER;
    left = f->size - f->data_start - t->offset;
    *bytes = f->bytes + (size_t)(f->data_start + t->offset);
    error = wsic_announced_length(*bytes, (size_t)left, &length);
    if (error) return error;
    if (length > left) return WSIC_TRUNCATED;
    if (length != t->listed) return WSIC_METADATA_MISMATCH;
    if (gguf_before(f, t->offset + length) - gguf_before(f, t->offset) > (length > 0)) return WSIC_BAD_CONTAINER;
    if (gguf_reached(f, t->offset)) return WSIC_BAD_CONTAINER;
    *size = (size_t)length;
    t->length = length;
    return WSIC_OK;
}

static int gguf_check_shape(const gguf_tensor *t, const wsic_payload *payload) {
    uint64_t matrices = t->dim_count == 3 ? t->dims[2] : 1;
    return t->dims[0] == payload->columns && t->dims[1] == payload->rows && matrices == payload->matrices
               ? WSIC_OK
               : WSIC_SHAPE_MISMATCH;
}

/* The last check of a verifier: no gaps between tensors, padding of zeros, and no tensor cut off. */
static int gguf_check_gaps(const gguf_model *model, uint32_t type_id) {
    uint32_t n;
    size_t i;
    for (n = 0; n < model->file_count; n++) {
        const gguf_file *f = &model->files[n];
        uint64_t expected = 0, end = 0, at, data = f->data_start < f->size ? f->size - f->data_start : 0;
        int known = 1;
        for (i = 0; i < f->tensor_count; i++) {
            const gguf_tensor *t = &f->tensors[i];
            uint64_t length = t->length;
            if (known) {
                if (t->offset != expected || f->data_start > f->size || t->offset > data) return WSIC_BAD_CONTAINER;
                for (at = end; at < expected; at++)
                    if (f->bytes[f->data_start + at] != 0) return WSIC_BAD_CONTAINER;
            }
            known = t->type == type_id || gguf_plain_length(t, &length);
            if (!known) continue;
            if (t->offset > data || length > data - t->offset) return WSIC_BAD_CONTAINER;
            end = t->offset + length;
            expected = (end + f->alignment - 1) / f->alignment * f->alignment;
        }
    }
    return WSIC_OK;
}

#endif
