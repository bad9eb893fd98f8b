// Times ggml's CPU matrix products on one thread, in processor time of that thread.
// Usage: ggml-peer ROWS COLUMNS BATCH COLD [TYPE...]; prints one line per type: name, bits, 10^9 weights/s.
// With COLD 1 copies of the matrix take turns so that no cache holds them. "+repack" is ggml's interleaved layout,
// where it has one for the type.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>
#include <vector>

#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "ggml.h"

static double now() {
    timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

static uint64_t state = 88172645463325252ull;
static float noise() {
    float sum = 0;
    for (int i = 0; i < 12; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        sum += (state >> 40) / 16777216.0f;
    }
    return sum - 6.0f;
}

// Seconds of one product, or a negative number if the buffer type does not take the type.
static double measure(ggml_backend_t backend, ggml_backend_buffer_type_t buffers, ggml_type type,
                      const std::vector<char> & data, int64_t rows, int64_t columns, int64_t batch, int copies) {
    ggml_init_params params = {ggml_tensor_overhead() * (3 * copies + 8) + ggml_graph_overhead(), nullptr, true};
    ggml_context * weights = ggml_init(params);
    ggml_context * rest = ggml_init(params);
    ggml_tensor * x = ggml_new_tensor_2d(rest, GGML_TYPE_F32, columns, batch);
    ggml_cgraph * graph = ggml_new_graph(rest);
    std::vector<ggml_tensor *> matrices;
    for (int i = 0; i < copies; i++) {
        matrices.push_back(ggml_new_tensor_2d(weights, type, columns, rows));
    }
    ggml_backend_buffer_t weight_buffer = ggml_backend_alloc_ctx_tensors_from_buft(weights, buffers);
    double best = -1;
    ggml_backend_buffer_t rest_buffer = nullptr;
    if (weight_buffer) {
        std::vector<ggml_tensor *> products;
        for (ggml_tensor * matrix : matrices) products.push_back(ggml_mul_mat(rest, matrix, x));
        if (ggml_backend_supports_op(backend, products[0])) {
            for (ggml_tensor * product : products) ggml_build_forward_expand(graph, product);
            rest_buffer = ggml_backend_alloc_ctx_tensors_from_buft(rest, ggml_backend_cpu_buffer_type());
            for (ggml_tensor * matrix : matrices) ggml_backend_tensor_set(matrix, data.data(), 0, data.size());
            std::vector<float> values(columns * batch);
            for (float & value : values) value = noise();
            ggml_backend_tensor_set(x, values.data(), 0, values.size() * sizeof(float));
            best = 1e9;
            double spent = 0;
            for (int round = 0; round < 5 || spent < 0.6; round++) {
                double start = now();
                ggml_backend_graph_compute(backend, graph);
                double time = now() - start;
                spent += time;
                best = std::fmin(best, time / copies);
            }
        }
        ggml_backend_buffer_free(weight_buffer);
    }
    if (rest_buffer) ggml_backend_buffer_free(rest_buffer);
    ggml_free(weights);
    ggml_free(rest);
    return best;
}

int main(int count, char ** arguments) {
    if (count < 5) return 1;
    const int64_t rows = atol(arguments[1]), columns = atol(arguments[2]), batch = atol(arguments[3]);
    const bool cold = atoi(arguments[4]) != 0;
    std::vector<ggml_type> types = {GGML_TYPE_IQ2_XXS, GGML_TYPE_IQ2_S, GGML_TYPE_IQ3_XXS, GGML_TYPE_Q2_K,
                                    GGML_TYPE_Q3_K,    GGML_TYPE_Q4_K,  GGML_TYPE_IQ4_XS,  GGML_TYPE_Q8_0};
    ggml_backend_t backend = ggml_backend_cpu_init();
    ggml_backend_cpu_set_n_threads(backend, 1);
    ggml_backend_dev_t device = ggml_backend_get_device(backend);
    auto extra = (ggml_backend_dev_get_extra_bufts_t) ggml_backend_reg_get_proc_address(
        ggml_backend_dev_backend_reg(device), "ggml_backend_dev_get_extra_bufts");
    for (ggml_type type : types) {
        std::string name = ggml_type_name(type);
        if (count > 5) {
            bool wanted = false;
            for (int i = 5; i < count; i++) wanted |= name == arguments[i];
            if (!wanted) continue;
        }
        const int64_t drawn = 64;
        std::vector<float> source(drawn * columns), importance(columns, 1.0f);
        for (float & value : source) value = 0.02f * noise();
        const size_t row_bytes = ggml_row_size(type, columns);
        std::vector<char> data(rows * row_bytes);
        ggml_quantize_chunk(type, source.data(), data.data(), 0, drawn, columns, importance.data());
        for (int64_t row = drawn; row < rows; row++) {
            memcpy(&data[row * row_bytes], &data[(row % drawn) * row_bytes], row_bytes);
        }
        const int copies = cold ? (int) ((384u << 20) / data.size()) + 1 : 1;
        const double bits = 8.0 * row_bytes / columns;
        const double weights = (double) rows * columns * batch;
        double time = measure(backend, ggml_backend_cpu_buffer_type(), type, data, rows, columns, batch, copies);
        printf("%s\t%.3f\t%.3f\n", name.c_str(), bits, weights / time / 1e9);
        for (ggml_backend_buffer_type_t * buft = extra ? extra(device) : nullptr; buft && *buft; buft++) {
            time = measure(backend, *buft, type, data, rows, columns, batch, copies);
            if (time > 0) printf("%s+repack\t%.3f\t%.3f\n", name.c_str(), bits, weights / time / 1e9);
        }
        fflush(stdout);
    }
    ggml_backend_free(backend);
}
