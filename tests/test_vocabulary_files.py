"""The vocabulary beside the weights: every way in which it has another number of words has its own advice."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from random_checkpoints import CONFIG, random_tensors, save, write_random

from roformer_convert.converters import ConvertOptions, FormatError, MisfitError, convert
from roformer_convert.converters.inspection import inspect
from roformer_convert.models.text.vocabulary import read_rows

V = CONFIG.vocab_size


def words(count: int) -> bytes:
    return "".join(f"\u5b57{number}\n" for number in range(count)).encode()


def misfit(directory: Path) -> str:
    """Convert, and inspect: both must say the same, and --any-vocab must take it."""
    with pytest.raises(MisfitError) as caught:
        convert(directory, to="paddle")
    assert [problem.kind for problem in caught.value.problems] == ["vocabulary"]
    assert caught.value.next_step is not None
    assert caught.value.next_step in inspect(directory).notes
    assert convert(directory, to="paddle", options=ConvertOptions(any_vocab=True, dry_run=True)).plan
    return str(caught.value)


@pytest.mark.parametrize("last", [b"\n", b""])
def test_words_of_added_tokens_count(tmp_path: Path, last: bytes) -> None:
    write_random(tmp_path / "ckpt", "torch")
    (tmp_path / "ckpt" / "vocab.txt").write_bytes(words(V - 2).removesuffix(b"\n") + last)
    added = {"<e>": V - 2, "</e>": V - 1, "\u5b570": 0}  # the last one is in the vocabulary, too
    (tmp_path / "ckpt" / "added_tokens.json").write_text(json.dumps(added))
    report = convert(tmp_path / "ckpt", to="paddle")
    assert {"vocab.txt", "added_tokens.json"} <= {path.name for path in report.plan.companions}


@pytest.mark.parametrize(
    ("rows", "added", "said"),
    [
        (V, {"<e>": V}, "was not resized for them. Call model.resize_token_embeddings(62)"),
        (V - 1, {"<e>": V - 1, "<f>": V}, "was not resized for them. Call model.resize_token_embeddings(62)"),
        (V + 3, {}, "Words with an id of 61 or more have no row in the embedding, so it is another model's"),
        (V + 3, {"<e>": V + 3}, "so it is another model's"),
        (V - 9, {}, "The embedding's last 9 rows are no word's: it is another model's vocab.txt, or words were added"),
        (V - 9, {"<e>": V - 9}, "The embedding's last 8 rows are no word's"),
    ],
)
def test_each_misfit_has_its_own_advice(tmp_path: Path, rows: int, added: dict[str, int], said: str) -> None:
    write_random(tmp_path / "ckpt", "torch")
    (tmp_path / "ckpt" / "vocab.txt").write_bytes(words(rows))
    if added:
        (tmp_path / "ckpt" / "added_tokens.json").write_text(json.dumps(added))
    error = misfit(tmp_path / "ckpt")
    assert said in error
    assert f"got {rows} rows" in error


def test_empty_lines_at_the_end_are_told(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "torch")
    for empty, said in ((b"\n", "its last one is"), (b"\n\n", "its last 2 are"), (b"\r\n", "its last one is")):
        (tmp_path / "ckpt" / "vocab.txt").write_bytes(words(V) + empty)
        assert f"{said} empty" in misfit(tmp_path / "ckpt")


@pytest.mark.parametrize(("rows", "size", "unit"), [(61, 64, 8), (50, 64, 16), (65, 128, 64), (130, 256, 128)])
def test_a_padded_embedding_is_told_from_another_models(tmp_path: Path, rows: int, size: int, unit: int) -> None:
    config = replace(CONFIG, vocab_size=size)
    save(tmp_path / "ckpt", "torch", random_tensors(config), config)
    (tmp_path / "ckpt" / "vocab.txt").write_bytes(words(rows))
    said = f"The embedding's last {size - rows} rows make it a multiple of {unit}: where they are padding"
    assert said in misfit(tmp_path / "ckpt")


@pytest.mark.parametrize(("encoding", "name"), [("gbk", "GBK"), ("utf-16", "UTF-16"), ("utf-16-le", "UTF-16")])
def test_a_vocabulary_in_another_encoding_is_told(tmp_path: Path, encoding: str, name: str) -> None:
    write_random(tmp_path / "ckpt", "torch")
    (tmp_path / "ckpt" / "vocab.txt").write_bytes(words(V).decode().encode(encoding))
    error = misfit(tmp_path / "ckpt")
    assert f"not UTF-8 text; it looks like {name}" in error
    assert f"iconv -f {name} -t UTF-8" in error


def test_utf_16_that_is_utf_8_too_is_told(tmp_path: Path) -> None:
    """Each of these characters is two letters of ASCII to who reads UTF-8, and the lines are as many."""
    write_random(tmp_path / "ckpt", "torch")
    content = "".join(f"[P{chr(0x4E41 + number % 26)}\n" for number in range(V)).encode("utf-16-le")
    assert len(content.decode().split("\n")) == V + 1
    (tmp_path / "ckpt" / "vocab.txt").write_bytes(content)
    assert "it looks like UTF-16" in misfit(tmp_path / "ckpt")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xef\xbb\xbf" + words(V), "begins with a byte-order mark"),
        (words(V).replace(b"\n", b"\r"), "its lines end in a carriage return alone"),
        (words(V).replace(b"\n", b"\r", 3).replace(b"\r", b"\n", 2), "line 3 has a carriage return alone"),
        (words(V).replace(b"\n", b"\r\r\n", 1), "line 1 has a carriage return alone"),
    ],
)
def test_what_software_takes_for_other_lines_is_told(tmp_path: Path, content: bytes, said: str) -> None:
    write_random(tmp_path / "ckpt", "torch")
    (tmp_path / "ckpt" / "vocab.txt").write_bytes(content)
    assert said in misfit(tmp_path / "ckpt")
    with pytest.raises(FormatError, match=r"carriage return alone|byte-order mark"):
        read_rows(tmp_path / "ckpt" / "vocab.txt")


@pytest.mark.parametrize("behind", ["  ", "\t{}", " {}", ""])
def test_more_than_words_in_the_lines_is_told(tmp_path: Path, behind: str) -> None:
    """transformers 4 and PaddleNLP keep what is behind a word; transformers 5 keeps numbers there."""
    write_random(tmp_path / "ckpt", "torch")
    rows = ["[UNK]", "[PAD]", *words(V - 2).decode().split("\n")[:-1]]
    content = "".join(f"{row}{behind.format(number)}\n" for number, row in enumerate(rows))
    (tmp_path / "ckpt" / "vocab.txt").write_text(content)
    if behind:
        error = misfit(tmp_path / "ckpt")
        assert f"row 0 is {'[UNK]' + behind.format(0)!r}: more than a word" in error
        assert "sed 's/[[:space:]].*//'" in error
    else:
        assert convert(tmp_path / "ckpt", to="paddle").written


def test_lines_may_end_in_a_carriage_return_and_a_line_feed(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "torch")
    (tmp_path / "ckpt" / "vocab.txt").write_bytes(words(V).replace(b"\n", b"\r\n"))
    assert convert(tmp_path / "ckpt", to="paddle").written
    assert len(read_rows(tmp_path / "ckpt" / "vocab.txt")) == V


@pytest.mark.parametrize("added", ['{"<e>": "61"}', '{"<e>": -1}', '{"<e>": true}', '{"<e>": 1.5}', "[]", "{"])
def test_added_tokens_that_are_no_ids_are_told(tmp_path: Path, added: str) -> None:
    write_random(tmp_path / "ckpt", "torch")
    (tmp_path / "ckpt" / "vocab.txt").write_bytes(words(V))
    (tmp_path / "ckpt" / "added_tokens.json").write_text(added)
    with pytest.raises(FormatError, match=r"added_tokens\.json"):
        convert(tmp_path / "ckpt", to="paddle")


def write_tokenizer(directory: Path, rows: int, added: dict[str, int]) -> None:
    """Write what transformers 5 saves in place of vocab.txt."""
    model = {"type": "WordPiece", "vocab": {f"\u5b57{number}": number for number in range(rows)}}
    tokens = [{"id": number, "content": word, "special": True} for word, number in added.items()]
    (directory / "tokenizer.json").write_text(json.dumps({"model": model, "added_tokens": tokens}))


def write_settings(directory: Path, rows: int, added: dict[str, int]) -> None:
    (directory / "vocab.txt").write_bytes(words(rows))
    decoder = {str(number): {"content": word, "special": True} for word, number in added.items()}
    settings = {"tokenizer_class": "BertTokenizer", "added_tokens_decoder": decoder}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))


WRITERS = pytest.mark.parametrize("write", [write_tokenizer, write_settings])


@WRITERS
@pytest.mark.parametrize(
    ("rows", "added", "said"),
    [
        (V, {"<e>": V, "\u5b570": 0}, f"model.resize_token_embeddings({V + 1})"),
        (V - 4, {"<e>": V - 4}, "The embedding's last 3 rows are no word's"),
        (V + 1, {}, "Words with an id of 61 or more have no row in the embedding"),
    ],
)
def test_words_of_the_newer_files_count(
    tmp_path: Path, write: Callable[..., None], rows: int, added: dict[str, int], said: str
) -> None:
    write_random(tmp_path / "ckpt", "torch")
    write(tmp_path / "ckpt", rows, added)
    assert said in misfit(tmp_path / "ckpt")


@WRITERS
def test_words_of_the_newer_files_are_written_where_paddlenlp_reads_them(
    tmp_path: Path, write: Callable[..., None]
) -> None:
    write_random(tmp_path / "ckpt", "torch")
    write(tmp_path / "ckpt", V - 2, {"<e>": V - 2, "\u8bcd": V - 1, "\u5b570": 0})
    report = convert(tmp_path / "ckpt", to="paddle")
    assert report.target is not None
    assert json.loads((report.target / "added_tokens.json").read_text()) == {"<e>": V - 2, "\u8bcd": V - 1}
    assert (report.target / "vocab.txt").read_text().count("\n") == V - 2
    assert [note for note in report.notes if note.startswith("added_tokens.json is written with the 2 added words")]
    assert convert(report.target, to="torch").written


def test_an_added_word_needs_a_number(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "torch")
    write_settings(tmp_path / "ckpt", V, {})
    (tmp_path / "ckpt" / "tokenizer_config.json").write_text('{"added_tokens_decoder": {"x": {"content": "<e>"}}}')
    with pytest.raises(FormatError, match="'<e>' has the id 'x'; wanted a whole number from 0 up"):
        convert(tmp_path / "ckpt", to="paddle")
