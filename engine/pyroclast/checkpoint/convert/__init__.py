"""Writing a model as a GGUF file, in any format that can be encoded, or a mix of them."""
