/* Calls that are wrong, each with the status it has to give. The argument is a payload of at least two tiles. */
#include "support.h"

#define REFUSED(wanted, call)                                                                       \
    do {                                                                                            \
        error.status = WSIC_STATUS_OK;                                                              \
        error.message[0] = 0;                                                                       \
        wsic_status got = (call);                                                                   \
        if (got != (wanted) || error.status != got || error.message[0] == 0) {                      \
            fprintf(stderr, "%s:%d: %s gives %s: %s\n", __FILE__, __LINE__, #call, wsic_status_name(got), \
                    error.message);                                                                 \
            exit(1);                                                                                \
        }                                                                                           \
    } while (0)

static void *odd(void *pointer) {
    return (char *)pointer + 1;
}

int main(int count, char **arguments) {
    REQUIRE(count == 2);
    Buffer bytes = buffer_of_file(arguments[1]);
    Buffer original = buffer_of_file(arguments[1]);
    wsic_error error;
    wsic_limits limits;
    wsic_shape shape, wrong;
    wsic_layout layout;
    wsic_tensor *tensor = NULL, *second = NULL;
    size_t size, begin, end;
    uint64_t total;

    REQUIRE(wsic_abi_version() == WSIC_ABI_VERSION && strlen(wsic_version()) > 0);
    REQUIRE(strcmp(wsic_status_name(7), "bad-checksum") == 0 && strcmp(wsic_status_name(-5), "unknown") == 0);
    REQUIRE(strlen(wsic_status_text(7)) > 0 && strlen(wsic_status_text(1 << 30)) > 0);
    REQUIRE(wsic_limits_default(NULL) == WSIC_STATUS_NULL_POINTER);
    REQUIRE(wsic_limits_default(&limits) == WSIC_STATUS_OK && limits.rows == 1 << 24);

    REQUIRE(wsic_announced_length(NULL, 16, &total) == WSIC_STATUS_NULL_POINTER);
    REQUIRE(wsic_announced_length(bytes.data, 15, &total) == WSIC_STATUS_TRUNCATED);
    REQUIRE(wsic_announced_length((uint8_t *)bytes.data + 1, 16, &total) == WSIC_STATUS_BAD_MAGIC);
    REQUIRE(wsic_announced_length(bytes.data, bytes.size, NULL) == WSIC_STATUS_NULL_POINTER);

    REFUSED(WSIC_STATUS_NULL_POINTER, wsic_open(NULL, 100, NULL, NULL, &tensor, &error));
    REFUSED(WSIC_STATUS_TRUNCATED, wsic_open(NULL, 0, NULL, NULL, &tensor, &error));
    REFUSED(WSIC_STATUS_BAD_LENGTH, wsic_open(bytes.data, SIZE_MAX, NULL, NULL, &tensor, &error));
    REFUSED(WSIC_STATUS_NULL_POINTER, wsic_open(bytes.data, bytes.size, NULL, NULL, NULL, &error));
    REFUSED(WSIC_STATUS_TRUNCATED, wsic_open(bytes.data, bytes.size - 1, NULL, NULL, &tensor, &error));
    limits.rows = 1;
    REFUSED(WSIC_STATUS_LIMIT_EXCEEDED, wsic_open(bytes.data, bytes.size, &limits, NULL, &tensor, &error));
    Buffer room = buffer_new(64);
    REFUSED(WSIC_STATUS_MISALIGNED_POINTER,
            wsic_open(bytes.data, bytes.size, odd(room.data), NULL, &tensor, &error));
    REFUSED(WSIC_STATUS_MISALIGNED_POINTER,
            wsic_open(bytes.data, bytes.size, NULL, odd(room.data), &tensor, &error));
    REFUSED(WSIC_STATUS_MISALIGNED_POINTER, wsic_open(bytes.data, bytes.size, NULL, NULL, odd(room.data), &error));
    REQUIRE(tensor == NULL);
    /* A misaligned error record is left alone. */
    REQUIRE(wsic_open(NULL, 1, NULL, NULL, &tensor, odd(&error)) == WSIC_STATUS_NULL_POINTER);

    REQUIRE(wsic_open(bytes.data, bytes.size, NULL, NULL, &tensor, &error) == WSIC_STATUS_OK);
    REQUIRE(wsic_tensor_shape(tensor, &shape) == WSIC_STATUS_OK);
    REQUIRE(wsic_tensor_shape(NULL, &shape) == WSIC_STATUS_NULL_POINTER);
    REQUIRE(wsic_tensor_shape(tensor, NULL) == WSIC_STATUS_NULL_POINTER);
    wrong = shape;
    wrong.columns += 1;
    REFUSED(WSIC_STATUS_SHAPE_MISMATCH, wsic_open(bytes.data, bytes.size, NULL, &wrong, &second, &error));
    REQUIRE(second == NULL);
    REQUIRE(wsic_open(bytes.data, bytes.size, NULL, &shape, &second, &error) == WSIC_STATUS_OK);

    REQUIRE(wsic_matrix_layout(tensor, 0, &layout) == WSIC_STATUS_OK);
    REQUIRE(wsic_matrix_layout(tensor, 1, &layout) == WSIC_STATUS_OUT_OF_RANGE);
    REQUIRE(wsic_matrix_layout(tensor, SIZE_MAX, &layout) == WSIC_STATUS_OUT_OF_RANGE);
    size_t rows = (size_t)shape.rows, columns = (size_t)shape.columns, tile = (size_t)layout.rows_per_tile;
    REQUIRE(rows > tile && tile > 1);

    REQUIRE(wsic_split_rows(tensor, 0, 0, 0, &begin, &end) == WSIC_STATUS_OUT_OF_RANGE);
    REQUIRE(wsic_split_rows(tensor, 0, 3, 3, &begin, &end) == WSIC_STATUS_OUT_OF_RANGE);
    REQUIRE(wsic_split_rows(tensor, 0, 0, 2, NULL, &end) == WSIC_STATUS_NULL_POINTER);
    size_t reached = 0;
    for (size_t part = 0; part < 1000; part++) {
        REQUIRE(wsic_split_rows(tensor, 0, part, 1000, &begin, &end) == WSIC_STATUS_OK);
        REQUIRE(begin == reached && end >= begin);
        reached = end;
    }
    REQUIRE(reached == rows);
    REQUIRE(wsic_split_rows(tensor, 0, SIZE_MAX - 1, SIZE_MAX, &begin, &end) == WSIC_STATUS_OK && end == rows);

    REQUIRE(wsic_activation_bytes(tensor, 0, 0, &size) == WSIC_STATUS_OUT_OF_RANGE);
    REQUIRE(wsic_activation_bytes(tensor, 0, SIZE_MAX / 2, &size) == WSIC_STATUS_OUT_OF_RANGE);
    REQUIRE(wsic_product_scratch(tensor, 0, SIZE_MAX, &size) == WSIC_STATUS_OUT_OF_RANGE);
    REQUIRE(wsic_activation_bytes(tensor, 0, 2, &size) == WSIC_STATUS_OK);
    Buffer x = buffer_new(2 * columns * sizeof(float)), buffer = buffer_new(size);
    memset(x.data, 0, x.size);
    const wsic_activations *pair = NULL, *one = NULL, *foreign = NULL;
    float *input = x.data;
    REFUSED(WSIC_STATUS_NULL_POINTER,
            wsic_prepare(tensor, 0, NULL, 2 * columns, 2, buffer.data, size, &pair, &error));
    REFUSED(WSIC_STATUS_MISALIGNED_POINTER,
            wsic_prepare(tensor, 0, odd(input), 2 * columns, 2, buffer.data, size, &pair, &error));
    REFUSED(WSIC_STATUS_BAD_LENGTH,
            wsic_prepare(tensor, 0, input, 2 * columns - 1, 2, buffer.data, size, &pair, &error));
    REFUSED(WSIC_STATUS_BAD_LENGTH, wsic_prepare(tensor, 0, input, 2 * columns, 2, buffer.data, size / 2, &pair, &error));
    REFUSED(WSIC_STATUS_BAD_LENGTH, wsic_prepare(tensor, 0, input, 2 * columns, 2, NULL, 0, &pair, &error));
    REFUSED(WSIC_STATUS_NULL_POINTER, wsic_prepare(tensor, 0, input, 2 * columns, 2, NULL, size, &pair, &error));
    REFUSED(WSIC_STATUS_NULL_POINTER, wsic_prepare(tensor, 0, input, 2 * columns, 2, buffer.data, size, NULL, &error));
    REFUSED(WSIC_STATUS_OVERLAP,
            wsic_prepare(tensor, 0, buffer.data, 2 * columns, 2, buffer.data, size, &pair, &error));
    REFUSED(WSIC_STATUS_OUT_OF_RANGE, wsic_prepare(tensor, 9, input, 2 * columns, 2, buffer.data, size, &pair, &error));
    REFUSED(WSIC_STATUS_NULL_POINTER, wsic_prepare(NULL, 0, input, 2 * columns, 2, buffer.data, size, &pair, &error));
    REQUIRE(pair == NULL);
    REQUIRE(wsic_prepare(tensor, 0, input, 2 * columns, 2, buffer.data, size, &pair, &error) == WSIC_STATUS_OK);
    Buffer single = buffer_new(size), other = buffer_new(size);
    REQUIRE(wsic_prepare(tensor, 0, input, columns, 1, single.data, size, &one, &error) == WSIC_STATUS_OK);
    REQUIRE(wsic_prepare(second, 0, input, columns, 1, other.data, size, &foreign, &error) == WSIC_STATUS_OK);

    REQUIRE(wsic_product_scratch(tensor, 0, 2, &size) == WSIC_STATUS_OK);
    Buffer scratch = buffer_new(size), y = buffer_new(2 * rows * sizeof(float));
    float *out = y.data;
    uint8_t *memory = scratch.data;
    REFUSED(WSIC_STATUS_NULL_POINTER, wsic_matvec(NULL, 0, 0, rows, one, out, rows, memory, size, &error));
    REFUSED(WSIC_STATUS_NULL_POINTER, wsic_matvec(tensor, 0, 0, rows, NULL, out, rows, memory, size, &error));
    REFUSED(WSIC_STATUS_MISALIGNED_POINTER,
            wsic_matvec(tensor, 0, 0, rows, odd(single.data), out, rows, memory, size, &error));
    REFUSED(WSIC_STATUS_FOREIGN_ACTIVATIONS, wsic_matvec(tensor, 0, 0, rows, foreign, out, rows, memory, size, &error));
    REFUSED(WSIC_STATUS_BAD_LENGTH, wsic_matvec(tensor, 0, 0, rows, pair, out, rows, memory, size, &error));
    REFUSED(WSIC_STATUS_BAD_LENGTH, wsic_matvec(tensor, 0, 0, rows, one, out, rows - 1, memory, size, &error));
    REFUSED(WSIC_STATUS_BAD_LENGTH, wsic_matvec(tensor, 0, 0, rows, one, out, rows, memory, 10, &error));
    REFUSED(WSIC_STATUS_NULL_POINTER, wsic_matvec(tensor, 0, 0, rows, one, NULL, rows, memory, size, &error));
    REFUSED(WSIC_STATUS_NULL_POINTER, wsic_matvec(tensor, 0, 0, rows, one, out, rows, NULL, size, &error));
    REFUSED(WSIC_STATUS_MISALIGNED_POINTER, wsic_matvec(tensor, 0, 0, rows, one, odd(out), rows, memory, size, &error));
    REFUSED(WSIC_STATUS_OUT_OF_RANGE, wsic_matvec(tensor, 0, 0, rows + 1, one, out, rows + 1, memory, size, &error));
    REFUSED(WSIC_STATUS_OUT_OF_RANGE, wsic_matvec(tensor, 0, 1, rows, one, out, rows - 1, memory, size, &error));
    REFUSED(WSIC_STATUS_OUT_OF_RANGE, wsic_matvec(tensor, 0, 0, tile - 1, one, out, tile - 1, memory, size, &error));
    REFUSED(WSIC_STATUS_OUT_OF_RANGE, wsic_matvec(tensor, 0, tile, 0, one, out, 0, memory, size, &error));
    REFUSED(WSIC_STATUS_OVERLAP, wsic_matvec(tensor, 0, 0, rows, one, single.data, rows, memory, size, &error));
    REFUSED(WSIC_STATUS_OVERLAP, wsic_matvec(tensor, 0, 0, rows, one, out, rows, (uint8_t *)out, size, &error));
    REFUSED(WSIC_STATUS_OVERLAP, wsic_matvec(tensor, 0, 0, rows, one, out, rows, bytes.data, size, &error));
    REQUIRE(wsic_matvec(tensor, 0, 0, 0, one, NULL, 0, memory, size, &error) == WSIC_STATUS_OK);
    REQUIRE(wsic_matvec(tensor, 0, rows, rows, one, NULL, 0, memory, size, NULL) == WSIC_STATUS_OK);

    REFUSED(WSIC_STATUS_BAD_LENGTH,
            wsic_matmul(tensor, 0, 0, rows, pair, out, 2 * rows, rows - 1, memory, size, &error));
    REFUSED(WSIC_STATUS_BAD_LENGTH,
            wsic_matmul(tensor, 0, 0, rows, pair, out, 2 * rows - 1, rows, memory, size, &error));
    REFUSED(WSIC_STATUS_BAD_LENGTH,
            wsic_matmul(tensor, 0, 0, rows, pair, out, 2 * rows, SIZE_MAX, memory, size, &error));
    REFUSED(WSIC_STATUS_BAD_LENGTH,
            wsic_matmul(tensor, 0, 0, rows, pair, out, 2 * rows, rows, memory, 100, &error));
    REFUSED(WSIC_STATUS_NULL_POINTER,
            wsic_matmul(tensor, 0, 0, rows, pair, NULL, 2 * rows, rows, memory, size, &error));
    REFUSED(WSIC_STATUS_MISALIGNED_POINTER,
            wsic_matmul(tensor, 0, 0, rows, pair, odd(out), 2 * rows, rows, memory, size, &error));
    REQUIRE(wsic_matmul(tensor, 0, 0, rows, pair, out, 2 * rows, rows, memory, size, &error) == WSIC_STATUS_OK);

    REQUIRE(wsic_rows_scratch(tensor, 0, &size) == WSIC_STATUS_OK);
    Buffer row_memory = buffer_new(size), weights = buffer_new(rows * columns * sizeof(float));
    float *out_rows = weights.data;
    uint32_t last = (uint32_t)rows - 1, past = (uint32_t)rows;
    REFUSED(WSIC_STATUS_OUT_OF_RANGE,
            wsic_get_rows(tensor, 0, &past, 1, out_rows, columns, row_memory.data, size, &error));
    REFUSED(WSIC_STATUS_BAD_LENGTH,
            wsic_get_rows(tensor, 0, &last, 1, out_rows, columns + 1, row_memory.data, size, &error));
    REFUSED(WSIC_STATUS_NULL_POINTER,
            wsic_get_rows(tensor, 0, NULL, 1, out_rows, columns, row_memory.data, size, &error));
    REFUSED(WSIC_STATUS_BAD_LENGTH,
            wsic_get_rows(tensor, 0, &last, SIZE_MAX / 2, out_rows, columns, row_memory.data, size, &error));
    REFUSED(WSIC_STATUS_BAD_LENGTH,
            wsic_get_rows(tensor, 0, &last, 1, out_rows, columns, row_memory.data, size - 1, &error));
    REQUIRE(wsic_get_rows(tensor, 0, &last, 1, out_rows, columns, row_memory.data, size, &error) == WSIC_STATUS_OK);
    REQUIRE(wsic_get_rows(tensor, 0, NULL, 0, NULL, 0, NULL, 0, &error) == WSIC_STATUS_OK);
    REFUSED(WSIC_STATUS_BAD_LENGTH,
            wsic_dequantize_rows(tensor, 0, 0, rows, out_rows, 7, row_memory.data, size, &error));
    REFUSED(WSIC_STATUS_NULL_POINTER,
            wsic_decode_rows(tensor, 0, 0, rows, NULL, rows * (size_t)layout.stream_length, row_memory.data, size,
                             &error));
    REFUSED(WSIC_STATUS_OUT_OF_RANGE, wsic_verify_rows(tensor, 0, 0, rows + 1, &error));
    REFUSED(WSIC_STATUS_OUT_OF_RANGE, wsic_verify_rows(tensor, 0, SIZE_MAX, SIZE_MAX, &error));
    REQUIRE(wsic_verify_rows(tensor, 0, 0, rows, &error) == WSIC_STATUS_OK);

    /* The payload is nobody's output and nobody's scratch. */
    size_t integers = rows * (size_t)layout.stream_length;
    void *inside = (char *)bytes.data + bytes.size / 8 * 4;
    REFUSED(WSIC_STATUS_OVERLAP,
            wsic_dequantize_rows(tensor, 0, 0, rows, inside, rows * columns, row_memory.data, size, &error));
    REFUSED(WSIC_STATUS_OVERLAP,
            wsic_decode_rows(tensor, 0, 0, rows, inside, integers, row_memory.data, size, &error));
    REFUSED(WSIC_STATUS_OVERLAP,
            wsic_decode_rows(tensor, 0, 0, rows, weights.data, integers, inside, size, &error));
    REFUSED(WSIC_STATUS_OVERLAP, wsic_get_rows(tensor, 0, &last, 1, inside, columns, row_memory.data, size, &error));
    REFUSED(WSIC_STATUS_OVERLAP, wsic_get_rows(tensor, 0, &last, 1, out_rows, columns, inside, size, &error));
    REFUSED(WSIC_STATUS_OVERLAP, wsic_get_rows(tensor, 0, (uint32_t *)out_rows, 1, out_rows, columns, row_memory.data,
                                               size, &error));
    REFUSED(WSIC_STATUS_OVERLAP, wsic_matvec(tensor, 0, 0, rows, one, inside, rows, memory, scratch.size, &error));
    REFUSED(WSIC_STATUS_OVERLAP,
            wsic_matmul(tensor, 0, 0, rows, pair, inside, 2 * rows, rows, memory, scratch.size, &error));
    REFUSED(WSIC_STATUS_OVERLAP,
            wsic_matmul(tensor, 0, 0, rows, pair, out, 2 * rows, rows, inside, scratch.size, &error));
    REFUSED(WSIC_STATUS_OVERLAP, wsic_prepare(tensor, 0, input, columns, 1, inside, single.size, &one, &error));
    REQUIRE(bytes.size == original.size && memcmp(bytes.data, original.data, bytes.size) == 0);

    /* Instruction sets. */
    REQUIRE(wsic_isa_available(WSIC_ISA_SCALAR) && !wsic_isa_available(77) && !wsic_isa_available(WSIC_ISA_DEFAULT));
    REQUIRE(wsic_isa_force(77) == WSIC_STATUS_UNSUPPORTED_ISA);
    REQUIRE(wsic_isa_force(WSIC_ISA_SCALAR) == WSIC_STATUS_OK && wsic_isa_selected() == WSIC_ISA_SCALAR);
    wsic_tensor *scalar;
    REQUIRE(wsic_open(bytes.data, bytes.size, NULL, NULL, &scalar, NULL) == WSIC_STATUS_OK);
    REQUIRE(wsic_tensor_isa(scalar) == WSIC_ISA_SCALAR && wsic_tensor_isa(NULL) == WSIC_ISA_DEFAULT);
    REQUIRE(strcmp(wsic_isa_name(WSIC_ISA_AVX512), "avx512") == 0 && strcmp(wsic_isa_name(9), "unknown") == 0);
    REQUIRE(wsic_isa_force(WSIC_ISA_DEFAULT) == WSIC_STATUS_OK);
    REQUIRE(wsic_isa_available(wsic_isa_selected()));

    wsic_close(scalar);
    wsic_close(second);
    wsic_close(tensor);
    wsic_close(NULL);
    /* The activations outlive their tensor; a new one does not take them. */
    REQUIRE(wsic_open(bytes.data, bytes.size, NULL, NULL, &tensor, &error) == WSIC_STATUS_OK);
    REFUSED(WSIC_STATUS_FOREIGN_ACTIVATIONS, wsic_matvec(tensor, 0, 0, rows, one, out, rows, memory, scratch.size, &error));
    wsic_close(tensor);
    buffer_free(weights);
    buffer_free(row_memory);
    buffer_free(y);
    buffer_free(scratch);
    buffer_free(other);
    buffer_free(single);
    buffer_free(buffer);
    buffer_free(x);
    buffer_free(room);
    buffer_free(original);
    buffer_free(bytes);
    puts("all refused");
    return 0;
}
