"""Makes tests/model_data/architectures.json: architecture_logits.py OUT.json

For each architecture a configuration, the names and shapes of the tensors of its checkpoint, token ids, and the logits
that transformers computes for them in double precision. Weights are not stored: they are drawn by `values`, which the
tests have too. Needs torch and transformers (made with 5.23 and 2.15).
"""

import json
import os
import sys
import tempfile

import numpy as np
import safetensors.torch
import torch
import transformers as t

SMALL = dict(
    vocab_size=40, hidden_size=32, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=128, bos_token_id=1, eos_token_id=2, pad_token_id=None, tie_word_embeddings=False,
)
LONGROPE = dict(rope_type="longrope", long_factor=[2.0, 3.0, 5.0], short_factor=[1.0, 1.5, 2.5], rope_theta=10000.0, partial_rotary_factor=0.75)
MODELS = {
    "mixtral": t.MixtralConfig(num_hidden_layers=2, num_local_experts=5, num_experts_per_tok=2, rope_theta=1e4, sliding_window=None, **SMALL),
    "qwen3moe": t.Qwen3MoeConfig(
        num_hidden_layers=2, num_experts=6, num_experts_per_tok=3, moe_intermediate_size=16, head_dim=16,
        norm_topk_prob=True, **SMALL,
    ),
    "gemma3": t.Gemma3TextConfig(
        num_hidden_layers=7, head_dim=16, sliding_window=8, query_pre_attn_scalar=16,
        **{**SMALL, "tie_word_embeddings": True},
    ),
    "phi3": t.Phi3Config(num_hidden_layers=2, sliding_window=None, **SMALL),
    "phi3-window": t.Phi3Config(num_hidden_layers=2, sliding_window=8, **SMALL),
    "phi3-longrope": t.Phi3Config(num_hidden_layers=2, sliding_window=None, original_max_position_embeddings=64, rope_parameters=LONGROPE, **SMALL),
}


def values(name, count):
    """Numbers that a half float holds exactly, different for each tensor."""
    seed = 7
    for byte in name.encode():
        seed = (seed * 31 + byte) & 0xFFFFFFFF
    i = np.arange(count, dtype=np.uint64)
    h = ((np.uint64(seed) ^ (i * 0x9E3779B9 & 0xFFFFFFFF)) * 0x85EBCA6B & 0xFFFFFFFF) >> np.uint64(24)
    return (h.astype(np.float64) - 128.0) / 64.0


def weights(name, shape):
    """Matrices of a gain near 1, vectors around 1 (0 for Gemma's norms would do as well)."""
    v = values(name, int(np.prod(shape)))
    return (v / 4.0 if len(shape) > 1 else 1.0 + v / 8.0).reshape(shape)


out = {}
tokens = [int(x) for x in (values("tokens", 24) * 64 + 128) % 40]
for name, config in MODELS.items():
    torch.manual_seed(0)
    model = t.AutoModelForCausalLM.from_config(config)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        path = os.path.join(folder, "model.safetensors")
        stored = safetensors.torch.load_file(path)
        tensors = {key: list(tensor.shape) for key, tensor in sorted(stored.items())}
        safetensors.torch.save_file(
            {key: torch.tensor(weights(key, shape), dtype=torch.float32) for key, shape in tensors.items()}, path,
            metadata={"format": "pt"},
        )
        loaded = t.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager").double().eval()
        with torch.no_grad():
            logits = loaded(torch.tensor([tokens])).logits[0].numpy()
        with open(os.path.join(folder, "config.json")) as file:
            out[name] = dict(config=json.load(file), tensors=tensors)
    out[name]["config"].pop("transformers_version", None)
    print(name, logits.shape, logits.std(), file=sys.stderr)
    out[name]["tokens"] = tokens
    # Three positions are enough: first, one inside all windows, last.
    out[name]["logits"] = {str(at): [round(float(x), 6) for x in logits[at]] for at in (0, 5, 23)}
with open(sys.argv[1], "w") as file:
    json.dump(out, file, indent=None, separators=(",", ":"))
    file.write("\n")
