"""transformers 4.57: load a torch checkpoint as a TF model and save tf_model.h5. Run as a whole process."""

import sys

from transformers import TFRoFormerForMaskedLM

source, target = sys.argv[1:]
TFRoFormerForMaskedLM.from_pretrained(source, from_pt=True).save_pretrained(target)
