"""What every participant is asked: batches of sentences and of generated ids, targets for the loss."""
