"""``predict``: what the class of a checkpoint is for, from one framework or from all three."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from .text_options import ready, show, text_options


@click.command("predict", short_help="Do with every TEXT what the model in DIR is for.")
@text_options("labels, spans, options, words or vectors, with their scores")
@click.option(
    "--top-k", type=click.IntRange(min=1), default=5, show_default=True, help="Labels, answers or next words to show."
)
@click.option(
    "--words",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Causal LM: go on with up to N words, the best each time.",
)
@click.option(
    "--max-answer",
    type=click.IntRange(min=1),
    default=30,
    show_default=True,
    metavar="N",
    help="Question answering: most tokens of an answer.",
)
@click.option("--vector", is_flag=True, help="Give the sentence vector of a model that has a language-model head.")
def predict_command(top_k: int, words: int, max_answer: int, vector: bool, **given: Any) -> None:
    """Do with every TEXT what the model in DIR is for: a checkpoint of any dialect with its vocab.txt.

    Texts come from the arguments, from --file, or from stdin; a tab divides the parts of one. What is printed depends
    on the class, which the files say or --class:

    \b
        sequence-classification  TEXT, or TEXT<tab>TEXT         labels with probabilities, or a number
        token-classification     TEXT                           each token with its label
        question-answering       QUESTION<tab>CONTEXT           the answers in the context
        multiple-choice          QUESTION<tab>OPTION<tab>OPTION…   the option that is chosen
        causal-lm                TEXT                           the next words, or --words of them
        base, or --vector        TEXT, or TEXT<tab>TEXT         a sentence vector, or the cosine of two
        masked-lm, pretraining                                  see fill-mask, or give --vector

    \b
        roformer-convert predict classifier/ "酒店的房间很干净"
        pytorch: positive 0.9731, negative 0.0269
    \b
        roformer-convert predict gpt/ --class causal-lm --set attention=causal --words 50 "今天天气不错"
    Two texts compared by their vectors:
        roformer-convert predict sim/ --vector "今天天气不错" "今天天气很好"
    A file of texts, as data:
        roformer-convert predict ckpt/ --file texts.txt --json > predicted.jsonl
    """
    frameworks = ready(given, "predict")
    from .models.answers.predict import Wanted, predict

    show(
        partial(predict, wanted=Wanted(top_k, words, max_answer, vector), compare=len(given["texts"]) == 2),
        given,
        frameworks=frameworks,
        command="predict",
        missing="Give a TEXT, --file FILE, or texts on stdin.",
    )


COMMANDS = {"predict": predict_command}
