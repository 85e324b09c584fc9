"""Token ids of llama.cpp: llama_tokens.py FILE TEXTS.json OUT.json.

Run by the Python that has llama-cpp-python.  BOS and EOS are added as the file says, and control
tokens in a text count."""

import json
import sys
from pathlib import Path

import llama_cpp as lib

file, texts, out = sys.argv[1:]
lib.llama_backend_init()
params = lib.llama_model_default_params()
params.vocab_only = True
model = lib.llama_model_load_from_file(file.encode(), params)
if not model:
    raise SystemExit(f"llama.cpp does not load {file}")
vocab = lib.llama_model_get_vocab(model)
found = []
for text in json.loads(Path(texts).read_text()):
    data = text.encode()
    ids = (lib.llama_token * (len(data) + 8))()
    n = lib.llama_tokenize(vocab, data, len(data), ids, len(ids), True, True)
    found.append(list(ids[:n]))
Path(out).write_text(json.dumps(found))
