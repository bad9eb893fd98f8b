#!/usr/bin/env python3
"""What a foreign engine (PyPI ik-llama-cpp-python, a build of ik_llama.cpp) makes of a GGUF file.

Setup: python3 -m venv V && V/bin/pip install ik-llama-cpp-python==0.1.5 numpy
Every command writes one result to the file OUT:
  engine.py tokenize MODEL TEXTFILE PARSE_SPECIAL ADD_SPECIAL OUT   token ids, space separated
  engine.py pieces   MODEL IDSFILE OUT                              for each id a line: its bytes in hex
  engine.py logits   MODEL IDSFILE OUT                              float32 little endian, all logits of each token
"""
import ctypes
import os
import sys

import numpy as np
from ik_llama_cpp import _ctypes_api as C


def load(path, vocab_only):
    C.llama_backend_init()
    params = C.llama_model_default_params()
    params.vocab_only = vocab_only
    model = C.llama_model_load_from_file(path.encode(), params)
    if not model:
        sys.exit("the engine refuses " + path)
    return model


def tokenize(path, text, parse_special, add_special, out):
    model = load(path, True)
    data = open(text, "rb").read()
    flags = (add_special == "1", parse_special == "1")
    count = abs(C.llama_tokenize(model, data, len(data), None, 0, *flags))
    ids = (C.llama_token * count)()
    count = C.llama_tokenize(model, data, len(data), ids, count, *flags)
    open(out, "w").write(" ".join(map(str, ids[:count])))


def pieces(path, ids, out):
    model = load(path, True)
    buffer = ctypes.create_string_buffer(1024)
    with open(out, "w") as f:
        for token in open(ids).read().split():
            count = C.llama_token_to_piece(model, int(token), buffer, 1024, 0, True)
            f.write(buffer.raw[:max(count, 0)].hex() + "\n")


def logits(path, ids, out):
    from ik_llama_cpp._internals import IkContext, IkModel
    tokens = [int(token) for token in open(ids).read().split()]
    model = IkModel(path)
    context = IkContext(model, n_ctx=len(tokens), n_threads=2, flash_attn=False)
    batch = C.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    for i, token in enumerate(tokens):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, i, 1, 1
        batch.seq_id[i][0] = 0
    if context.decode(batch) != 0:
        sys.exit("the engine fails to decode")
    with open(out, "wb") as f:
        for i in range(len(tokens)):
            row = np.ctypeslib.as_array(C.llama_get_logits_ith(context.ctx, i), (model.n_vocab,))
            f.write(row.astype("<f4").tobytes())


if __name__ == "__main__":
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    if not os.environ.get("WSIC_JUDGE_VERBOSE"):
        os.dup2(null, 2)
    {"tokenize": tokenize, "pieces": pieces, "logits": logits}[sys.argv[1]](*sys.argv[2:])
