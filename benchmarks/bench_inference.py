"""Tokens a second of the three models at base size, each beside its peer in the peer's own environment.

    make peers            # once: .peers/ with transformers 4 and PaddleNLP
    make bench-inference

One process a contestant, all on the same processors with the same variables; they take turns, run by run, so that a
machine's moods hit all of them. Quote ratios of the medians. The weights are random, made on the spot: 12 layers, hidden
768, vocabulary 50,000, float32. Tokens are real ones: padding counts for nothing. A batch is 8 × 128 or 2 × 512 tokens
without padding and with every logit wanted, or 32 real sentences of mixed length with the logits wanted at one token in
seven, where every contestant runs its head on those tokens alone.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from sentences import real_sentences

from roformer_convert.converters import RoFormerConfig, save_checkpoint
from roformer_convert.converters.mapping import MLM, PROJECT, Table
from roformer_convert.models.start_paddle_settings import paddle_environment  # placeholder

ROOT = Path(__file__).resolve().parent.parent
