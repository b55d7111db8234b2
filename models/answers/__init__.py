"""What a checkpoint says of a text: guesses at masks, labels, spans, choices, words to come, vectors."""
