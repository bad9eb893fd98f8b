/*
 * wsic.h: C interface of the WSIC decoder, version 0.
 * Made by cbindgen from capi/src of the wsic project; do not edit.
 *
 * WSIC is a tensor type for weights of language models: entropy-coded integers of 1 to 4 bits per weight that are
 * multiplied straight from the coded form. This interface opens such a tensor and multiplies with it. The caller owns
 * the bytes, all working memory and the threads.
 *
 *   wsic_open(bytes, length, NULL, &shape, &tensor, &error)              once for each tensor
 *   wsic_prepare(tensor, 0, x, columns, 1, buffer, ..., &activations)    once for each vector
 *   wsic_split_rows(tensor, 0, thread, threads, &begin, &end)            on each thread:
 *   wsic_matvec(tensor, 0, begin, end, activations, y + begin, ...)
 *   wsic_close(tensor)
 *
 * Errors. Calls return a wsic_status and, where the last argument is `error`, describe a failure in that record, which
 * may be NULL. After a failure the contents of output buffers are unspecified. Null and misaligned pointers, wrong
 * lengths, overlapping buffers, ranges out of bounds and any damage of the payload are refused; what no library can
 * check is that a pointer which is neither null nor misaligned points at memory of the stated length. No call unwinds
 * into the caller. When memory for a new tensor runs out, Rust's allocator ends the process; wsic_limits bounds how much
 * is asked for.
 *
 * Lifetimes. A tensor borrows the payload's bytes: they have to stay in place, unchanged, until wsic_close. Whoever maps
 * a file has to know that nobody changes it. Prepared activations live in the caller's buffer and belong to their tensor.
 * Everything else that a call gets is borrowed until it returns. Strings are constants of the library.
 *
 * Threads. Tensors and prepared activations are immutable: any number of threads may use them at once, each with scratch
 * and output of its own. Only wsic_close (of a tensor) and wsic_prepare (of a buffer) need that nobody else uses it.
 * Products, rows and checks allocate nothing and take no lock. The only state of the process is the choice of
 * wsic_isa_force.
 *
 * Lengths count elements, not bytes, except for `length` of payloads, buffers and scratch (uint8_t). Working memory
 * needs no alignment; 64 bytes are best.
 */

#ifndef WSIC_H
#define WSIC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/**
 * Version of this interface. It changes with every change that needs callers to be compiled anew.
 */
#define WSIC_ABI_VERSION 0

/**
 * An instruction set that the kernels are written for. All of them give the same results, bit for bit.
 */
enum wsic_isa
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * For wsic_isa_force: the default. Elsewhere: no instruction set.
   */
  WSIC_ISA_DEFAULT = -1,
  /**
   * Portable code.
   */
  WSIC_ISA_SCALAR = 0,
  /**
   * x86-64 with AVX2, BMI2 and POPCNT.
   */
  WSIC_ISA_AVX2 = 1,
  /**
   * AVX2 with the 256-bit dot products of AVX-VNNI or of AVX-512 VNNI and VL.
   */
  WSIC_ISA_AVX2_VNNI = 2,
  /**
   * AVX-512 F, BW, DQ, VL, VBMI, VBMI2, VNNI and BITALG.
   */
  WSIC_ISA_AVX512 = 3,
  /**
   * The same with lookups that suit Intel's processors better.
   */
  WSIC_ISA_AVX512_VPERMB = 4,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum wsic_isa wsic_isa;
#else
typedef int32_t wsic_isa;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Result of a call. 1 to 19: the payload is refused, with the class that the format's specification states
 * (section 11); 20 and more: the call is wrong, and nothing was done.
 */
