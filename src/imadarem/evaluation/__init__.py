"""How good samples and predictions are, as records; nothing here prints.

Importing this package loads neither torch nor RDKit.
"""
