// Checks the buffer type without a model: every WSIC tensor of the given GGUF files in MUL_MAT, MUL_MAT_ID and GET_ROWS,
// for several numbers of vectors and threads, against its weights.
//   ops FILE.gguf...
//
// SPDX-License-Identifier: MIT OR Apache-2.0
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "ggml-wsic.h"
#include "ggml.h"
#include "wsic-model.h"
#include "wsic.h"

#define REQUIRE(condition)                                                                 \
    do {                                                                                   \
        if (!(condition)) {                                                                \
            std::fprintf(stderr, "%s:%d: not %s\n", __FILE__, __LINE__, #condition);       \
            std::exit(1);                                                                  \
        }                                                                                  \
    } while (0)

using Floats = std::vector<float>;

static ggml_context * new_context() {
    return ggml_init({ 64 * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true });
}

/// The buffer type as programs find it: the first of the CPU device's extra ones.
static ggml_backend_buffer_type_t buffer_type() {
    ggml_backend_dev_t cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    auto extra = (ggml_backend_dev_get_extra_bufts_t) ggml_backend_reg_get_proc_address(
        ggml_backend_dev_backend_reg(cpu), "ggml_backend_dev_get_extra_bufts");
    REQUIRE(extra != nullptr && *extra(cpu) != nullptr);
    return *extra(cpu);
}

/// Result of an operation; `build` makes it from the weight and fills its inputs by the function that it returns.
static Floats compute(ggml_tensor * weight, int threads,
                      const std::function<ggml_tensor *(ggml_context *, ggml_tensor *, std::function<void()> &)> & build) {
    ggml_context *        context = new_context();
    std::function<void()> fill;
    ggml_tensor *         result = build(context, weight, fill);
    ggml_backend_t        cpu    = ggml_backend_cpu_init();
    REQUIRE(ggml_backend_supports_op(cpu, result));
    ggml_backend_buffer_t buffer = ggml_backend_alloc_ctx_tensors(context, cpu);
    fill();
    ggml_cgraph * graph = ggml_new_graph(context);
    ggml_build_forward_expand(graph, result);
    ggml_backend_cpu_set_n_threads(cpu, threads);
    REQUIRE(ggml_backend_graph_compute(cpu, graph) == GGML_STATUS_SUCCESS);
    Floats values(ggml_nelements(result));
    ggml_backend_tensor_get(result, values.data(), 0, ggml_nbytes(result));
    ggml_backend_buffer_free(buffer);
    ggml_backend_free(cpu);
    ggml_free(context);
    return values;
}

static Floats weights_of(const wsic_entry & entry) {
    wsic_tensor * tensor = nullptr;
    REQUIRE(wsic_open(entry.bytes, entry.length, nullptr, nullptr, &tensor, nullptr) == WSIC_STATUS_OK);
    const size_t count = entry.rows * entry.columns;
    Floats       weights(entry.matrices * count);
    for (size_t matrix = 0; matrix < entry.matrices; matrix++) {
        size_t bytes = 0;
        REQUIRE(wsic_rows_scratch(tensor, matrix, &bytes) == WSIC_STATUS_OK);
        std::vector<uint8_t> scratch(bytes);
        REQUIRE(wsic_dequantize_rows(tensor, matrix, 0, entry.rows, &weights[matrix * count], count, scratch.data(), bytes,
                                     nullptr) == WSIC_STATUS_OK);
    }
    wsic_close(tensor);
    return weights;
}

static Floats random(size_t count) {
    static uint64_t state = 1;
    Floats          values(count);
    for (float & value : values) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        value = (float) (int32_t) (state >> 32) / 2147483648.0f;
    }
    return values;
}

/// Adds to error and energy of a vector's product with a matrix.
static void judge(const float * weights, const wsic_entry & entry, const float * x, const float * y, double & error,
                  double & energy) {
    for (size_t r = 0; r < entry.rows; r++) {
        double exact = 0;
        for (size_t c = 0; c < entry.columns; c++) {
            exact += (double) weights[r * entry.columns + c] * x[c];
        }
        error += (y[r] - exact) * (y[r] - exact);
        energy += exact * exact;
    }
}

/// The activations have eight bits.
static void require_close(double error, double energy) {
    REQUIRE(std::sqrt(error) <= 0.02 * std::sqrt(energy));
}

static void check_products(ggml_tensor * weight, const wsic_entry & entry, const Floats & weights) {
    const int64_t columns = entry.columns, rows = entry.rows;
    for (int64_t batch : { 1, 2, 63, 64, 300 }) {
        for (int64_t gap : { 0, 3 }) {
            const Floats x       = random(batch * (columns + gap));
            const auto   product = [&](int threads) {
                return compute(weight, threads, [&](ggml_context * context, ggml_tensor * w, std::function<void()> & fill) {
                    ggml_tensor * whole = ggml_new_tensor_2d(context, GGML_TYPE_F32, columns + gap, batch);
                    ggml_tensor * view  = ggml_view_2d(context, whole, columns, batch, whole->nb[1], 0);
                    fill = [&x, whole] { ggml_backend_tensor_set(whole, x.data(), 0, x.size() * sizeof(float)); };
                    return ggml_mul_mat(context, w, view);
                });
            };
            const Floats y     = product(1);
            double       error = 0, energy = 0;
            for (int64_t b = 0; b < batch; b++) {
                judge(weights.data(), entry, &x[b * (columns + gap)], &y[b * rows], error, energy);
            }
            require_close(error, energy);
            REQUIRE(product(2) == y && product(5) == y);
        }
    }
}

