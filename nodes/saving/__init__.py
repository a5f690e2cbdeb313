"""From what is connected to one LoRA file: which layers, under which names, and what the report says of the result."""
