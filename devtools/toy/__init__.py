"""The trained toy: what ``devtools/train_toy.py`` makes, and how it is measured."""