static void check_rows(ggml_tensor * weight, const wsic_entry & entry, const Floats & weights) {
    const int64_t        columns = entry.columns;
    std::vector<int32_t> ids;
    for (int32_t i = 0; i < 70; i++) {
        ids.push_back((int32_t) ((i * 37) % entry.rows));
    }
    for (int threads : { 1, 3 }) {
        const Floats found =
            compute(weight, threads, [&](ggml_context * context, ggml_tensor * w, std::function<void()> & fill) {
                ggml_tensor * list = ggml_new_tensor_1d(context, GGML_TYPE_I32, ids.size());
                fill = [&ids, list] { ggml_backend_tensor_set(list, ids.data(), 0, ids.size() * sizeof(int32_t)); };
                return ggml_get_rows(context, w, list);
            });
        for (size_t i = 0; i < ids.size(); i++) {
            REQUIRE(std::memcmp(&found[i * columns], &weights[ids[i] * columns], columns * sizeof(float)) == 0);
        }
    }
}

/// Each token uses two experts; their inputs are the same (`inputs` 1) or differ (2).
static void check_experts(ggml_tensor * weight, const wsic_entry & entry, const Floats & weights) {
    const int64_t columns = entry.columns, rows = entry.rows, experts = entry.matrices;
    for (int64_t tokens : { 1, 4, 150 }) {
        for (int64_t inputs : { 1, 2 }) {
            const Floats         x = random(columns * inputs * tokens);
            std::vector<int32_t> ids;
            for (int64_t t = 0; t < tokens; t++) {
                ids.push_back((int32_t) (t * t % experts));
                ids.push_back((int32_t) ((t * t + 1) % experts));
            }
            const auto product = [&](int threads) {
                return compute(weight, threads, [&](ggml_context * context, ggml_tensor * w, std::function<void()> & fill) {
                    ggml_tensor * in   = ggml_new_tensor_3d(context, GGML_TYPE_F32, columns, inputs, tokens);
                    ggml_tensor * list = ggml_new_tensor_2d(context, GGML_TYPE_I32, 2, tokens);
                    fill               = [&x, &ids, in, list] {
                        ggml_backend_tensor_set(in, x.data(), 0, x.size() * sizeof(float));
                        ggml_backend_tensor_set(list, ids.data(), 0, ids.size() * sizeof(int32_t));
                    };
                    return ggml_mul_mat_id(context, w, in, list);
                });
            };
            const Floats y     = product(1);
            double       error = 0, energy = 0;
            for (int64_t i = 0; i < 2 * tokens; i++) {
                const float * input = &x[(i / 2 * inputs + i % inputs * (inputs - 1)) * columns];
                judge(&weights[ids[i] * rows * columns], entry, input, &y[i * rows], error, energy);
            }
            require_close(error, energy);
            REQUIRE(product(2) == y && product(5) == y);
        }
    }
}

static int check_file(const char * path) {
    const char * reason = nullptr;
    wsic_model * model  = wsic_model_open(path, &reason);
    if (model == nullptr || !ggml_wsic_use_model(path)) {
        std::fprintf(stderr, "%s: %s\n", path, reason);
        std::exit(1);
    }
    for (size_t i = 0; i < wsic_model_count(model); i++) {
        size_t        length;
        wsic_entry    entry;
        const char *  bytes = wsic_model_tensor(model, i, &length, &entry);
        ggml_context * context = new_context();
        const ggml_type type = entry.columns % 256 == 0  ? GGML_TYPE_TQ1_0
                               : entry.columns % 32 == 0 ? GGML_TYPE_Q4_0
                                                         : GGML_TYPE_F16;
        ggml_tensor *   weight = ggml_new_tensor_3d(context, type, entry.columns, entry.rows, entry.matrices);
        ggml_set_name(weight, std::string(bytes, length).c_str());
        ggml_backend_buffer_t buffer = ggml_backend_alloc_ctx_tensors_from_buft(context, buffer_type());
        REQUIRE(buffer != nullptr && weight->extra != nullptr);
        const Floats weights = weights_of(entry);
        if (entry.matrices == 1) {
            check_products(weight, entry, weights);
            check_rows(weight, entry, weights);
        } else {
            check_experts(weight, entry, weights);
        }
        ggml_backend_buffer_free(buffer);
        ggml_free(context);
    }
    const int count = (int) wsic_model_count(model);
    wsic_model_close(model);
    return count;
}

int main(int count, char ** arguments) {
    int tensors = 0;
    for (int i = 1; i < count; i++) {
        tensors += check_file(arguments[i]);
    }
    std::printf("%d tensors\n", tensors);
    return 0;
}
