"""Backbones from elsewhere: pretrained masked language models behind the library's interface."""
