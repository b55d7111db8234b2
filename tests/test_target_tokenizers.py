"""Each target's own tokenizer gives the source's ids on what we wrote for it, or the conversion says it will not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from peer_folders import ROOT, TRAINED, environment, in_process
from random_checkpoints import CONFIG, write_random

from roformer_convert.converters import ConvertOptions, FormatError, convert, open_checkpoint
from roformer_convert.converters.inspection import inspect
from roformer_convert.converters.json_input import read_json
from roformer_convert.converters.table.mapping import DIALECTS, Dialect
from roformer_convert.models.text.tokenizer import Tokenizer
from roformer_convert.parity.participants.participants import look_at

CASES = ROOT / "fixtures" / "cases"
#: Two vocabularies of words, one described by a class and one by nothing, and one of characters.
SOURCES = {
    "words": CASES / "33-word-tokenizer-to-paddle",
    "words, undescribed": CASES / "38-word-tf1-to-paddle",
    "characters": TRAINED,
}
#: bert4keras has no [MASK] in a text.
TEXTS = [
    *(ROOT / "fixtures" / "sentences.txt").read_text(encoding="utf-8").replace("[MASK]", "").splitlines(),
    "今天天气很好，我们去公园。",
    "人工智能研究：Python 3.11 和 x88，X92!",
]
Ids = dict[str, list[list[int]]]

_ASKED = """
import json, sys
{imports}
found = {{}}
for job in json.loads(sys.argv[1]):
    found[job["name"]] = {{}}
    for how, tokenizer in {tokenizers}.items():
        found[job["name"]][how] = [{ids} for text in job["texts"]]
print("\\n" + json.dumps(found))
"""
TRANSFORMERS = _ASKED.format(
    imports="from transformers import AutoTokenizer, BertTokenizer, RoFormerTokenizer",
    tokenizers="""{
        "named": AutoTokenizer.from_pretrained(job["dir"]),
        "its class": (RoFormerTokenizer if job["words"] else BertTokenizer).from_pretrained(job["dir"]),
    }""",
    ids='tokenizer(text)["input_ids"]',
)
PADDLENLP = _ASKED.format(
    imports="""import scipy, aiohttp, pyarrow, pandas, sklearn
