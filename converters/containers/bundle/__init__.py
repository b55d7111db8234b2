"""TensorFlow checkpoints: a LevelDB table of protobuf messages, and the payloads beside it."""
