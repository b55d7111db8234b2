"""``fill-mask``: the best words at each [MASK], from one framework or from all three."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from .text_options import ready, show, text_options


@click.command("fill-mask", short_help="Fill each [MASK] of every TEXT with the model in DIR.")
@text_options("ids, offsets, logits, probabilities")
@click.option("--top-k", type=click.IntRange(min=1), default=5, show_default=True, help="Words for each mask.")
def fill_mask_command(top_k: int, **given: Any) -> None:
    """Fill each [MASK] of every TEXT with the model in DIR, a checkpoint of any dialect with its vocab.txt.

    Texts come from the arguments, from --file, or from stdin. The output is the line of JunnYu's model cards, one for
    each text and framework.

    \b
        roformer-convert fill-mask ckpt/ "今天[MASK]很好，我[MASK]去公园玩。"
        pytorch: 今天[天||人||气||阳||雨]很好，我[想||就||要||也||还]去公园玩。
    \b
    The same from Paddle, PyTorch and TensorFlow:
        roformer-convert fill-mask ckpt/ --framework all "今天[MASK]很好"
    A file of sentences, as data:
        roformer-convert fill-mask ckpt/ --file sentences.txt --json > filled.jsonl
    """
    frameworks = ready(given, "fill-mask")
    from .models.answers.fill_mask import fill_mask

    show(
        partial(fill_mask, top_k=top_k),
        given,
        frameworks=frameworks,
        command="fill-mask",
        missing="Give a TEXT with [MASK] in it, --file FILE, or texts on stdin.",
    )


COMMANDS = {"fill-mask": fill_mask_command}