enum wsic_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  /**
   * Success.
   */
  WSIC_STATUS_OK = 0,
  /**
   * The bytes end before the structure does.
   */
  WSIC_STATUS_TRUNCATED = 1,
  /**
   * The first four bytes are not "WSIC".
   */
  WSIC_STATUS_BAD_MAGIC = 2,
  /**
   * A version of the format that this library does not know.
   */
  WSIC_STATUS_UNSUPPORTED_VERSION = 3,
  /**
   * A feature of the format that this library does not know.
   */
  WSIC_STATUS_UNSUPPORTED_FEATURE = 4,
  /**
   * A number in a header is outside its legal range or contradicts another one.
   */
  WSIC_STATUS_BAD_HEADER = 5,
  /**
   * The caller's limits forbid a matrix of this size.
   */
  WSIC_STATUS_LIMIT_EXCEEDED = 6,
  /**
   * A checksum does not match.
   */
  WSIC_STATUS_BAD_CHECKSUM = 7,
  /**
   * The coded side information is damaged.
   */
  WSIC_STATUS_BAD_SIDE_INFORMATION = 8,
  /**
   * A class table breaks a rule of the specification.
   */
  WSIC_STATUS_BAD_TABLE = 9,
  /**
   * The lengths of sections or tiles do not add up.
   */
  WSIC_STATUS_BAD_DIRECTORY = 10,
  /**
   * A tile's coder did not end in its end state exactly at the end of its bytes.
   */
  WSIC_STATUS_CORRUPT_TILE = 11,
  /**
   * An escape is malformed, out of order, or points at no weight.
   */
  WSIC_STATUS_BAD_ESCAPE = 12,
  /**
   * Bytes are left over after the payload.
   */
  WSIC_STATUS_TRAILING_BYTES = 13,
  /**
   * The payload's shape is not the one that the caller expects.
   */
  WSIC_STATUS_SHAPE_MISMATCH = 14,
  /**
   * A pointer is null.
   */
  WSIC_STATUS_NULL_POINTER = 20,
  /**
   * A pointer is not a multiple of its type's alignment.
   */
  WSIC_STATUS_MISALIGNED_POINTER = 21,
  /**
   * A buffer has another length than the call needs, or is too small.
   */
  WSIC_STATUS_BAD_LENGTH = 22,
  /**
   * A matrix, row, range of rows or number of vectors is outside what the tensor has.
   */
  WSIC_STATUS_OUT_OF_RANGE = 23,
  /**
   * Two buffers of one call overlap.
   */
  WSIC_STATUS_OVERLAP = 24,
  /**
   * The activations were prepared for another matrix, or the tensor was closed since.
   */
  WSIC_STATUS_FOREIGN_ACTIVATIONS = 25,
  /**
   * This machine does not have the instruction set, or there is no such instruction set.
   */
  WSIC_STATUS_UNSUPPORTED_ISA = 26,
  /**
   * An error in this library; please report it.
   */
  WSIC_STATUS_INTERNAL = 30,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum wsic_status wsic_status;
#else
typedef int32_t wsic_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

/**
 * Activation vectors prepared for one matrix. They live in a buffer of the caller.
 */
typedef struct wsic_activations wsic_activations;

/**
 * An opened tensor.
 */
typedef struct wsic_tensor wsic_tensor;

/**
 * What went wrong, in words. Filled by a call that fails and untouched by one that succeeds.
 */
typedef struct wsic_error {
  /**
   * The status that the call returned.
   */
  wsic_status status;
  /**
   * For refused payloads the byte offset in the payload of the structure that was refused, else 0.
   */
  uint64_t offset;
  /**
   * One line of UTF-8 text that ends in a zero byte.
   */
  char message[240];
} wsic_error;

/**
 * Upper bounds, checked before anything is allocated.
 */
typedef struct wsic_limits {
  /**
   * Rows of one matrix.
   */
  uint64_t rows;
  /**
   * Columns of one matrix.
   */
  uint64_t columns;
  /**
   * Matrices of one payload (experts).
   */
  uint64_t matrices;
  /**
   * Rows plus columns, times matrices. An opened tensor takes at most 100 bytes for each of them, 128 for each byte
   * of the payload, 9 KiB for each class of each matrix (at most 32; whatever the limits, no more than 32,768 classes in
   * all, which is 302 MB), and 64 KiB. Of that, what belongs to standard class tables, at most 8 MiB for each
   * instruction set, is shared by all tensors and stays when they are closed.
   */
  uint64_t rows_and_columns;
} wsic_limits;

