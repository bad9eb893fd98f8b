// The GGUF reader of spec/decoder on top of the C interface instead of the decoder there.
//
// SPDX-License-Identifier: MIT OR Apache-2.0
#include "wsic-model.h"

#include "wsic.h"

// What gguf.h expects of the decoder beside it.
enum {
    WSIC_OK                  = WSIC_STATUS_OK,
    WSIC_TRUNCATED           = WSIC_STATUS_TRUNCATED,
    WSIC_UNSUPPORTED_VERSION = WSIC_STATUS_UNSUPPORTED_VERSION,
    WSIC_UNSUPPORTED_FEATURE = WSIC_STATUS_UNSUPPORTED_FEATURE,
    WSIC_SHAPE_MISMATCH      = WSIC_STATUS_SHAPE_MISMATCH,
    WSIC_BAD_CONTAINER       = 101,
    WSIC_METADATA_MISMATCH   = 102,
    WSIC_NO_MEMORY           = 103,
};
typedef wsic_shape wsic_payload;

#if defined(__GNUC__)
#    pragma GCC diagnostic ignored "-Wunused-function"
#endif
#include "../../spec/decoder/gguf.h"

enum { TYPE_ID = 704 };

struct wsic_model {
    gguf_model   gguf;
    wsic_entry * entries;
};

static const char * reason_of(int error) {
    switch (error) {
        case WSIC_BAD_CONTAINER:
            return "this is no GGUF file, or one that is damaged or incomplete";
        case WSIC_METADATA_MISMATCH:
            return "the metadata of the WSIC tensors does not fit them";
        case WSIC_NO_MEMORY:
            return "out of memory";
        default:
            return wsic_status_text(error);
    }
}

wsic_model * wsic_model_open(const char * path, const char ** reason) {
    wsic_model * model = calloc(1, sizeof *model);
    if (model == NULL) {
        *reason = reason_of(WSIC_NO_MEMORY);
        return NULL;
    }
    int error = gguf_open(path, TYPE_ID, &model->gguf);
    if (error == WSIC_OK && model->gguf.wsic_count == 0) {
        *reason = "it has no WSIC tensors";
        wsic_model_close(model);
        return NULL;
    }
    if (error == WSIC_OK) {
        model->entries = calloc(model->gguf.wsic_count, sizeof *model->entries);
        error          = model->entries == NULL ? WSIC_NO_MEMORY : WSIC_OK;
    }
    for (size_t i = 0; error == WSIC_OK && i < model->gguf.wsic_count; i++) {
        gguf_tensor * tensor = model->gguf.wsic[i];
        wsic_entry *  entry  = &model->entries[i];
        error                = gguf_find_payload(&model->gguf, tensor, &entry->bytes, &entry->length);
        entry->columns       = tensor->dims[0];
        entry->rows          = tensor->dims[1];
        entry->matrices      = tensor->dim_count == 3 ? tensor->dims[2] : 1;
    }
    if (error != WSIC_OK) {
        *reason = reason_of(error);
        wsic_model_close(model);
        return NULL;
    }
    return model;
}

size_t wsic_model_count(const wsic_model * model) {
    return model->gguf.wsic_count;
}

const char * wsic_model_tensor(const wsic_model * model, size_t index, size_t * length, wsic_entry * entry) {
    const gguf_string name = model->gguf.wsic[index]->name;
    *length                = (size_t) name.length;
    *entry                 = model->entries[index];
    return (const char *) name.bytes;
}

void wsic_model_close(wsic_model * model) {
    if (model != NULL) {
        gguf_close(&model->gguf);
        free(model->entries);
        free(model);
    }
}
