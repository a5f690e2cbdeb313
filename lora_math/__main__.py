"""``python -m lora_math``: LoRA files without ComfyUI."""

from .command_line import main

if __name__ == "__main__":
    raise SystemExit(main())
