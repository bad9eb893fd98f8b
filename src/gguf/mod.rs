//! The container: lossless GGUF reader, streaming writer, ggml types and their dequantization.
