"""The low-rank mathematics that every node of the pack shares.

Needs torch, numpy and safetensors, and nothing of ComfyUI: whatever stands here can be checked against the papers and the
trainers' own code on any machine.
"""