/**
 * The shape of a tensor. In ggml's order of dimensions: ne[0] = columns, ne[1] = rows, ne[2] = matrices.
 */
typedef struct wsic_shape {
  /**
   * Output features of each matrix.
   */
  uint64_t rows;
  /**
   * Input features of each matrix.
   */
  uint64_t columns;
  /**
   * Matrices: 1, or the number of experts.
   */
  uint64_t matrices;
} wsic_shape;

/**
 * How a matrix is stored. The pointers are valid until the tensor is closed.
 *
 * The weight of row r and column c is row_scales[r] times the sum of stream_scales[p] * integer[r][p] over the stream
 * positions p with stream_inputs[p] == c.
 */
typedef struct wsic_layout {
  /**
   * Rows that are decoded together: ranges of rows begin and end at multiples of it (or at the last row).
   */
  uint64_t rows_per_tile;
  /**
   * Stream positions: integers of one row.
   */
  uint64_t stream_length;
  /**
   * Input column of each stream position, UINT32_MAX for positions that carry none.
   */
  const uint32_t *stream_inputs;
  /**
   * Scale of each stream position, 0 for positions that carry no column.
   */
  const float *stream_scales;
  /**
   * Factor of each row, or null if all are 1.
   */
  const float *row_scales;
} wsic_layout;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * The version of the interface that the library was built with: equal to WSIC_ABI_VERSION if header and library
 * belong together.
 */
uint32_t wsic_abi_version(void);

/**
 * The version of the library as text, for example "0.1.0".
 */
const char *wsic_version(void);

/**
 * The name of an instruction set, as the environment variable WSIC_ISA takes it. Never null: "unknown" for other
 * numbers.
 */
const char *wsic_isa_name(int32_t isa);

/**
 * Whether this machine has an instruction set; false for other numbers.
 */
bool wsic_isa_available(int32_t isa);

/**
 * The instruction set that tensors opened from now on use: the one that wsic_isa_force set, else what the environment
 * variable WSIC_ISA names (if this machine has it), else the fastest of this machine.
 */
wsic_isa wsic_isa_selected(void);

/**
 * Makes tensors opened from now on, on all threads, use an instruction set; WSIC_ISA_DEFAULT returns to the default.
 * For tests and measurements.
 *
 * Returns WSIC_STATUS_UNSUPPORTED_ISA, and changes nothing, if this machine does not have it.
 */
wsic_status wsic_isa_force(int32_t isa);

/**
 * Stores the size in bytes of the buffer that wsic_prepare and wsic_prepare_mixed need for `batch` vectors.
 */
wsic_status wsic_activation_bytes(const struct wsic_tensor *tensor,
                                  size_t matrix,
                                  size_t batch,
                                  size_t *bytes);

/**
 * Prepares `batch` vectors for products with one matrix: scaled, in stream order, as two terms of 8-bit integers with one
 * scale for each 512 columns. That is as good as floats. Element c of vector b is x[b * columns + c], so `x_length` is
 * batch * columns.
 *
 * `buffer` of at least wsic_activation_bytes needs no alignment. A handle that points into it is stored in
 * `activations`; it is valid until the buffer is written or freed or the tensor is closed, has to stay where it is, and
 * needs no freeing. Any number of threads may use it at once. If the call fails, `activations` is untouched.
 */
wsic_status wsic_prepare(const struct wsic_tensor *tensor,
                         size_t matrix,
                         const float *x,
                         size_t x_length,
                         size_t batch,
                         uint8_t *buffer,
                         size_t buffer_length,
                         const struct wsic_activations **activations,
                         struct wsic_error *error);

