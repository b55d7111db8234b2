"""Paragraphs into sentences, at 。？！；… and the closing quotes and brackets behind them.

Second step of :mod:`..corpus.prepare`. The sentence is the unit that sentence-order prediction swaps and that sampling
never cuts but at the end of an example.
"""

from __future__ import annotations

import re

#: Characters of the longest sentence: a longer stretch without an end is cut at a comma, or where it must be.
LONGEST_SENTENCE = 1024

# A sentence: up to a run of ends, what closes behind them included; or the rest. The half-width forms are ends too, as
# text that was normalised has them; the full stop is not, as it stands in numbers and addresses.
_SENTENCE = re.compile(r"[^。？！；…!?;]*(?:[。？！；…!?;][。？！；…!?;”’」』）】》〉〕)\]]*|$)")
_PAUSE = re.compile(r"[，、：,: \u3000]")


def split_sentences(paragraph: str) -> list[str]:
    """Split a paragraph; the parts joined are the paragraph, but for white space at their ends.

    A straight quote closes where an odd number of them stands before it in its sentence, and opens the next one else.
    """
    parts = [part for part in _SENTENCE.findall(paragraph) if part]
    if '"' in paragraph:
        parts = _close_straight_quotes(parts)
    if len(paragraph) > LONGEST_SENTENCE:
        parts = [piece for part in parts for piece in _cut(part)]
    return [part for part in map(str.strip, parts) if part]


def _close_straight_quotes(parts: list[str]) -> list[str]:
    found: list[str] = []
    opened = False
    for part in parts:
        if opened and part.startswith('"'):
            found[-1] += '"'
            part = part[1:]
            opened = False
        if part.count('"') % 2:
            opened = not opened
        if part:
            found.append(part)
    return found


def _cut(sentence: str) -> list[str]:
    pieces = []
    while len(sentence) > LONGEST_SENTENCE:
        end = LONGEST_SENTENCE
        for pause in _PAUSE.finditer(sentence, LONGEST_SENTENCE // 2, LONGEST_SENTENCE):
            end = pause.end()
        pieces.append(sentence[:end])
        sentence = sentence[end:]
    return [*pieces, sentence]
