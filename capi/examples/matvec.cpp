// Multiplies the first matrix of a payload with two vectors on two threads:
// c++ -std=c++17 matvec.cpp -lwsic -pthread; ./a.out FILE.wsic
// Prints the products with the second vector, which is the vector of matvec.c.
#include <cstdio>
#include <fstream>
#include <iterator>
#include <thread>

#include "wsic.hpp"

int main(int count, char ** arguments) try {
    if (count != 2) {
        std::fputs("usage: matvec FILE.wsic\n", stderr);
        return 2;
    }
    std::ifstream              file(arguments[1], std::ios::binary);
    const std::vector<uint8_t> bytes{ std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>() };

    const wsic::Tensor tensor(bytes.data(), bytes.size());
    const auto         shape = tensor.shape();

    std::vector<float> x(2 * shape.columns, 1.0f);
    for (std::size_t c = 0; c < shape.columns; c++) {
        x[shape.columns + c] = static_cast<float>(static_cast<int>(37 * c % 101) - 50);
    }
    wsic::Activations activations;
    tensor.prepare(x.data(), 2, activations);

    std::vector<float>       y(2 * shape.rows);
    std::vector<std::thread> threads;
    for (std::size_t part = 0; part < 2; part++) {
        threads.emplace_back([&, part] {
            wsic::Scratch scratch;
            tensor.multiply(tensor.part(part, 2), activations, y.data(), shape.rows, scratch);
        });
    }
    for (auto & thread : threads) {
        thread.join();
    }
    for (std::size_t r = 0; r < shape.rows; r++) {
        std::printf("%.9g\n", static_cast<double>(y[shape.rows + r]));
    }
    return 0;
} catch (const wsic::Error & error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
}
