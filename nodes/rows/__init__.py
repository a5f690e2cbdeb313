"""The rows of a LoRA stack for the browser: what a text means, and the sets that a person keeps under a name."""
