// wsic.hpp: C++17 wrapper of wsic.h. Owns handles and buffers, throws wsic::Error.
//
// The rules of wsic.h hold: a Tensor borrows the payload's bytes; Tensor and Activations may be read by any number of
// threads at once; each thread has a Scratch of its own, which the products resize when it is too small.

#ifndef WSIC_HPP
#define WSIC_HPP

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include "wsic.h"

namespace wsic {

/// A failed call; what() is the library's message.
class Error : public std::runtime_error {
public:
    explicit Error(const wsic_error & error)
        : std::runtime_error(error.message), status(error.status), offset(error.offset) {}
    explicit Error(wsic_status failed)
        : std::runtime_error(wsic_status_text(static_cast<int32_t>(failed))), status(failed), offset(0) {}

    const wsic_status status;
    /// For refused payloads the byte offset of what was refused.
    const uint64_t offset;
};

namespace detail {
inline void require(wsic_status status) {
    if (status != WSIC_STATUS_OK) {
        throw Error(status);
    }
}
inline void require(wsic_status status, const wsic_error & error) {
    if (status != WSIC_STATUS_OK) {
        throw Error(error);
    }
}
}  // namespace detail

using Scratch = std::vector<uint8_t>;

/// Rows of a matrix: begin to end - 1.
struct Rows {
    std::size_t begin;
    std::size_t end;
};

/// Vectors prepared for one matrix of one tensor. Movable: the buffer stays in place.
class Activations {
public:
    std::size_t batch() const { return batch_; }
    const wsic_activations * handle() const { return handle_; }

private:
    friend class Tensor;
    std::vector<uint8_t>     buffer_;
    const wsic_activations * handle_ = nullptr;
    std::size_t              batch_  = 0;
};

/// An opened payload.
class Tensor {
public:
    /// The bytes have to outlive the tensor, unchanged.
    Tensor(const uint8_t * bytes, std::size_t length, const wsic_limits * limits = nullptr,
           const wsic_shape * expected = nullptr) {
        wsic_tensor * handle = nullptr;
        wsic_error    error;
        detail::require(wsic_open(bytes, length, limits, expected, &handle, &error), error);
        handle_.reset(handle);
    }

    wsic_shape shape() const {
        wsic_shape shape;
        detail::require(wsic_tensor_shape(handle_.get(), &shape));
        return shape;
    }

    /// Rows for one of `parts` threads.
    Rows part(std::size_t index, std::size_t parts, std::size_t matrix = 0) const {
        Rows rows;
        detail::require(wsic_split_rows(handle_.get(), matrix, index, parts, &rows.begin, &rows.end));
        return rows;
    }

    /// Prepares `batch` vectors of `shape().columns` elements each, one after the other; `mixed` as wsic_prepare_mixed.
    void prepare(const float * x, std::size_t batch, Activations & activations, std::size_t matrix = 0,
                 bool mixed = false) const {
        std::size_t bytes = 0;
        detail::require(wsic_activation_bytes(handle_.get(), matrix, batch, &bytes));
        if (activations.buffer_.size() < bytes) {
            activations.buffer_.resize(bytes);
        }
        wsic_error error;
        const auto function = mixed ? wsic_prepare_mixed : wsic_prepare;
        detail::require(function(handle_.get(), matrix, x, batch * shape().columns, batch, activations.buffer_.data(),
                                 activations.buffer_.size(), &activations.handle_, &error),
                        error);
        activations.batch_ = batch;
    }

    /// Products of some rows with all vectors: y[b * stride + r] for row r of the matrix.
    void multiply(Rows rows, const Activations & activations, float * y, std::size_t stride, Scratch & scratch,
                  std::size_t matrix = 0) const {
        std::size_t bytes = 0;
        detail::require(wsic_product_scratch(handle_.get(), matrix, activations.batch(), &bytes));
        if (scratch.size() < bytes) {
            scratch.resize(bytes);
        }
        const std::size_t length = (activations.batch() - 1) * stride + rows.end - rows.begin;
        wsic_error        error;
        detail::require(wsic_matmul(handle_.get(), matrix, rows.begin, rows.end, activations.handle(), y + rows.begin,
                                    length, stride, scratch.data(), scratch.size(), &error),
                        error);
    }

    /// Weights of some rows, one after the other.
    void rows(const uint32_t * wanted, std::size_t count, float * out, Scratch & scratch,
              std::size_t matrix = 0) const {
        std::size_t bytes = 0;
        detail::require(wsic_rows_scratch(handle_.get(), matrix, &bytes));
        if (scratch.size() < bytes) {
            scratch.resize(bytes);
        }
        wsic_error error;
        detail::require(wsic_get_rows(handle_.get(), matrix, wanted, count, out, count * shape().columns,
                                      scratch.data(), scratch.size(), &error),
                        error);
    }

    const wsic_tensor * handle() const { return handle_.get(); }

private:
    struct Close {
        void operator()(wsic_tensor * tensor) const { wsic_close(tensor); }
    };
    std::unique_ptr<wsic_tensor, Close> handle_;
};

}  // namespace wsic

#endif
