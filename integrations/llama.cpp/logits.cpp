// Writes the logits of a text's tokens: the first half of them in one batch, the others one at a time.
//   logits MODEL.gguf TEXT TOKENS THREADS OUTPUT [WSIC-MODEL]
// With a sixth argument MODEL.gguf is the skeleton of that model, and the buffer type is the one linked in; without it,
// GGML_BACKEND_PATH may load it. OUTPUT holds tokens x vocabulary numbers of 32 bits. Prints the seconds of both halves.
//
// SPDX-License-Identifier: MIT OR Apache-2.0
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "ggml-backend.h"
#include "ggml-wsic.h"
#include "llama.h"

static int fail(const char * what) {
    std::fprintf(stderr, "logits: %s\n", what);
    return 1;
}

static double seconds() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

int main(int count, char ** arguments) {
    if (count < 6) {
        return fail("usage: logits MODEL.gguf TEXT TOKENS THREADS OUTPUT [WSIC-MODEL]");
    }
    ggml_backend_load_all();
    if (count > 6 && !ggml_wsic_use_model(arguments[6])) {
        return fail("cannot use the WSIC model");
    }
    llama_model_params model_params = llama_model_default_params();
    llama_model *      model        = llama_model_load_from_file(arguments[1], model_params);
    if (model == nullptr) {
        return fail("cannot load the model");
    }
    const llama_vocab * vocab = llama_model_get_vocab(model);
    const size_t        width = llama_vocab_n_tokens(vocab);

    std::ifstream            file(arguments[2], std::ios::binary);
    const std::string        text{ std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>() };
    std::vector<llama_token> tokens(text.size() + 8);
    const int32_t            found =
        llama_tokenize(vocab, text.data(), (int32_t) text.size(), tokens.data(), (int32_t) tokens.size(), true, false);
    const int32_t wanted = std::atoi(arguments[3]);
    if (wanted < 2 || found < wanted) {
        return fail("the text is too short");
    }
    tokens.resize(wanted);

    llama_context_params params = llama_context_default_params();
    params.n_ctx = params.n_batch = params.n_ubatch = (uint32_t) wanted + 8;
    params.n_threads = params.n_threads_batch = std::atoi(arguments[4]);
    llama_context * context = llama_init_from_model(model, params);
    if (context == nullptr) {
        return fail("cannot make a context");
    }
    std::ofstream output(arguments[5], std::ios::binary);
    const auto    write = [&](int32_t index) {
        output.write((const char *) llama_get_logits_ith(context, index), (std::streamsize) (width * sizeof(float)));
    };
    const int32_t half  = wanted / 2;
    llama_batch   batch = llama_batch_init(half, 0, 1);
    batch.n_tokens      = half;
    for (int32_t i = 0; i < half; i++) {
        batch.token[i]     = tokens[i];
        batch.pos[i]       = i;
        batch.n_seq_id[i]  = 1;
        batch.seq_id[i][0] = 0;
        batch.logits[i]    = 1;
    }
    double start = seconds();
    if (llama_decode(context, batch) != 0) {
        return fail("cannot process the batch");
    }
    for (int32_t i = 0; i < half; i++) {
        write(i);
    }
    std::printf("batch %.6f\n", seconds() - start);
    start = seconds();
    for (int32_t i = half; i < wanted; i++) {
        if (llama_decode(context, llama_batch_get_one(&tokens[i], 1)) != 0) {
            return fail("cannot process a token");
        }
        write(0);
    }
    std::printf("single %.6f\n", seconds() - start);
    llama_batch_free(batch);
    llama_free(context);
    llama_model_free(model);
    return output.flush() ? 0 : fail("cannot write");
}
