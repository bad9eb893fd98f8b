"""Makes a Hugging Face folder from a GGUF file with unquantized weights: import_smol.py FILE.gguf FOLDER

transformers reads the file, a new model gets the weights as F16 and is saved with the tokenizer (`save_pretrained`).
Needs torch, transformers, accelerate, gguf.
"""

import os
import sys

from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

file, folder = os.path.abspath(sys.argv[1]), sys.argv[2]
source = dict(pretrained_model_name_or_path=os.path.dirname(file), gguf_file=os.path.basename(file))
loaded = AutoModelForCausalLM.from_pretrained(**source)
config = loaded.config
# Some versions keep the marks of the file's quantization, and then refuse to save.
if hasattr(config, "quantization_config"):
    del config.quantization_config
model = LlamaForCausalLM(config)
model.load_state_dict(loaded.state_dict(), strict=False)
model.tie_weights()
model.half().save_pretrained(folder)
AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