from paddlenlp.transformers import AutoTokenizer, RoFormerTokenizer""",
    tokenizers="""{
        "named": AutoTokenizer.from_pretrained(job["dir"]),
        "its class": RoFormerTokenizer.from_pretrained(job["dir"]),
    }""",
    ids='tokenizer(text)["input_ids"]',
)
BERT4KERAS = _ASKED.format(
    imports="import jieba\nfrom bert4keras.tokenizers import Tokenizer",
    tokenizers="""{
        "as the note says": Tokenizer(
            job["dir"] + "/vocab.txt",
            do_lower_case=True,
            **({"pre_tokenize": lambda text: jieba.cut(text, HMM=False)} if job["words"] else {}),
        )
    }""",
    ids="tokenizer.encode(text)[0]",
)
# JunnYu's own class cannot be built beside transformers 4.34 or later, not even from its own files
JUNNYU = _ASKED.format(
    imports="import roformer\nfrom transformers import BertTokenizer, RoFormerTokenizer",
    tokenizers='{"its class": (RoFormerTokenizer if job["words"] else BertTokenizer).from_pretrained(job["dir"])}',
    ids='tokenizer(text)["input_ids"]',
)
#: Software → the dialect that is written for it, its program and its environment.
SOFTWARE: Mapping[str, tuple[Dialect, str, dict[str, str]]] = {
    "transformers4": ("torch", TRANSFORMERS, {}),
    "junnyu": ("torch", JUNNYU, {}),
    "paddlenlp": ("paddle", PADDLENLP, {}),
    "bert4keras": ("tf1", BERT4KERAS, {"TF_KERAS": "1", "TF_USE_LEGACY_KERAS": "1"}),
}


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("converted")
    for name, source in SOURCES.items():
        for dialect in DIALECTS:
            (root / dialect).mkdir(exist_ok=True)
            convert(source, root / dialect / name, to=dialect)
    return root


def asked(program: str, python: Path, folders: Mapping[str, Path], **env: str) -> dict[str, dict[str, list[list[int]]]]:
    jobs: list[dict[str, Any]] = [
        {"name": name, "dir": str(path), "texts": TEXTS, "words": name.startswith("words"), "cwd": str(path.parent)}
        for name, path in folders.items()
    ]
    answer: dict[str, dict[str, list[list[int]]]] = json.loads(
        in_process(program, jobs, python=python, **env).splitlines()[-1]
    )
    return answer


@pytest.fixture(scope="module")
def of_the_sources() -> Ids:
    """What the software of each source makes of the texts."""
    described = asked(TRANSFORMERS, environment("transformers4"), {"words": SOURCES["words"]})
    keras = {"words, undescribed": SOURCES["words, undescribed"]}
    undescribed = asked(BERT4KERAS, environment("bert4keras"), keras, TF_KERAS="1", TF_USE_LEGACY_KERAS="1")
    characters = asked(PADDLENLP, environment("paddlenlp"), {"characters": SOURCES["characters"]})
    answers = {**described, **undescribed, **characters}
    return {name: next(iter(ids.values())) for name, ids in answers.items()}


def test_the_sources_differ_as_words_and_characters_do(of_the_sources: Ids) -> None:
    """A text with a word of the vocabulary: were it taken apart, this test would not see it."""
    vocabulary = (SOURCES["words"] / "vocab.txt").read_text(encoding="utf-8").splitlines()
    tokens = {vocabulary[number] for ids in of_the_sources["words"] for number in ids}
    assert {"人工智能", "我们"} <= tokens


@pytest.mark.parametrize("software", SOFTWARE)
def test_the_targets_own_tokenizer_gives_the_sources_ids(converted: Path, of_the_sources: Ids, software: str) -> None:
    dialect, program, env = SOFTWARE[software]
    folders = {name: converted / dialect / name for name in SOURCES}
    for name, answers in asked(program, environment(software), folders, **env).items():
        for how, ids in answers.items():
            assert ids == of_the_sources[name], (name, how)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", SOURCES)
def test_our_tokenizer_gives_the_sources_ids(converted: Path, of_the_sources: Ids, name: str, dialect: Dialect) -> None:
    tokenizer = Tokenizer.from_pretrained(converted / dialect / name)
    assert [tokenizer.encode(text).ids for text in TEXTS] == of_the_sources[name]


def test_transformers_5_gives_them_for_characters_and_for_words_only_in_the_form_that_the_note_names(
    converted: Path, of_the_sources: Ids
) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("rjieba")
    for loader in (transformers.AutoTokenizer, transformers.BertTokenizer):
        tokenizer = loader.from_pretrained(converted / "torch" / "characters")
        assert [tokenizer(text)["input_ids"] for text in TEXTS] == of_the_sources["characters"]
    folder = converted / "torch" / "words"
    said = read_json(folder / "conversion.json")["notes"]
    assert [note for note in said if "takes every word apart" in note]
    tokenizer = transformers.RoFormerTokenizer.from_pretrained(folder)
    assert [tokenizer(text)["input_ids"] for text in TEXTS] != of_the_sources["words"]
    rows = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    tokenizer = transformers.RoFormerTokenizer(vocab={token: row for row, token in enumerate(rows)})
    assert [tokenizer(text)["input_ids"] for text in TEXTS] == of_the_sources["words"]


# --- which files are written anew -----------------------------------------------------------------------------------


def tokenizer_settings(
    tmp_path: Path, to: Dialect, vocabulary: str, settings: dict[str, Any] | None
) -> tuple[dict[str, Any] | None, list[str]]:
    """Convert a model with such a vocabulary; return the tokenizer's settings in the result, and the notes on them."""
    write_random(tmp_path / "ckpt", "tf1" if to != "tf1" else "paddle")
    (tmp_path / "ckpt" / "vocab.txt").write_text(f"{vocabulary}\n" * CONFIG.vocab_size, encoding="utf-8")
    if settings is not None:
        (tmp_path / "ckpt" / "tokenizer_config.json").write_text(json.dumps(settings))
    report = convert(tmp_path / "ckpt", tmp_path / "out", to=to)
    path = tmp_path / "out" / "tokenizer_config.json"
    assert (path.exists() and settings != read_json(path)) == ("tokenizer_config.json" in report.as_dict()["rewritten"])
    notes = [note for note in report.notes if note.startswith("tokenizer_config.json")]
    return read_json(path) if path.exists() else None, notes


WORDS = "字字"


