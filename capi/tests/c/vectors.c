/* Opens, checks and multiplies payloads through the C interface. For each file of the command line one line:
 *     decoder's verdict, verifier's verdict
 * and, if both are ok, one for each matrix:
 *     CRCs of stream inputs, stream scales, integers, weights and of the product with x[c] = (37 c mod 101) - 50
 */
#include "support.h"

/* CRC-32C, as the expected results of the test vectors have it. */
static uint32_t crc32c(const void *data, size_t size) {
    const uint8_t *bytes = data;
    uint32_t crc = 0xFFFFFFFFu;
    for (size_t i = 0; i < size; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++) {
            crc = (crc >> 1) ^ ((crc & 1u) != 0 ? 0x82F63B78u : 0u);
        }
    }
    return ~crc;
}

static wsic_status visit(const wsic_tensor *tensor, size_t matrices, bool verify) {
    for (size_t m = 0; m < matrices; m++) {
        wsic_layout layout;
        wsic_shape shape;
        REQUIRE(wsic_matrix_layout(tensor, m, &layout) == WSIC_STATUS_OK);
        REQUIRE(wsic_tensor_shape(tensor, &shape) == WSIC_STATUS_OK);
        size_t rows = (size_t)shape.rows, tile = (size_t)layout.rows_per_tile, scratch_bytes;
        REQUIRE(wsic_rows_scratch(tensor, m, &scratch_bytes) == WSIC_STATUS_OK);
        Buffer scratch = buffer_new(scratch_bytes);
        wsic_status status = WSIC_STATUS_OK;
        for (size_t begin = 0; begin < rows && status == WSIC_STATUS_OK; begin += tile) {
            size_t end = rows - begin < tile ? rows : begin + tile;
            size_t length = (end - begin) * (size_t)layout.stream_length;
            Buffer integers = buffer_new(length * sizeof(int32_t));
            wsic_error error;
            memset(&error, 0x55, sizeof error);
            if (verify) {
                status = wsic_verify_rows(tensor, m, begin, end, &error);
            }
            if (status == WSIC_STATUS_OK) {
                status = wsic_decode_rows(tensor, m, begin, end, integers.data, length, scratch.data, scratch.size,
                                          &error);
            }
            if (status != WSIC_STATUS_OK) {
                REQUIRE(error.status == status && error.offset > 0);
                REQUIRE(memchr(error.message, 0, sizeof error.message) != NULL);
            }
            buffer_free(integers);
        }
        buffer_free(scratch);
        if (status != WSIC_STATUS_OK) {
            return status;
        }
    }
    return WSIC_STATUS_OK;
}

static wsic_status verdict(Buffer bytes, bool verify) {
    wsic_tensor *tensor = NULL;
    wsic_status status = wsic_open(bytes.data, bytes.size, NULL, NULL, &tensor, NULL);
    if (status != WSIC_STATUS_OK) {
        REQUIRE(tensor == NULL);
        return status;
    }
    wsic_shape shape;
    REQUIRE(wsic_tensor_shape(tensor, &shape) == WSIC_STATUS_OK);
    status = visit(tensor, (size_t)shape.matrices, verify);
    wsic_close(tensor);
    return status;
}

typedef wsic_status Prepare(const wsic_tensor *, size_t, const float *, size_t, size_t, uint8_t *, size_t,
                            const wsic_activations **, wsic_error *);

/* The product of all rows with a vector; also checks the product of a batch, cut into parts, against it. */
static uint32_t product_of(const wsic_tensor *tensor, size_t m, size_t rows, size_t columns, Prepare *prepare) {
    enum { BATCH = 11, PARTS = 3 };
    Buffer x = buffer_new(BATCH * columns * sizeof(float));
    for (size_t b = 0; b < BATCH; b++) {
        for (size_t c = 0; c < columns; c++) {
            ((float *)x.data)[b * columns + c] = (float)((int)(37 * (c + b) % 101) - 50);
        }
    }
    size_t bytes;
    const wsic_activations *one, *all;
    REQUIRE(wsic_activation_bytes(tensor, m, 1, &bytes) == WSIC_STATUS_OK);
    Buffer first = buffer_new(bytes);
    REQUIRE(prepare(tensor, m, x.data, columns, 1, first.data, first.size, &one, NULL) == WSIC_STATUS_OK);
    REQUIRE(wsic_activation_bytes(tensor, m, BATCH, &bytes) == WSIC_STATUS_OK);
    Buffer whole = buffer_new(bytes);
    REQUIRE(prepare(tensor, m, x.data, BATCH * columns, BATCH, whole.data, whole.size, &all, NULL) ==
            WSIC_STATUS_OK);
    REQUIRE(wsic_product_scratch(tensor, m, BATCH, &bytes) == WSIC_STATUS_OK);
    Buffer scratch = buffer_new(bytes);
    Buffer y = buffer_new(rows * sizeof(float));
    REQUIRE(wsic_matvec(tensor, m, 0, rows, one, y.data, rows, scratch.data, scratch.size, NULL) == WSIC_STATUS_OK);

    size_t stride = rows + 3;
    Buffer ys = buffer_new(((BATCH - 1) * stride + rows) * sizeof(float));
    float *results = ys.data;
    for (size_t i = 0; i < ys.size / sizeof(float); i++) {
        results[i] = 12345.0f;
    }
    for (size_t part = 0; part < PARTS; part++) {
        size_t begin, end;
        REQUIRE(wsic_split_rows(tensor, m, part, PARTS, &begin, &end) == WSIC_STATUS_OK);
        REQUIRE(wsic_matmul(tensor, m, begin, end, all, results + begin, (BATCH - 1) * stride + end - begin, stride,
                            scratch.data, scratch.size, NULL) == WSIC_STATUS_OK);
    }
    REQUIRE(memcmp(results, y.data, rows * sizeof(float)) == 0);
    for (size_t b = 1; b < BATCH; b++) {
        for (size_t r = rows; r < stride; r++) {
            REQUIRE(results[(b - 1) * stride + r] == 12345.0f);
        }
        REQUIRE(prepare(tensor, m, (float *)x.data + b * columns, columns, 1, first.data, first.size, &one,
                             NULL) == WSIC_STATUS_OK);
        Buffer again = buffer_new(rows * sizeof(float));
        REQUIRE(wsic_matvec(tensor, m, 0, rows, one, again.data, rows, scratch.data, scratch.size, NULL) ==
                WSIC_STATUS_OK);
        REQUIRE(memcmp(again.data, results + b * stride, rows * sizeof(float)) == 0);
        buffer_free(again);
    }
    uint32_t crc = crc32c(y.data, y.size);
    buffer_free(ys);
    buffer_free(y);
    buffer_free(scratch);
    buffer_free(whole);
    buffer_free(first);
    buffer_free(x);
    return crc;
}

