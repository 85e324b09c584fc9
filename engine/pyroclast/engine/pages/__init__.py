"""Pages of the KV cache in files: the folder that outlives an `LLM`, and saved states."""
