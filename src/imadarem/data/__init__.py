"""Files and data sets in, plain strings and records out.

Importing this package loads neither torch nor RDKit.
"""
