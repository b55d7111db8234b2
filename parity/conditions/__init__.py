"""As a model is served: in half types, after a cast, in other batches."""