/**
 * As wsic_prepare, with coarser numbers: 8 bits, and 15 for the few columns that are far larger than the others of their
 * 128. Products of many vectors, a prompt's, are up to twice as fast; those of one vector are slower, and errors are
 * those of 8-bit activations without outliers.
 */
wsic_status wsic_prepare_mixed(const struct wsic_tensor *tensor,
                               size_t matrix,
                               const float *x,
                               size_t x_length,
                               size_t batch,
                               uint8_t *buffer,
                               size_t buffer_length,
                               const struct wsic_activations **activations,
                               struct wsic_error *error);

/**
 * Stores the size in bytes of the scratch that wsic_matvec (`batch` 1) and wsic_matmul need, for any range of rows.
 * Each thread needs one of its own.
 */
wsic_status wsic_product_scratch(const struct wsic_tensor *tensor,
                                 size_t matrix,
                                 size_t batch,
                                 size_t *bytes);

/**
 * Product of rows `row_begin` to `row_end` - 1 of a matrix with one prepared vector: y[r - row_begin]. `y_length` is
 * row_end - row_begin.
 *
 * Both ends are multiples of rows_per_tile, or the number of rows: see wsic_split_rows. `scratch` of at least
 * wsic_product_scratch needs no alignment and no content. Results do not depend on the range, the number of threads
 * or the instruction set. Nothing is allocated.
 */
wsic_status wsic_matvec(const struct wsic_tensor *tensor,
                        size_t matrix,
                        size_t row_begin,
                        size_t row_end,
                        const struct wsic_activations *activations,
                        float *y,
                        size_t y_length,
                        uint8_t *scratch,
                        size_t scratch_length,
                        struct wsic_error *error);

/**
 * Product of rows `row_begin` to `row_end` - 1 of a matrix with all prepared vectors: row r and vector b go to
 * y[b * y_stride + r - row_begin], so that threads with ranges of their own write one array. `y_length` is at least
 * (batch - 1) * y_stride + row_end - row_begin; other elements are not touched. Each vector's results are bit for bit
 * those of wsic_matvec; everything else as there.
 */
wsic_status wsic_matmul(const struct wsic_tensor *tensor,
                        size_t matrix,
                        size_t row_begin,
                        size_t row_end,
                        const struct wsic_activations *activations,
                        float *y,
                        size_t y_length,
                        size_t y_stride,
                        uint8_t *scratch,
                        size_t scratch_length,
                        struct wsic_error *error);

/**
 * Stores the size in bytes of the scratch that wsic_dequantize_rows, wsic_get_rows and wsic_decode_rows need, for any
 * rows. Each thread needs one of its own.
 */
wsic_status wsic_rows_scratch(const struct wsic_tensor *tensor,
                              size_t matrix,
                              size_t *bytes);

/**
 * Weights of rows `row_begin` to `row_end` - 1, row by row. `out_length` is (row_end - row_begin) * columns. Range,
 * scratch (of wsic_rows_scratch) and threads as for wsic_matvec.
 */
wsic_status wsic_dequantize_rows(const struct wsic_tensor *tensor,
                                 size_t matrix,
                                 size_t row_begin,
                                 size_t row_end,
                                 float *out,
                                 size_t out_length,
                                 uint8_t *scratch,
                                 size_t scratch_length,
                                 struct wsic_error *error);

/**
 * Weights of `count` rows in the order asked for, row by row: the lookup of an embedding. `out_length` is
 * count * columns. Rows that follow each other and share a tile cost one decoding: sorted rows are fastest.
 */
wsic_status wsic_get_rows(const struct wsic_tensor *tensor,
                          size_t matrix,
                          const uint32_t *rows,
                          size_t count,
                          float *out,
                          size_t out_length,
                          uint8_t *scratch,
                          size_t scratch_length,
                          struct wsic_error *error);

