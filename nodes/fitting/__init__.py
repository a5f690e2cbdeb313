"""How a LoRA meets what is loaded: which weights it names, at which strength, how much of it lies where. Touches nothing of ComfyUI."""
