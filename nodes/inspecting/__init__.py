"""From LoRA files to what is shown of them: numbers with the names of blocks, one picture for the editor and for saving."""
