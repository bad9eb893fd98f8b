"""Makes small model folders with random weights, one of each architecture: import_folders.py OUT SMOLLM_FOLDER

SMOLLM_FOLDER holds a tokenizer.json with a byte-level tokenizer (SmolLM2's). Needs torch, transformers, sentencepiece.
"""

import json
import os
import shutil
import sys

import sentencepiece
import torch
import transformers as t

out, smol = sys.argv[1], sys.argv[2]
os.makedirs(out, exist_ok=True)
torch.manual_seed(7)

TEXT = """The capital of France is Paris. Die Hauptstadt von Österreich ist Wien, 12345 und 3.14!
Быстрая коричневая лиса прыгает; 東京は日本の首都です。 fn main() { println!("{}", x[0] += 1); }
def f(a, b):
    return a ** b  # power
"""

corpus = os.path.join(out, "corpus.txt")
with open(corpus, "w", encoding="utf-8") as f:
    f.write(TEXT * 20)


def train(name, prefix):
    path = os.path.join(out, name)
    # As the published models: the text as it is, nothing normalized.
    sentencepiece.SentencePieceTrainer.train(
        input=corpus, model_prefix=path[:-6], vocab_size=480, model_type="bpe", byte_fallback=True,
        character_coverage=1.0, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, minloglevel=2, hard_vocab_limit=False,
        normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=prefix,
        split_by_whitespace=False, allow_whitespace_only_pieces=True,
    )
    return path


# With a space before a text (Llama 2, Mistral, Phi-3), and without (Gemma).
spm, spm_bare = train("spaced.model", True), train("bare.model", False)
pieces = max(sentencepiece.SentencePieceProcessor(model_file=path).vocab_size() for path in (spm, spm_bare))

HIDDEN, LAYERS, BYTES = 64, 3, 49152
COMMON = dict(
    hidden_size=HIDDEN, intermediate_size=96, num_hidden_layers=LAYERS, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=None,
)


def byte_tokenizer(folder, name):
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(os.path.join(smol, file), folder)


def piece_tokenizer(folder, name):
    shutil.copy(spm_bare if name == "gemma3" else spm, os.path.join(folder, "tokenizer.model"))
    plain = dict(normalized=False, lstrip=False, rstrip=False, single_word=False)
    config = dict(
        tokenizer_class="LlamaTokenizer", bos_token="<s>", eos_token="</s>", unk_token="<unk>", add_bos_token=True,
        add_eos_token=False, legacy=False, model_max_length=512,
        added_tokens_decoder={
            str(pieces): dict(content="<|endoftext|>", special=True, **plain),
            str(pieces + 1): dict(content="\u2581kept", special=False, **plain),
        },
        chat_template="{% for m in messages %}{{ m['content'] }}{% endfor %}",
    )
    with open(os.path.join(folder, "tokenizer_config.json"), "w", encoding="utf-8") as f:
        json.dump(config, f)


def make(name, model, tokenizer, dtype=torch.float32, **save):
    folder = os.path.join(out, name)
    shutil.rmtree(folder, ignore_errors=True)
    for parameter_name, parameter in model.named_parameters():
        with torch.no_grad():
            # Norms and biases differ from their start values, weights are large enough for logits that mean something.
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            else:
                parameter.copy_(torch.randn_like(parameter) * 0.15)
    model.to(dtype).save_pretrained(folder, **save)
    tokenizer(folder, name)
    print(name, sorted(os.listdir(folder)), flush=True)


SPM = pieces + 2
P = dict(vocab_size=SPM, **COMMON)
B = dict(vocab_size=BYTES, **COMMON)
make("llama", t.LlamaForCausalLM(t.LlamaConfig(**B)), byte_tokenizer, torch.bfloat16)
make("llama-tied-bias", t.LlamaForCausalLM(t.LlamaConfig(**B, tie_word_embeddings=True, attention_bias=True)), byte_tokenizer,
     torch.float16)
make("llama3", t.LlamaForCausalLM(t.LlamaConfig(**B, rope_parameters=dict(
    rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
    original_max_position_embeddings=64))), byte_tokenizer, torch.bfloat16, max_shard_size="4MB")
make("mistral", t.MistralForCausalLM(t.MistralConfig(**P)), piece_tokenizer, torch.bfloat16)
make("mixtral", t.MixtralForCausalLM(t.MixtralConfig(**P, num_local_experts=8, num_experts_per_tok=2)), piece_tokenizer,
     torch.bfloat16)
make("qwen2", t.Qwen2ForCausalLM(t.Qwen2Config(**B, rope_parameters=dict(
    rope_type="yarn", rope_theta=1e6, factor=4.0, original_max_position_embeddings=128))), byte_tokenizer, torch.bfloat16)
make("qwen3", t.Qwen3ForCausalLM(t.Qwen3Config(**B, head_dim=32, tie_word_embeddings=True)), byte_tokenizer, torch.bfloat16)
make("qwen3moe", t.Qwen3MoeForCausalLM(t.Qwen3MoeConfig(**B, head_dim=32, num_experts=6, num_experts_per_tok=2,
     moe_intermediate_size=32, norm_topk_prob=True)), byte_tokenizer, torch.bfloat16)
make("gemma3", t.Gemma3ForCausalLM(t.Gemma3TextConfig(**{**P, "num_hidden_layers": 7}, head_dim=32, query_pre_attn_scalar=32,
     sliding_window=16)), piece_tokenizer, torch.bfloat16)
make("phi3", t.Phi3ForCausalLM(t.Phi3Config(**P, sliding_window=None)), piece_tokenizer, torch.bfloat16)
make("phi3-long", t.Phi3ForCausalLM(t.Phi3Config(**P, original_max_position_embeddings=256, rope_parameters=dict(
    rope_type="longrope", rope_theta=10000.0, short_factor=[1.0 + i / 50 for i in range(8)],
    long_factor=[1.0 + i / 5 for i in range(8)]))), piece_tokenizer, torch.bfloat16)

# The same tokenizer as transformers saves it: merges in tokenizer.json, no tokenizer.model.
folder = os.path.join(out, "mistral-merges")
shutil.rmtree(folder, ignore_errors=True)
shutil.copytree(os.path.join(out, "mistral"), folder)
os.remove(os.path.join(folder, "tokenizer.model"))
t.AutoTokenizer.from_pretrained(os.path.join(out, "mistral")).save_pretrained(folder)
print("mistral-merges", sorted(os.listdir(folder)))
