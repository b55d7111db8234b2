"""The one optimizer step that the gate takes in every framework.

AdamW with BERT's settings (google-research/bert optimization.py) rounded to powers of two, which float32 holds exactly:
Keras keeps an optimizer's scalars in float32 also where the model is float64, and 0.999 would be 1.3e-8 off.
"""

RATE = 2.0**-10
BETAS = (1 - 2.0**-3, 1 - 2.0**-10)
EPSILON = 2.0**-20
DECAY = 2.0**-7
