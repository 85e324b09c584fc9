"""File formats, each byte checked before it is used: GGUF, safetensors, Hugging Face folders."""
