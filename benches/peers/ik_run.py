#!/usr/bin/env python3
"""Times a model under ik_llama.cpp, through PyPI's ik-llama-cpp-python: a prompt of PROMPT tokens, then NEW single ones.

Usage: ik_run.py MODEL.gguf THREADS PROMPT NEW, with a Python that has ik-llama-cpp-python; prints tokens per second of the
prompt and of the generation, by the clock, after a warm-up with one token. Which tokens they are makes no difference to speed.
"""
import os, sys, time

model, (threads, prompt, new) = sys.argv[1], map(int, sys.argv[2:5])
out = os.dup(1)
null = os.open(os.devnull, os.O_WRONLY)
os.dup2(null, 1)
os.dup2(null, 2)

from ik_llama_cpp import _ctypes_api as api
from ik_llama_cpp._internals import IkContext, IkModel

loaded = IkModel(model)
context = IkContext(loaded, n_ctx=prompt + new, n_threads=threads)


def append(first, count):
    batch = api.llama_batch_init(count, 0, 1)
    batch.n_tokens = count
    for i in range(count):
        batch.token[i], batch.pos[i] = 100 + (first + i) % 1000, first + i
        batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = 1, 0, int(i == count - 1)
    if context.decode(batch) != 0:
        sys.exit("decode failed")
    api.llama_batch_free(batch)


append(0, 1)
context.kv_cache_clear()
start = time.monotonic()
append(0, prompt)
between = time.monotonic()
for at in range(prompt, prompt + new):
    append(at, 1)
end = time.monotonic()
os.write(out, f"{prompt / (between - start):.3f} {new / (end - between):.3f}\n".encode())
