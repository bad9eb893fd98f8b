// ggml-wsic.cpp: a buffer type of ggml's CPU device whose weights are WSIC payloads.
//
// llama.cpp refuses files with tensor types that it does not know. So it is given a skeleton (`wsic skeleton`): the same
// model where the coded tensors have an ordinary type and no data. For each of them this buffer type opens the payload of
// that name in the WSIC model itself, and multiplies through the C interface. Loaded as a plugin, GGML_BACKEND_PATH names
// this library and WSIC_MODEL the model; see README.md.
//
// SPDX-License-Identifier: MIT OR Apache-2.0
#include "ggml-wsic.h"

#include "ggml-backend-impl.h"
#include "ggml-cpu-impl.h"
#include "ggml-cpu.h"
#include "ggml-impl.h"
#include "traits.h"
#include "wsic-model.h"
#include "wsic.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

namespace {

/// A mapped model and where its payloads are.
struct Model {
    wsic_model *                                files;
    std::unordered_map<std::string, wsic_entry> entries;

    explicit Model(wsic_model * opened) : files(opened) {
        for (size_t i = 0; i < wsic_model_count(files); i++) {
            size_t       length;
            wsic_entry   entry;
            const char * name = wsic_model_tensor(files, i, &length, &entry);
            entries.emplace(std::string(name, length), entry);
        }
    }
    Model(const Model &) = delete;
    ~Model() { wsic_model_close(files); }
};

/// The model whose weights are loaded next.
std::shared_ptr<Model> & current() {
    static std::shared_ptr<Model> model;
    return model;
}

/// An opened weight: what `extra` of a tensor points at.
struct Weight {
    std::shared_ptr<Model> model;
    wsic_tensor *          tensor = nullptr;
    wsic_entry             entry;
    /// Working memory of one thread for products with experts.
    size_t expert_bytes = 0;

