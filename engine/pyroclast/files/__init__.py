"""Model files, checked before use: GGUF, safetensors, Hugging Face folders."""