static uint32_t product(const wsic_tensor *tensor, size_t m, size_t rows, size_t columns) {
    product_of(tensor, m, rows, columns, wsic_prepare_mixed);
    return product_of(tensor, m, rows, columns, wsic_prepare);
}

static void print_matrix(const wsic_tensor *tensor, size_t m, const wsic_shape *shape) {
    wsic_layout layout;
    REQUIRE(wsic_matrix_layout(tensor, m, &layout) == WSIC_STATUS_OK);
    size_t rows = (size_t)shape->rows, columns = (size_t)shape->columns, width = (size_t)layout.stream_length, bytes;
    REQUIRE(wsic_rows_scratch(tensor, m, &bytes) == WSIC_STATUS_OK);
    Buffer scratch = buffer_new(bytes);
    Buffer integers = buffer_new(rows * width * sizeof(int32_t));
    Buffer weights = buffer_new(rows * columns * sizeof(float));
    REQUIRE(wsic_decode_rows(tensor, m, 0, rows, integers.data, rows * width, scratch.data, scratch.size, NULL) ==
            WSIC_STATUS_OK);
    REQUIRE(wsic_dequantize_rows(tensor, m, 0, rows, weights.data, rows * columns, scratch.data, scratch.size, NULL) ==
            WSIC_STATUS_OK);
    uint32_t wanted[5];
    Buffer some = buffer_new(5 * columns * sizeof(float));
    for (size_t i = 0; i < 5; i++) {
        wanted[i] = (uint32_t)(i * 61 % rows);
    }
    REQUIRE(wsic_get_rows(tensor, m, wanted, 5, some.data, 5 * columns, scratch.data, scratch.size, NULL) ==
            WSIC_STATUS_OK);
    for (size_t i = 0; i < 5; i++) {
        REQUIRE(memcmp((float *)some.data + i * columns, (float *)weights.data + wanted[i] * columns,
                       columns * sizeof(float)) == 0);
    }
    printf("%08X %08X %08X %08X %08X\n", crc32c(layout.stream_inputs, width * sizeof(uint32_t)),
           crc32c(layout.stream_scales, width * sizeof(float)), crc32c(integers.data, integers.size),
           crc32c(weights.data, weights.size), product(tensor, m, rows, columns));
    buffer_free(some);
    buffer_free(weights);
    buffer_free(integers);
    buffer_free(scratch);
}

int main(int count, char **paths) {
    for (int i = 1; i < count; i++) {
        Buffer bytes = buffer_of_file(paths[i]);
        wsic_status decoder = verdict(bytes, false), verifier = verdict(bytes, true);
        printf("%s %s\n", wsic_status_name(decoder), wsic_status_name(verifier));
        wsic_tensor *tensor;
        if (verifier == WSIC_STATUS_OK && wsic_open(bytes.data, bytes.size, NULL, NULL, &tensor, NULL) == WSIC_STATUS_OK) {
            wsic_shape shape;
            uint64_t announced;
            REQUIRE(wsic_announced_length(bytes.data, bytes.size, &announced) == WSIC_STATUS_OK);
            REQUIRE(announced == bytes.size);
            REQUIRE(wsic_tensor_shape(tensor, &shape) == WSIC_STATUS_OK);
            for (size_t m = 0; m < shape.matrices; m++) {
                print_matrix(tensor, m, &shape);
            }
            wsic_close(tensor);
        }
        buffer_free(bytes);
    }
    return 0;
}
