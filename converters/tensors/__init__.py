"""Tensors as bytes in files, whatever the file and the model: where they lie, their types, checksums."""
