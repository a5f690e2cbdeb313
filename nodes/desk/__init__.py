"""What the block-weight desk in the browser is told: a LoRA's profile, and the words for faders and weights."""
