"""A file that llama.cpp quantizes: llama_quantize_file.py SOURCE.gguf TARGET.gguf MIX.

Run by the Python that has llama-cpp-python."""

import sys

import llama_cpp as lib

FILE_TYPES = {"q4_k_s": 14, "q4_k_m": 15, "q5_k_m": 17, "q6_k": 18}

source, target, mix = sys.argv[1:]
params = lib.llama_model_quantize_default_params()
params.ftype = FILE_TYPES[mix]
params.nthread = 1
if lib.llama_model_quantize(source.encode(), target.encode(), params):
    raise SystemExit("llama_model_quantize failed")
