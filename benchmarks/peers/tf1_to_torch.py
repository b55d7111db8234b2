"""transformers 4.57: load a TF1 checkpoint into a torch model and save it. Run as a whole process."""

import sys

from transformers import RoFormerConfig, RoFormerForMaskedLM
from transformers.models.roformer.modeling_roformer import load_tf_weights_in_roformer

source, target = sys.argv[1:]
config = RoFormerConfig.from_json_file(f"{source}/bert_config.json")
model = RoFormerForMaskedLM(config)
load_tf_weights_in_roformer(model, config, f"{source}/bert_model.ckpt")
model.save_pretrained(target)
