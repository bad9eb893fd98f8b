/* Multiplies the first matrix of a payload with a vector: cc matvec.c -lwsic; ./a.out FILE.wsic */
#include <stdio.h>
#include <stdlib.h>

#include "wsic.h"

static void *reserve(size_t size) {
    void *memory = malloc(size);
    if (memory == NULL) {
        fputs("out of memory\n", stderr);
        exit(1);
    }
    return memory;
}

static void require(wsic_status status, const wsic_error *error) {
    if (status != WSIC_STATUS_OK) {
        fprintf(stderr, "%s\n", error != NULL ? error->message : wsic_status_text(status));
        exit(1);
    }
}

int main(int count, char **arguments) {
    FILE *file = count == 2 ? fopen(arguments[1], "rb") : NULL;
    if (file == NULL) {
        fputs("usage: matvec FILE.wsic\n", stderr);
        return 2;
    }
    fseek(file, 0, SEEK_END);
    size_t size = (size_t)ftell(file);
    rewind(file);
    unsigned char *bytes = reserve(size);
    if (fread(bytes, 1, size, file) != size) {
        perror(arguments[1]);
        return 1;
    }
    fclose(file);

    /* Once for each tensor. The bytes stay where they are until wsic_close. */
    wsic_tensor *tensor;
    wsic_shape shape;
    wsic_error error;
    require(wsic_open(bytes, size, NULL, NULL, &tensor, &error), &error);
    require(wsic_tensor_shape(tensor, &shape), NULL);
    size_t rows = (size_t)shape.rows, columns = (size_t)shape.columns;

    /* Working memory, to be used again and again. */
    size_t activation_bytes, scratch_bytes;
    require(wsic_activation_bytes(tensor, 0, 1, &activation_bytes), NULL);
    require(wsic_product_scratch(tensor, 0, 1, &scratch_bytes), NULL);
    uint8_t *buffer = reserve(activation_bytes), *scratch = reserve(scratch_bytes);
    float *x = reserve(columns * sizeof *x), *y = reserve(rows * sizeof *y);
    for (size_t c = 0; c < columns; c++) {
        x[c] = (float)((int)(37 * c % 101) - 50);
    }

    /* Once for each vector. */
    const wsic_activations *activations;
    require(wsic_prepare(tensor, 0, x, columns, 1, buffer, activation_bytes, &activations, &error), &error);

    /* Each part could be the work of a thread, with scratch of its own. */
    const size_t parts = 2;
    for (size_t part = 0; part < parts; part++) {
        size_t begin, end;
        require(wsic_split_rows(tensor, 0, part, parts, &begin, &end), NULL);
        require(wsic_matvec(tensor, 0, begin, end, activations, y + begin, end - begin, scratch, scratch_bytes, &error),
                &error);
    }
    for (size_t r = 0; r < rows; r++) {
        printf("%.9g\n", (double)y[r]);
    }
    wsic_close(tensor);
    free(y);
    free(x);
    free(scratch);
    free(buffer);
    free(bytes);
    return 0;
}
