"""Sweeps: which cells there are, how far they are from each other, and the sheets that show them. Nothing here samples."""
