"""From adapters to a LoRA file: its tensors under the names that a family's readers know, its header, and the file itself."""
