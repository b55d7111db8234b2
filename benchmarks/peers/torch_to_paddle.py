"""PaddleNLP 2.8.1: load transformers weights and save model_state.pdparams. Run as a whole process.

It reads a ``.bin`` and writes beside what it reads, so the source is given to it as a copy made of links; of a
safetensors file it loses the masked-LM bias, which does not change the time.
"""

# ruff: noqa: F401, I001
import os
import sys
import tempfile

# paddle 2.6.2 crashes where these are imported after it
import scipy, aiohttp, pyarrow, pandas, sklearn  # noqa: E401
from paddlenlp.transformers import RoFormerForMaskedLM

source, target = sys.argv[1:]
with tempfile.TemporaryDirectory() as links:
    for name in os.listdir(source):
        os.symlink(os.path.join(os.path.abspath(source), name), os.path.join(links, name))
    model = RoFormerForMaskedLM.from_pretrained(links, convert_from_torch=True)
    model.save_pretrained(target)