/**
 * Integers of rows `row_begin` to `row_end` - 1, row by row, stream_length for each row (see wsic_matrix_layout). For
 * tests and for decoders of one's own.
 */
wsic_status wsic_decode_rows(const struct wsic_tensor *tensor,
                             size_t matrix,
                             size_t row_begin,
                             size_t row_end,
                             int32_t *out,
                             size_t out_length,
                             uint8_t *scratch,
                             size_t scratch_length,
                             struct wsic_error *error);

/**
 * Compares the checksums of the tiles of rows `row_begin` to `row_end` - 1 with their bytes. The other calls leave
 * checksums of tiles alone: damage that they do not notice gives wrong weights, never an access out of bounds.
 */
wsic_status wsic_verify_rows(const struct wsic_tensor *tensor,
                             size_t matrix,
                             size_t row_begin,
                             size_t row_end,
                             struct wsic_error *error);

/**
 * The name of a status, for example "bad-checksum"; for refused payloads the class of the specification. Never
 * null: "unknown" for other numbers.
 */
const char *wsic_status_name(int32_t status);

/**
 * A sentence about a status. Never null.
 */
const char *wsic_status_text(int32_t status);

/**
 * Stores the default limits: 2^24 rows, 2^20 columns, 2^14 matrices, 2^25 rows and columns in all.
 */
wsic_status wsic_limits_default(struct wsic_limits *limits);

/**
 * Stores in `total` the length in bytes of the payload that begins at `bytes`, as it announces it in its first 16
 * bytes: what a container needs to find the end of a tensor. It is hostile input; compare it with what is there.
 *
 * Returns WSIC_STATUS_TRUNCATED if `length` is less than 16, WSIC_STATUS_BAD_MAGIC if this is no payload.
 */
wsic_status wsic_announced_length(const uint8_t *bytes,
                                  size_t length,
                                  uint64_t *total);

/**
 * Opens the payload of `length` bytes at `bytes` and stores a handle in `tensor`. The bytes are borrowed: they must
 * stay where they are, unchanged, until wsic_close.
 *
 * `bytes` needs no alignment. `limits` may be null (the defaults). `expected` may be null (any shape within the
 * limits); else a payload of another shape is refused with WSIC_STATUS_SHAPE_MISMATCH. All headers are validated here;
 * tiles are checked whenever they are decoded, their checksums by wsic_verify_rows. Time and memory are linear in the
 * payload's headers, rows and columns. If the call fails, `tensor` is untouched.
 */
wsic_status wsic_open(const uint8_t *bytes,
                      size_t length,
                      const struct wsic_limits *limits,
                      const struct wsic_shape *expected,
                      struct wsic_tensor **tensor,
                      struct wsic_error *error);

/**
 * Closes a tensor; null is allowed. No other call may use it at the same time or later.
 */
void wsic_close(struct wsic_tensor *tensor);

/**
 * Stores the shape of a tensor.
 */
wsic_status wsic_tensor_shape(const struct wsic_tensor *tensor, struct wsic_shape *shape);

/**
 * Stores how matrix `matrix` (from 0) of a tensor is stored.
 */
wsic_status wsic_matrix_layout(const struct wsic_tensor *tensor, size_t matrix, struct wsic_layout *layout);

/**
 * The instruction set that a tensor's products use; WSIC_ISA_DEFAULT if `tensor` is null.
 */
wsic_isa wsic_tensor_isa(const struct wsic_tensor *tensor);

/**
 * Cuts the rows of a matrix into `parts` ranges, as even as tiles allow, and stores part `part` (from 0): the range
 * for one of `parts` threads. The ranges follow each other and cover all rows; some are empty if there are fewer tiles
 * than parts.
 */
wsic_status wsic_split_rows(const struct wsic_tensor *tensor,
                            size_t matrix,
                            size_t part,
                            size_t parts,
                            size_t *row_begin,
                            size_t *row_end);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* WSIC_H */
