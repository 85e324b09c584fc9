"""LoRA adapters in files: peft folders and GGUF files, checked against a base model."""
