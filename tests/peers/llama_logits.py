"""Logits of llama.cpp, through llama-cpp-python: llama_logits.py FILE IDS.json OUT.npy
[ADAPTER].

Run by the Python that has it.  Keys and values are kept in float32, without flash attention.
"""

import json
import sys
from pathlib import Path

import llama_cpp as lib
import numpy as np

N_CONTEXT = 1024  # what the tiny models allow

file, ids, out, *adapters = sys.argv[1:]
token_ids = json.loads(Path(ids).read_text())
lib.llama_backend_init()
model_params = lib.llama_model_default_params()
model_params.use_mmap, model_params.n_gpu_layers = False, 0
if hasattr(model_params, "use_extra_bufts"):
    model_params.use_extra_bufts = False
model = lib.llama_model_load_from_file(file.encode(), model_params)
if not model:
    raise SystemExit(f"llama.cpp does not load {file}")
params = lib.llama_context_default_params()
params.n_ctx, params.n_batch, params.n_ubatch = N_CONTEXT, N_CONTEXT, N_CONTEXT
params.type_k = params.type_v = lib.GGML_TYPE_F32
params.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
params.n_threads = params.n_threads_batch = 1
context = lib.llama_init_from_model(model, params)
for path in adapters:
    adapter = lib.llama_adapter_lora_init(model, path.encode())
    if not adapter:
        raise SystemExit(f"llama.cpp does not load {path}")
    kinds = lib.llama_adapter_lora_p_ctypes * 1, lib.ctypes.c_float * 1
    if lib.llama_set_adapters_lora(context, kinds[0](adapter), 1, kinds[1](1.0)):
        raise SystemExit(f"llama.cpp does not use {path}")
batch = lib.llama_batch_init(len(token_ids), 0, 1)
batch.n_tokens = len(token_ids)
for i, token_id in enumerate(token_ids):
    batch.token[i], batch.pos[i], batch.logits[i] = token_id, i, 1
    batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
if lib.llama_decode(context, batch):
    raise SystemExit("llama_decode failed")
n_vocab = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
rows = [np.ctypeslib.as_array(lib.llama_get_logits_ith(context, i), (n_vocab,)).copy()
        for i in range(len(token_ids))]  # fmt: skip
np.save(out, np.array(rows))
