"""Pretraining on Paddle: raw Chinese text to a checkpoint, by whole-word masking and sentence-order prediction."""
