// ggml-wsic.h: WSIC weights in an unpatched llama.cpp, for programs that link this code instead of loading it through
// GGML_BACKEND_PATH.
//
// SPDX-License-Identifier: MIT OR Apache-2.0
#ifndef GGML_WSIC_H
#define GGML_WSIC_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

// Makes the weights of the WSIC model at `path` those of the model that is loaded next from its skeleton file, and puts
// the buffer type first among those of ggml's CPU device. Call it before llama_model_load_from_file; calls for several
// models, one before each, are fine, at the same time not. The file stays mapped as long as one of its weights is in
// use. False, with a message in ggml's log, if the model cannot be opened.
bool ggml_wsic_use_model(const char * path);

#ifdef __cplusplus
}
#endif

#endif
