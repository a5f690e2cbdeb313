"""Whole LoRAs as matrices by layer: adding them up, merging, shrinking, cutting spectra, taking differences of models."""