    ~Weight() { wsic_close(tensor); }
};

/// A buffer: the tensors in it have no data of their own, only addresses.
struct Buffer {
    std::vector<uint8_t>                 addresses;
    std::vector<std::unique_ptr<Weight>> weights;
};

/// Bytes of address space of a weight.
constexpr size_t ALIGNMENT = 64;

/// Vectors from which on each thread takes vectors instead of rows, for each thread.
constexpr int64_t VECTORS_TO_SPLIT = 32;
/// Vectors that a thread prepares at a time.
constexpr int64_t MOST_VECTORS = 256;
/// The same for an expert.
constexpr int64_t MOST_EXPERT_VECTORS = 64;

size_t padded(size_t bytes) {
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

/// A damaged payload is found when it is decoded, where ggml has no way to report it.
void require(wsic_status status, const wsic_error & error, const ggml_tensor * op) {
    if (status != WSIC_STATUS_OK) {
        GGML_ABORT("WSIC weight %s: %s", op->src[0]->name, error.message);
    }
}

size_t activation_bytes(const Weight & weight, size_t matrix, int64_t batch) {
    size_t bytes = 0;
    GGML_ASSERT(wsic_activation_bytes(weight.tensor, matrix, (size_t) batch, &bytes) == WSIC_STATUS_OK);
    return padded(bytes);
}

size_t product_scratch(const Weight & weight, size_t matrix, int64_t batch) {
    size_t bytes = 0;
    GGML_ASSERT(wsic_product_scratch(weight.tensor, matrix, (size_t) batch, &bytes) == WSIC_STATUS_OK);
    return padded(bytes);
}

size_t rows_scratch(const Weight & weight) {
    size_t bytes = 0;
    GGML_ASSERT(wsic_rows_scratch(weight.tensor, 0, &bytes) == WSIC_STATUS_OK);
    return padded(bytes);
}

/// Working memory of one thread for products of up to `batch` vectors: activations, the vectors and the results if they
/// have to be gathered, scratch.
struct Workspace {
    size_t activations, gathered, results, scratch;

    Workspace(const Weight & weight, size_t matrix, int64_t batch, bool gather, bool scatter)
        : activations(activation_bytes(weight, matrix, batch)),
          gathered(gather ? padded(batch * weight.entry.columns * sizeof(float)) : 0),
          results(scatter ? padded(batch * weight.entry.rows * sizeof(float)) : 0),
          scratch(product_scratch(weight, matrix, batch)) {}

    size_t bytes() const { return activations + gathered + results + scratch; }
};

/// Part `index` of `count` of 0..length.
int64_t part(int64_t length, int64_t index, int64_t count) {
    return length * index / count;
}

int64_t batch_of(const ggml_tensor * x) {
    return ggml_nrows(x);
}

/// Vectors of a thread's block; 0 if the threads share rows instead.
int64_t block_of(int64_t batch, int64_t threads) {
    return batch < VECTORS_TO_SPLIT * threads ? 0 : std::min((batch + threads - 1) / threads, MOST_VECTORS);
}

/// Address of vector `index` of the second operand.
const char * vector_of(const ggml_tensor * x, int64_t index) {
    const int64_t i1 = index % x->ne[1], i2 = index / x->ne[1] % x->ne[2], i3 = index / x->ne[1] / x->ne[2];
    return (const char *) x->data + i1 * x->nb[1] + i2 * x->nb[2] + i3 * x->nb[3];
}

const wsic_activations * prepare(const Weight & weight, const ggml_tensor * op, size_t matrix, const float * x,
                                 int64_t batch, uint8_t * memory, size_t bytes) {
    const wsic_activations * activations = nullptr;
    wsic_error               error;
    // For one vector the finer rounding is the faster one; logits, which a prompt needs one of, are worth it.
    const bool head     = std::strcmp(op->src[0]->name, "output.weight") == 0 ||
                          std::strcmp(op->src[0]->name, "token_embd.weight") == 0;
    const auto function = batch > 1 && !head ? wsic_prepare_mixed : wsic_prepare;
    require(function(weight.tensor, matrix, x, (size_t) batch * weight.entry.columns, (size_t) batch, memory, bytes,
                     &activations, &error),
            error, op);
    return activations;
}

void multiply(const Weight & weight, const ggml_tensor * op, size_t matrix, size_t begin, size_t end,
              const wsic_activations * activations, int64_t batch, float * y, size_t stride, uint8_t * scratch,
              size_t scratch_bytes) {
    wsic_error error;
    require(wsic_matmul(weight.tensor, matrix, begin, end, activations, y, (batch - 1) * stride + end - begin, stride,
                        scratch, scratch_bytes, &error),
            error, op);
}

/// Vectors `first` to `first + count - 1` of the second operand, next to each other.
const float * gather(const ggml_tensor * x, int64_t first, int64_t count, uint8_t * memory) {
    if (ggml_is_contiguous(x)) {
        return (const float *) x->data + first * x->ne[0];
    }
    const size_t bytes = x->ne[0] * sizeof(float);
    for (int64_t i = 0; i < count; i++) {
        std::memcpy(memory + i * bytes, vector_of(x, first + i), bytes);
    }
    return (const float *) memory;
}

/// Whether products use the weights as floats: slow, and free of the rounding of activations to eight bits.
bool exact() {
    static const bool set = std::getenv("WSIC_EXACT") != nullptr;
    return set;
}

size_t rows_per_tile(const Weight & weight) {
    wsic_layout layout;
    GGML_ASSERT(wsic_matrix_layout(weight.tensor, 0, &layout) == WSIC_STATUS_OK);
    return (size_t) std::min(layout.rows_per_tile, weight.entry.rows);
}

size_t exact_bytes(const Weight & weight) {
    return padded(rows_per_tile(weight) * weight.entry.columns * sizeof(float)) + rows_scratch(weight);
}

/// Each thread makes some tiles into floats and multiplies them with all vectors.
void mul_mat_exact(const Weight & weight, const ggml_compute_params * params, ggml_tensor * op) {
    const ggml_tensor * x       = op->src[1];
    const size_t        columns = weight.entry.columns, rows = weight.entry.rows, height = rows_per_tile(weight);
    uint8_t *           memory  = (uint8_t *) params->wdata + params->ith * exact_bytes(weight);
    float *             weights = (float *) memory;
    uint8_t *           scratch = memory + padded(height * columns * sizeof(float));
    size_t              begin = 0, end = 0;
    GGML_ASSERT(wsic_split_rows(weight.tensor, 0, params->ith, params->nth, &begin, &end) == WSIC_STATUS_OK);
    for (size_t first = begin; first < end; first += height) {
        const size_t count = std::min(height, end - first);
        wsic_error   error;
        require(wsic_dequantize_rows(weight.tensor, 0, first, first + count, weights, count * columns, scratch,
                                     rows_scratch(weight), &error),
                error, op);
        for (int64_t b = 0; b < batch_of(x); b++) {
            const float * vector = (const float *) vector_of(x, b);
            for (size_t r = 0; r < count; r++) {
                double sum = 0;
                for (size_t c = 0; c < columns; c++) {
                    sum += (double) weights[r * columns + c] * vector[c];
                }
                ((float *) op->data)[b * rows + first + r] = (float) sum;
            }
        }
    }
}

size_t mul_mat_bytes(const Weight & weight, const ggml_tensor * op, int64_t threads) {
    if (exact()) {
        return threads * exact_bytes(weight);
    }
    const bool    scattered = !ggml_is_contiguous(op->src[1]);
    const int64_t batch = batch_of(op->src[1]), block = block_of(batch, threads);
    if (block > 0) {
        return threads * Workspace(weight, 0, block, scattered, false).bytes();
    }
    const Workspace all(weight, 0, batch, scattered, false);
    return ALIGNMENT + all.bytes() + (threads - 1) * all.scratch;
}

void mul_mat(const Weight & weight, const ggml_compute_params * params, ggml_tensor * op) {
    if (exact()) {
        return mul_mat_exact(weight, params, op);
    }
    const ggml_tensor * x         = op->src[1];
    const bool          scattered = !ggml_is_contiguous(x);
    const int64_t       batch = batch_of(x), block = block_of(batch, params->nth);
    const size_t        rows = weight.entry.rows;
    float *             y    = (float *) op->data;
    uint8_t *           work = (uint8_t *) params->wdata;
    if (block > 0) {
        // Many vectors: each thread takes some, with all rows.
        const Workspace space(weight, 0, block, scattered, false);
        uint8_t *       memory   = work + params->ith * space.bytes();
        uint8_t *       gathered = memory + space.activations;
        const int64_t   end      = part(batch, params->ith + 1, params->nth);
        for (int64_t first = part(batch, params->ith, params->nth); first < end; first += block) {
            const int64_t count = std::min(block, end - first);
            const float * input = gather(x, first, count, gathered);
            const auto *  activations = prepare(weight, op, 0, input, count, memory, space.activations);
            multiply(weight, op, 0, 0, rows, activations, count, y + first * rows, rows, gathered + space.gathered,
                     space.scratch);
        }
        return;
    }
    // Few vectors: one thread prepares them, each takes some rows.
    const Workspace           space(weight, 0, batch, scattered, false);
    const wsic_activations ** shared = (const wsic_activations **) work;
    uint8_t *                 memory = work + ALIGNMENT;
    if (params->ith == 0) {
        const float * input = gather(x, 0, batch, memory + space.activations);
        *shared             = prepare(weight, op, 0, input, batch, memory, space.activations);
    }
    ggml_barrier(params->threadpool);
    size_t begin = 0, end = 0;
    GGML_ASSERT(wsic_split_rows(weight.tensor, 0, params->ith, params->nth, &begin, &end) == WSIC_STATUS_OK);
    uint8_t * scratch = memory + space.activations + space.gathered + params->ith * space.scratch;
    multiply(weight, op, 0, begin, end, *shared, batch, y + begin, rows, scratch, space.scratch);
}

/// The same for the experts of an opened weight, whichever is used.
size_t expert_bytes(const Weight & weight) {
    size_t most = 0;
    for (size_t matrix = 0; matrix < weight.entry.matrices; matrix++) {
        most = std::max(most, Workspace(weight, matrix, MOST_EXPERT_VECTORS, true, true).bytes());
    }
    return most;
}

/// Each thread takes experts: the k-th one that is used goes to thread k modulo their number.
void mul_mat_id(const Weight & weight, const ggml_compute_params * params, ggml_tensor * op) {
    const ggml_tensor * x = op->src[1];
    const ggml_tensor * ids = op->src[2];
    const int64_t       used = ids->ne[0], tokens = ids->ne[1];
    const size_t        columns = weight.entry.columns, rows = weight.entry.rows;
    const auto          expert_of = [&](int64_t slot, int64_t token) {
        return *(const int32_t *) ((const char *) ids->data + slot * ids->nb[0] + token * ids->nb[1]);
    };
    uint8_t * work = (uint8_t *) params->wdata + params->ith * weight.expert_bytes;
    int64_t   turn = 0;
    for (int32_t expert = 0; expert < (int32_t) weight.entry.matrices; expert++) {
        float * places[MOST_EXPERT_VECTORS];
        int64_t count = 0;
        bool    mine = false, seen = false;
        const Workspace space(weight, expert, MOST_EXPERT_VECTORS, true, true);
        float *         input   = (float *) (work + space.activations);
        float *         results = (float *) (work + space.activations + space.gathered);
        const auto      flush   = [&] {
            if (count > 0) {
                const auto * activations = prepare(weight, op, expert, input, count, work, space.activations);
                multiply(weight, op, expert, 0, rows, activations, count, results, rows,
                              (uint8_t *) results + space.results, space.scratch);
                for (int64_t i = 0; i < count; i++) {
                    std::memcpy(places[i], results + i * rows, rows * sizeof(float));
                }
            }
            count = 0;
        };
        for (int64_t token = 0; token < tokens; token++) {
            for (int64_t slot = 0; slot < used; slot++) {
                if (expert_of(slot, token) != expert) {
                    continue;
                }
                if (!seen) {
                    seen = true;
                    mine = turn++ % params->nth == params->ith;
                }
                if (!mine) {
                    break;
                }
                const char * vector = (const char *) x->data + slot % x->ne[1] * x->nb[1] + token * x->nb[2];
                std::memcpy(input + count * columns, vector, columns * sizeof(float));
                places[count++] = (float *) ((char *) op->data + slot * op->nb[1] + token * op->nb[2]);
                if (count == MOST_EXPERT_VECTORS) {
                    flush();
                }
            }
        }
        flush();
    }
}

void get_rows(const Weight & weight, const ggml_compute_params * params, ggml_tensor * op) {
    const int64_t count = ggml_nelements(op->src[1]);
    const int64_t first = part(count, params->ith, params->nth), end = part(count, params->ith + 1, params->nth);
    const size_t  columns = weight.entry.columns, scratch = rows_scratch(weight);
    if (first == end) {
        return;
    }
    wsic_error error;
    require(wsic_get_rows(weight.tensor, 0, (const uint32_t *) op->src[1]->data + first, end - first,
                          (float *) op->data + first * columns, (end - first) * columns,
                          (uint8_t *) params->wdata + params->ith * scratch, scratch, &error),
            error, op);
}

class Traits : public ggml::cpu::tensor_traits {
public:
    bool work_size(int n_threads, const ggml_tensor * op, size_t & size) override {
        const Weight & weight = *(const Weight *) op->src[0]->extra;
        switch (op->op) {
            case GGML_OP_MUL_MAT:
                size = mul_mat_bytes(weight, op, n_threads);
                return true;
            case GGML_OP_MUL_MAT_ID:
                size = n_threads * weight.expert_bytes;
                return true;
            case GGML_OP_GET_ROWS:
                size = n_threads * rows_scratch(weight);
                return true;
            default:
                return false;
        }
    }

    bool compute_forward(ggml_compute_params * params, ggml_tensor * op) override {
        const Weight & weight = *(const Weight *) op->src[0]->extra;
        switch (op->op) {
            case GGML_OP_MUL_MAT:
                mul_mat(weight, params, op);
                return true;
            case GGML_OP_MUL_MAT_ID:
                mul_mat_id(weight, params, op);
                return true;
            case GGML_OP_GET_ROWS:
                get_rows(weight, params, op);
                return true;
            default:
                return false;
        }
    }
};

ggml_backend_buffer_type_t buffer_type();

bool is_ours(const ggml_tensor * weight) {
    return weight != nullptr && weight->buffer != nullptr && weight->buffer->buft == buffer_type();
}

/// The type that `wsic skeleton` gives to a weight with rows of `columns`.
ggml_type stand_in(int64_t columns) {
    return columns % 256 == 0 ? GGML_TYPE_TQ1_0 : columns % 32 == 0 ? GGML_TYPE_Q4_0 : GGML_TYPE_F16;
}

class BufferType : public ggml::cpu::extra_buffer_type {
public:
    /// The model loader asks with weights that are not loaded yet, the scheduler with those that are.
    bool supports_op(ggml_backend_dev_t, const ggml_tensor * op) override {
        const ggml_tensor * weight = op->src[0];
        const ggml_tensor * x      = op->src[1];
        if (!is_ours(weight) || weight->view_src != nullptr || x == nullptr) {
            return false;
        }
        if (weight->extra == nullptr &&
            (current() == nullptr || weight->type != stand_in(weight->ne[0]) ||
             current()->entries.find(weight->name) == current()->entries.end())) {
            return false;
        }
        const bool floats = x->type == GGML_TYPE_F32 && x->nb[0] == sizeof(float);
        switch (op->op) {
            case GGML_OP_MUL_MAT:
                return floats && weight->ne[2] == 1 && weight->ne[3] == 1;
            case GGML_OP_MUL_MAT_ID:
                return floats && weight->ne[3] == 1 && x->ne[3] == 1;
            case GGML_OP_GET_ROWS:
                return x->type == GGML_TYPE_I32 && ggml_is_contiguous(x) && weight->ne[2] == 1 && weight->ne[3] == 1;
            default:
                return false;
        }
    }

    ggml::cpu::tensor_traits * get_tensor_traits(const ggml_tensor * op) override {
        static Traits traits;
        const bool    known = op->op == GGML_OP_MUL_MAT || op->op == GGML_OP_MUL_MAT_ID || op->op == GGML_OP_GET_ROWS;
        return known && is_ours(op->src[0]) && op->src[0]->extra != nullptr ? &traits : nullptr;
    }
};

Buffer & context_of(ggml_backend_buffer_t buffer) {
    return *(Buffer *) buffer->context;
}

/// Opens the payload of a weight; the loader gives up if that fails.
ggml_status init_tensor(ggml_backend_buffer_t buffer, ggml_tensor * tensor) {
    const auto model = current();
    if (tensor->view_src != nullptr || tensor->ne[3] != 1 || model == nullptr) {
        return GGML_STATUS_FAILED;
    }
    const auto found = model->entries.find(tensor->name);
    if (found == model->entries.end()) {
        GGML_LOG_ERROR("WSIC: the model has no weight %s\n", tensor->name);
        return GGML_STATUS_FAILED;
    }
    auto weight   = std::make_unique<Weight>();
    weight->model = model;
    weight->entry = found->second;
    const wsic_shape shape = { (uint64_t) tensor->ne[1], (uint64_t) tensor->ne[0], (uint64_t) tensor->ne[2] };
    wsic_error       error;
    if (wsic_open(weight->entry.bytes, weight->entry.length, nullptr, &shape, &weight->tensor, &error) != WSIC_STATUS_OK) {
        GGML_LOG_ERROR("WSIC: weight %s: %s\n", tensor->name, error.message);
        return GGML_STATUS_FAILED;
    }
    if (std::getenv("WSIC_VERIFY") != nullptr) {
        for (size_t matrix = 0; matrix < shape.matrices; matrix++) {
            if (wsic_verify_rows(weight->tensor, matrix, 0, shape.rows, &error) != WSIC_STATUS_OK) {
                GGML_LOG_ERROR("WSIC: weight %s: %s\n", tensor->name, error.message);
                return GGML_STATUS_FAILED;
            }
        }
    }
    weight->expert_bytes = expert_bytes(*weight);
    tensor->extra        = weight.get();
    context_of(buffer).weights.push_back(std::move(weight));
    return GGML_STATUS_SUCCESS;
}

/// The data of a skeleton: zeros. Another model of the same names is not to be mistaken for one.
void set_tensor(ggml_backend_buffer_t, ggml_tensor * tensor, const void * data, size_t, size_t size) {
    const uint8_t * bytes = (const uint8_t *) data;
    const uint8_t * end   = bytes + std::min<size_t>(size, 4096);
    if (std::any_of(bytes, end, [](uint8_t byte) { return byte != 0; })) {
        GGML_ABORT("WSIC: weight %s has data, so this model is not the skeleton of the one in use", tensor->name);
    }
}

ggml_backend_buffer_t alloc_buffer(ggml_backend_buffer_type_t type, size_t size) {
    static const ggml_backend_buffer_i interface = [] {
        ggml_backend_buffer_i i = {};
        i.free_buffer = [](ggml_backend_buffer_t buffer) { delete &context_of(buffer); };
        i.get_base    = [](ggml_backend_buffer_t buffer) -> void * {
            uint8_t * start = context_of(buffer).addresses.data();
            return start + (ALIGNMENT - (uintptr_t) start % ALIGNMENT) % ALIGNMENT;
        };
        i.init_tensor   = init_tensor;
        i.memset_tensor = [](ggml_backend_buffer_t, ggml_tensor *, uint8_t, size_t, size_t) {};
        i.set_tensor    = set_tensor;
        i.get_tensor = [](ggml_backend_buffer_t, const ggml_tensor * tensor, void *, size_t, size_t) {
            GGML_ABORT("WSIC weight %s has no plain form to read", tensor->name);
        };
        i.clear = [](ggml_backend_buffer_t, uint8_t) {};
        return i;
    }();
    auto * buffer = new Buffer;
    buffer->addresses.resize(size + ALIGNMENT);
    return ggml_backend_buffer_init(type, interface, buffer, size);
}

ggml_backend_buffer_type_t buffer_type() {
    static BufferType              context;
    static ggml_backend_buffer_type type = [] {
        ggml_backend_buffer_type t = {};
        t.iface.get_name       = [](ggml_backend_buffer_type_t) { return "WSIC"; };
        t.iface.alloc_buffer   = alloc_buffer;
        t.iface.get_alignment  = [](ggml_backend_buffer_type_t) { return ALIGNMENT; };
        t.iface.get_alloc_size = [](ggml_backend_buffer_type_t, const ggml_tensor *) { return ALIGNMENT; };
        t.iface.is_host        = [](ggml_backend_buffer_type_t) { return false; };
        t.device               = ggml_backend_reg_dev_get(ggml_backend_cpu_reg(), 0);
        // What ggml's CPU device expects here.
        t.context = static_cast<ggml::cpu::extra_buffer_type *>(&context);
        return t;
    }();
    return &type;
}

}  // namespace

bool ggml_wsic_use_model(const char * path) {
    const char * reason = nullptr;
    wsic_model * files  = wsic_model_open(path, &reason);
    if (files == nullptr) {
        GGML_LOG_ERROR("WSIC: %s: %s\n", path, reason);
        return false;
    }
    current()    = std::make_shared<Model>(files);
    auto & types = ggml_backend_cpu_get_extra_buffer_types();
    if (std::find(types.begin(), types.end(), buffer_type()) == types.end()) {
        types.insert(types.begin(), buffer_type());
    }
    GGML_LOG_INFO("WSIC: %s: %zu weights, %s\n", path, current()->entries.size(), wsic_isa_name(wsic_isa_selected()));
    return true;
}

#ifdef GGML_WSIC_PLUGIN
/// Entry point of a plugin. The backend has no device: its buffer type belongs to the CPU.
extern "C" {
GGML_BACKEND_API ggml_backend_reg_t ggml_backend_init(void);
}

ggml_backend_reg_t ggml_backend_init(void) {
    static ggml_backend_reg registration = [] {
        ggml_backend_reg r = {};
        r.api_version            = GGML_BACKEND_API_VERSION;
        r.iface.get_name         = [](ggml_backend_reg_t) { return "WSIC"; };
        r.iface.get_device_count = [](ggml_backend_reg_t) -> size_t { return 0; };
        r.iface.get_device       = [](ggml_backend_reg_t, size_t) -> ggml_backend_dev_t { return nullptr; };
        r.iface.get_proc_address = [](ggml_backend_reg_t, const char *) -> void * { return nullptr; };
        return r;
    }();
    const char * path = std::getenv("WSIC_MODEL");
    if (path == nullptr) {
        GGML_LOG_ERROR("WSIC: the environment variable WSIC_MODEL has to name the model\n");
        return nullptr;
    }
    return ggml_wsic_use_model(path) ? &registration : nullptr;
}
#endif
