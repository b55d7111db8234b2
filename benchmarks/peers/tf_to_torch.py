"""transformers 4.57: load tf_model.h5 as a torch model and save it. Run as a whole process.

``from_tf=True`` leaves every parameter on the meta device in this release, so its own inner function is called, which
is exact.
"""

import sys

from transformers import RoFormerConfig, RoFormerForMaskedLM
from transformers.modeling_tf_pytorch_utils import load_tf2_checkpoint_in_pytorch_model

source, target = sys.argv[1:]
model = RoFormerForMaskedLM(RoFormerConfig.from_pretrained(source))
load_tf2_checkpoint_in_pytorch_model(model, f"{source}/tf_model.h5", allow_missing_keys=True)
model.save_pretrained(target)
