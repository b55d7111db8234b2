"""An optimiser's state beside the weights: AdamW's moments and steps, read from one training's file for another's."""
