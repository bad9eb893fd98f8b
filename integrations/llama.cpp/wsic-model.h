// wsic-model.h: finds the WSIC tensors of a GGUF model (one file or split) in memory-mapped files.
//
// SPDX-License-Identifier: MIT OR Apache-2.0
#ifndef WSIC_MODEL_H
#define WSIC_MODEL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct wsic_model wsic_model;

// A payload in the mapped file, and the shape that the container states for it.
typedef struct {
    const uint8_t * bytes;
    size_t          length;
    uint64_t        columns, rows, matrices;
} wsic_entry;

// Opens a model and checks its container (spec/FORMAT.md, section 2). Null after a failure; `reason` then points at a
// constant text.
wsic_model * wsic_model_open(const char * path, const char ** reason);

// Number of WSIC tensors.
size_t wsic_model_count(const wsic_model * model);

// Name (not terminated, of `*length` bytes) and payload of tensor `index`.
const char * wsic_model_tensor(const wsic_model * model, size_t index, size_t * length, wsic_entry * entry);

// Unmaps the model. Nobody may use its payloads any more.
void wsic_model_close(wsic_model * model);

#ifdef __cplusplus
}
#endif

#endif
