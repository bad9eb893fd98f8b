//! Tokenizer and forward pass of the supported architectures.
