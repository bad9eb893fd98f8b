"""Compares a GGUF file made from a folder with transformers: import_logits.py FOLDER FILE.gguf

Same token ids for a text in many scripts, and equal logits for a prompt. The GGUF file is run by a foreign engine
(llama-cpp-python, or ik-llama-cpp-python). Prints one JSON line; exit code 1 if they differ.
"""

import json
import os
import sys

import numpy as np
import sentencepiece
import tokenizers
import torch
import transformers

folder, file = sys.argv[1], sys.argv[2]
TEXT = """The capital of France is Paris, isn't it?  Two spaces,\ta tab.
Die Hauptstadt von Österreich ist Wien — 12345 und 3.14159!
Быстрая коричневая лиса прыгает; 東京は日本の首都です。 العربية עברית हिन्दी ไทย 🚀👩‍🚀
fn main() { let x: Vec<u8> = vec![0x0A; 16]; println!("{:?}", &x[1..]); } // Rust
def f(a, b):
    return a ** b  # power
"""

null = os.open(os.devnull, os.O_WRONLY)
stdout, stderr = os.dup(1), os.dup(2)
os.dup2(null, 1)
os.dup2(null, 2)


def finish(result, code):
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    print(json.dumps(dict(folder=os.path.basename(folder.rstrip("/")), **result)), flush=True)
    os._exit(code)


try:
    import llama_cpp.llama_cpp as L
except Exception:
    L = None


class Llama:
    """Stock llama.cpp."""

    def __init__(self, path):
        L.llama_backend_init()
        self.model = L.llama_model_load_from_file(path.encode(), L.llama_model_default_params())
        if not self.model:
            raise RuntimeError("the engine does not load the file")
        self.vocabulary = L.llama_model_get_vocab(self.model)

    def tokenize(self, text):
        raw = text.encode()
        ids = (L.llama_token * (len(raw) + 16))()
        count = L.llama_tokenize(self.vocabulary, raw, len(raw), ids, len(ids), False, False)
        return list(ids[:count])

    def logits(self, ids):
        parameters = L.llama_context_default_params()
        parameters.n_ctx, parameters.n_batch, parameters.n_threads = 128, 128, 2
        context = L.llama_init_from_model(self.model, parameters)
        batch = L.llama_batch_init(len(ids), 0, 1)
        fill(batch, ids)
        if L.llama_decode(context, batch) != 0:
            raise RuntimeError("the engine cannot decode")
        width = L.llama_vocab_n_tokens(self.vocabulary)
        return np.stack([np.ctypeslib.as_array(L.llama_get_logits_ith(context, i), (width,)).copy() for i in range(len(ids))])


class IkLlama:
    """ik_llama.cpp; it gives other results for Mixtral and for Llama 3's frequencies."""

    def __init__(self, path):
        from ik_llama_cpp._internals import IkModel

        self.model = IkModel(path)

    def tokenize(self, text):
        return list(self.model.tokenize(text, add_bos=False))

    def logits(self, ids):
        from ik_llama_cpp import _ctypes_api as C
        from ik_llama_cpp._internals import IkContext

        context = IkContext(self.model, n_ctx=128, n_threads=2, flash_attn=False)
        batch = C.llama_batch_init(len(ids), 0, 1)
        fill(batch, ids)
        if context.decode(batch) != 0:
            raise RuntimeError("the engine cannot decode")
        shape = (self.model.n_vocab,)
        return np.stack([np.ctypeslib.as_array(C.llama_get_logits_ith(context.ctx, i), shape).copy() for i in range(len(ids))])


def fill(batch, ids):
    batch.n_tokens = len(ids)
    for i, token in enumerate(ids):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = token, i, 1, 0, 1


Engine = Llama if L else IkLlama

try:
    # The folder's own tokenizer, without what classes of transformers put on top of it.
    pieces = os.path.join(folder, "tokenizer.model")
    if os.path.exists(pieces):
        want = sentencepiece.SentencePieceProcessor(model_file=pieces).encode(TEXT)
    else:
        tokenizer = tokenizers.Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
        want = tokenizer.encode(TEXT, add_special_tokens=False).ids
    engine = Engine(file)
    got = engine.tokenize(TEXT)
    same = want == got
    first = next((i for i, (a, b) in enumerate(zip(want, got)) if a != b), None)
    ids = got[:96]
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        reference = model(torch.tensor([ids])).logits[0].numpy()
    logits = engine.logits(ids)
    error = np.abs(logits - reference)
    spread = float(reference.std())
    result = dict(
        engine=Engine.__name__, tokens=len(want), same_ids=same, first_difference=first, positions=len(ids), largest_error=float(error.max()),
        spread=spread, relative=float(error.max() / spread), same_best=float((logits.argmax(1) == reference.argmax(1)).mean()),
    )
    finish(result, 0 if same and error.max() < 0.02 * spread else 1)
except Exception as problem:  # the reason belongs in the line
    import traceback

    finish(dict(error=repr(problem), trace=traceback.format_exc()[-700:]), 1)