@pytest.mark.parametrize(
    ("to", "vocabulary", "settings", "want"),
    [
        ("paddle", WORDS, None, {"use_jieba": True, "tokenizer_class": "RoFormerTokenizer"}),
        ("paddle", "x", None, None),
        ("paddle", "x", {"tokenizer_class": "BertTokenizer"}, {"tokenizer_class": "BertTokenizer"}),
        (
            "paddle",
            "x",
            {"tokenizer_class": "RoFormerTokenizerFast", "do_lower_case": False},
            {"use_jieba": True, "tokenizer_class": "RoFormerTokenizer", "do_lower_case": False},
        ),
        ("torch", WORDS, None, {"tokenizer_class": "RoFormerTokenizer"}),
        ("torch", "x", None, {"tokenizer_class": "BertTokenizer"}),
        # PaddleNLP has one class for both kinds, and transformers' of that name is for words
        (
            "torch",
            "x",
            {"use_jieba": False, "tokenizer_class": "RoFormerTokenizer"},
            {"use_jieba": False, "tokenizer_class": "BertTokenizer"},
        ),
        ("tf", "x", {"use_jieba": True}, {"use_jieba": True, "tokenizer_class": "RoFormerTokenizer"}),
        ("tf1", WORDS, None, None),
    ],
)
def test_the_class_is_the_one_by_which_the_targets_software_chooses(
    tmp_path: Path, to: Dialect, vocabulary: str, settings: dict[str, Any] | None, want: dict[str, Any] | None
) -> None:
    got, notes = tokenizer_settings(tmp_path, to, vocabulary, settings)
    assert got == want
    assert len(notes) == (got != settings)


def test_what_names_the_sources_code_files_and_places_stays_behind(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "torch")
    code = {"auto_map": {"AutoTokenizer": ["a.B", None]}, "trust_remote_code": True, "custom_pipelines": {"p": {}}}
    place = {"_name_or_path": "/home/somebody/model", "name_or_path": "/home/somebody/model"}
    files = {"tokenizer_file": "/home/somebody/t.json", "special_tokens_map_file": "/home/somebody/s.json"}
    kept = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    (tmp_path / "ckpt" / "tokenizer_config.json").write_text(json.dumps({**kept, **code, **place, **files}))
    (tmp_path / "ckpt" / "generation_config.json").write_text(json.dumps({"max_length": 7, **code}))
    (tmp_path / "ckpt" / "special_tokens_map.json").write_text("{}\n")
    path = tmp_path / "ckpt" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **code, "_name_or_path": place["_name_or_path"]}))
    report = convert(tmp_path / "ckpt", tmp_path / "out", to="torch")
    assert read_json(tmp_path / "out" / "tokenizer_config.json") == kept
    assert read_json(tmp_path / "out" / "generation_config.json") == {"max_length": 7}
    assert (tmp_path / "out" / "special_tokens_map.json").read_bytes() == b"{}\n"
    for found in (tmp_path / "out").glob("*.json"):
        assert "/home/somebody" not in found.read_text(), found
    with open_checkpoint(tmp_path / "out") as opened:
        assert not opened.source_config.extra.keys() & {*code, "_name_or_path"}
    for name in (*code, "_name_or_path"):
        assert [note for note in report.notes if note.startswith(f"{name} ") and "is left out" in note], name
    for name in ("tokenizer_config.json", "generation_config.json"):
        assert [note for note in report.notes if note.startswith(f"{name}: auto_map, custom_pipelines, trust_remote")]


def test_settings_that_are_no_json_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "torch")
    (tmp_path / "ckpt" / "tokenizer_config.json").write_text("{")
    with pytest.raises(FormatError, match=r"tokenizer_config\.json: not JSON"):
        convert(tmp_path / "ckpt", tmp_path / "out", to="paddle")
    with pytest.raises(FormatError, match=r"tokenizer_config\.json: not JSON"):
        inspect(tmp_path / "ckpt")
    assert not (tmp_path / "out").exists()


def test_settings_for_generating_that_are_no_json_stay_behind(tmp_path: Path) -> None:
    write_random(tmp_path / "ckpt", "torch")
    (tmp_path / "ckpt" / "generation_config.json").write_text('{"auto_map": {"GenerationConfig": "mine.Own"}')
    found = inspect(tmp_path / "ckpt")
    report = convert(tmp_path / "ckpt", tmp_path / "out", to="paddle")
    assert found.converts
    for notes in (found.notes, report.notes):
        assert [note for note in notes if note.startswith("generation_config.json is left out: not JSON")]
    assert report.left_behind == ("generation_config.json",)
    assert not (tmp_path / "out" / "generation_config.json").exists()


