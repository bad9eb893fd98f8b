#!/usr/bin/env python3
"""Writes a llama model of the 1B class with random weights, F16: for measuring speed and memory, not quality.

Usage: model.py TOKENIZER.gguf OUT.gguf; needs numpy and gguf of PyPI, 2.1 GB of disk and half a minute.
Width 2048, feed-forward 8192, 16 layers, 32 heads, 8 of them for keys and values, the first 32,000 tokens of TOKENIZER's
vocabulary (byte-level BPE, whose later tokens come from later merges), embedding and output head tied.
"""
import sys

import gguf
import numpy

WIDTH, FEED_FORWARD, LAYERS, HEADS, KEY_HEADS, VOCABULARY = 2048, 8192, 16, 32, 8, 32000


def tokenizer(writer, path):
    fields = gguf.GGUFReader(path).fields
    strings = lambda name: [bytes(fields[name].parts[at]).decode() for at in fields[name].data]
    tokens = strings("tokenizer.ggml.tokens")[:VOCABULARY]
    known = set(tokens)
    kinds = fields["tokenizer.ggml.token_type"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(strings("tokenizer.ggml.pre")[0])
    writer.add_token_list(tokens)
    writer.add_token_types([int(kinds.parts[at][0]) for at in kinds.data[:VOCABULARY]])
    merges = strings("tokenizer.ggml.merges")
    writer.add_token_merges([merge for merge in merges if merge.replace(" ", "", 1) in known])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    writer = gguf.GGUFWriter(sys.argv[2], "llama")
    writer.add_context_length(2048)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(VOCABULARY)
    writer.add_file_type(1)
    tokenizer(writer, sys.argv[1])
    random = numpy.random.default_rng(1)

    def linear(name, rows, columns):
        values = random.standard_normal((rows, columns), dtype=numpy.float32) / numpy.sqrt(columns)
        writer.add_tensor(name + ".weight", values.astype(numpy.float16))

    def norm(name):
        writer.add_tensor(name + ".weight", numpy.ones(WIDTH, numpy.float32))

    linear("token_embd", VOCABULARY, WIDTH)
    norm("output_norm")
    of_keys = WIDTH // HEADS * KEY_HEADS
    for layer in range(LAYERS):
        name = f"blk.{layer}."
        norm(name + "attn_norm")
        norm(name + "ffn_norm")
        for part, rows in ("q", WIDTH), ("k", of_keys), ("v", of_keys), ("output", WIDTH):
            linear(f"{name}attn_{part}", rows, WIDTH)
        linear(name + "ffn_gate", FEED_FORWARD, WIDTH)
        linear(name + "ffn_up", FEED_FORWARD, WIDTH)
        linear(name + "ffn_down", WIDTH, FEED_FORWARD)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


main()
