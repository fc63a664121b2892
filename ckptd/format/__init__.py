"""Encode and decode TensorFlow's V2 checkpoint format: no files, clocks or threads."""