# --- a vocabulary that lies in tokenizer.json alone, as transformers 5 saves it ---------------------------------------


def write_tokenizer_json(directory: Path, ids: Mapping[str, int], kind: str = "WordPiece") -> None:
    write_random(directory, "torch")
    (directory / "tokenizer.json").write_text(json.dumps({"model": {"type": kind, "vocab": ids}}), encoding="utf-8")


def test_what_transformers_5_saves_becomes_the_vocabulary_that_the_others_read(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    write_random(tmp_path / "ckpt", "torch")
    transformers.BertTokenizer.from_pretrained(TRAINED).save_pretrained(tmp_path / "ckpt")
    assert not (tmp_path / "ckpt" / "vocab.txt").exists()
    for to in DIALECTS:
        report = convert(tmp_path / "ckpt", tmp_path / to, to=to, options=ConvertOptions(any_vocab=True))
        if to == "torch":
            assert not (tmp_path / to / "vocab.txt").exists()
            continue
        assert (tmp_path / to / "vocab.txt").read_bytes() == (TRAINED / "vocab.txt").read_bytes()
        assert [note for note in report.notes if note.startswith("vocab.txt is written with the 1,536 rows")]
        assert "vocab.txt" in report.as_dict()["rewritten"]


@pytest.mark.parametrize(
    ("ids", "kind"),
    [
        ({"a": 0, "b": 2}, "WordPiece"),
        ({"a": 0, "b": 0}, "WordPiece"),
        ({"a": 0, "b\nc": 1}, "WordPiece"),
        ({"a": 0, "b ": 1}, "WordPiece"),
        ({"a": 0, "": 1}, "WordPiece"),
        ({"a": 0, "b": True}, "WordPiece"),
        ({"a": 0, "b": 1}, "BPE"),
    ],
)
def test_tokens_that_cannot_be_lines_are_not_made_into_some(tmp_path: Path, ids: dict[str, int], kind: str) -> None:
    write_tokenizer_json(tmp_path / "ckpt", ids, kind)
    report = convert(tmp_path / "ckpt", tmp_path / "out", to="paddle", options=ConvertOptions(any_vocab=True))
    assert not (tmp_path / "out" / "vocab.txt").exists()
    assert [note for note in report.notes if "it has no tokenizer here" in note]


@pytest.mark.parametrize("twice", ["\u5b573", "\u5b573 x", ""])
def test_a_token_that_is_there_twice_shifts_bert4keras_and_is_said(tmp_path: Path, twice: str) -> None:
    rows = [f"\u5b57{number}" for number in range(CONFIG.vocab_size)]
    rows[9], rows[3] = twice, rows[3] if twice else ""
    cases: tuple[tuple[Dialect, Dialect, int], ...] = (
        ("torch", "tf1", 1),
        ("tf1", "torch", 1),
        ("torch", "paddle", 0),
        ("tf1", "tf1", 0),
    )
    for source, target, many in cases:
        directory = tmp_path / f"{source}-{target}"
        write_random(directory, source)
        (directory / "vocab.txt").write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
        notes = convert(directory, to=target, options=ConvertOptions(dry_run=True)).notes
        assert len([note for note in notes if "in the rows 3 and 9: bert4keras numbers the rows" in note]) == many


@pytest.mark.parametrize(
    ("kind", "why"), [("WordPiece", ""), ("BPE", "holds the model 'BPE'"), (None, "neither vocab.txt nor tokenizer")]
)
def test_the_gate_asks_sentences_of_what_transformers_5_saves_or_says_why_not(
    tmp_path: Path, kind: str | None, why: str
) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    if kind is None:
        write_random(tmp_path / "ckpt", "torch")
    else:
        rows = [*words, *(f"\u5b57{number}" for number in range(CONFIG.vocab_size - len(words)))]
        write_tokenizer_json(tmp_path / "ckpt", {word: row for row, word in enumerate(rows)}, kind)
    model, _ = look_at([tmp_path / "ckpt"])
    assert model.vocabulary == (None if why else tmp_path / "ckpt")
    told = [note for note in model.notes if "no sentences" in note]
    assert len(told) == bool(why)
    assert all(why in note for note in told)
