"""What a LoRA is, and what several do together, in numbers: from their factors alone, exact to rounding."""
