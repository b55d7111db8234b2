"""Graphs for other runtimes: ONNX, SavedModel, Paddle Inference, each tried before it stands."""
