"""What a checkpoint directory says about its tokenizer: the vocabulary's rows, the special tokens, the settings.

First half of :mod:`.tokenizer`, which builds the pipeline from the :class:`TokenizerSettings` that are read here. All
of it is untrusted: sizes are capped, and what is wrong is a :class:`~...converters.errors.FormatError` with a next
step.

Sources: ``BertTokenizer``, ``RoFormerTokenizer`` and ``PreTrainedTokenizerBase._from_pretrained`` of transformers
5.23 and 4.57, ``RoFormerTokenizer`` of PaddleNLP 2.8.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...converters.errors import ConvertError, MisfitError, Problem, quoted
from ...converters.json_input import Json, read_json
from ...converters.source.splitting import BERT_CLASSES, WORD_CLASSES, counted
from .vocabulary import read_vocabulary

_MOST_ADDED = 1 << 16

#: Role → the spelling of BERT and of every published RoFormer.
ROLES: Mapping[str, str] = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
#: Roles that a file may add; RoFormer has no use for them, but such a token is found in the text before splitting.
_FURTHER_ROLES = ("bos_token", "eos_token")

#: Tokenizer classes that say nothing of how a text is split.
_PLAIN_CLASSES = {"PreTrainedTokenizer", "TokenizersBackend", "AutoTokenizer"}


@dataclass(frozen=True)
class AddedToken:
    """A token that is found in the text before anything else looks at it; the flags are the tokenizers library's.

    Attributes:
        content: Its spelling.
        single_word: Found only between word boundaries.
        lstrip: Takes the white space before it along.
        rstrip: Takes the white space after it along.
        normalized: Looked for in the normalised text (lower-cased) and not in the raw one.
        special: Left out when special tokens are skipped.
    """

    content: str
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False
    special: bool = True


@dataclass(frozen=True, kw_only=True)
class TokenizerSettings:
    """Everything that decides how a text becomes ids.

    Attributes:
        rows: id → token, as the vocabulary spells them.
        ids: token → id; of two rows with one spelling the last counts, as in transformers.
        source: The vocabulary's file, for messages.
        special: Role (``"mask_token"``) → token, for each of :data:`ROLES`.
        added: Tokens looked for before splitting, the special ones among them, in the order they are added.
        skipped: Spellings that count as special.
        lower_case: Whether text is lower-cased.
        strip_accents: Whether accents are dropped; None does as ``lower_case`` does (Google BERT's rule).
        split_chinese: Whether every Chinese character is a word of its own.
        words: Whether jieba splits the text and words of the vocabulary stay whole.
        words_because: Where ``words`` was read, or how it was decided.
    """

    rows: Mapping[int, str]
    ids: Mapping[str, int]
    source: Path
    special: Mapping[str, AddedToken] = field(
        default_factory=lambda: {role: AddedToken(spelling) for role, spelling in ROLES.items()}
    )
    added: Sequence[AddedToken] = tuple(map(AddedToken, ROLES.values()))
    skipped: frozenset[str] = frozenset(ROLES.values())
    lower_case: bool = True
    strip_accents: bool | None = None
    split_chinese: bool = True
    words: bool = False
    words_because: str = "asked for"


def packages_for_texts(directory: Path) -> dict[str, str]:
    """Return the packages that turning texts into tokens takes, package → the extra that brings it; imports neither.

    Args:
        directory: A checkpoint; what is wrong with its vocabulary is said by whoever reads it.
    """
    packages = {"tokenizers": "tokenizers"}
    try:
        words = read_settings(directory).words
    except (ConvertError, OSError):
        words = False
    return {**packages, "rjieba": "jieba"} if words else packages


def read_settings(directory: Path) -> TokenizerSettings:
    """Read what ``directory`` says about its tokenizer.

    Raises:
        FormatError: A file is too large, not UTF-8, not JSON, or the two vocabularies in it disagree.
        MisfitError: No vocabulary, a special token without a row, a setting of the wrong type or one that no
            tokenizer here honours.
    """
    written = _read_if_there(directory / "tokenizer.json")
    rows, ids, source = read_vocabulary(directory, written)
    config_path = directory / "tokenizer_config.json"
    config = _read_if_there(config_path)
    problems: list[Problem] = []
    special, added, skipped = _added_tokens(directory, config, written, ids, max(rows, default=-1) + 1, problems)
    flags = {
        "lower_case": _flag(config, "do_lower_case", True, problems),
        "split_chinese": _flag(config, "tokenize_chinese_chars", True, problems),
        "strip_accents": _flag(config, "strip_accents", None, problems),
    }
    if _flag(config, "do_basic_tokenize", True, problems) is False:
        problems.append(Problem("setting", "do_basic_tokenize", "got false, which transformers 5 no longer honours"))
    if config.get("never_split"):
        problems.append(Problem("setting", "never_split", "is not empty, which transformers 5 no longer honours"))
    words, because = _is_word_vocabulary(directory, config, rows, problems)
    if problems:
        raise MisfitError(
            directory, "a BERT or RoFormer tokenizer", problems, f"Correct {source.name} or {config_path}."
        )
    return TokenizerSettings(
        rows=rows, ids=ids, source=source, special=special, added=added, skipped=skipped, words=words,
        words_because=because, **flags,
    )  # fmt: skip


def settings_of_rows(tokens: Sequence[str], source: Path | str = "vocabulary", **flags: Any) -> TokenizerSettings:
    """Make settings from a vocabulary at hand, its row number being the id; ``flags`` as in the class.

    Raises:
        MisfitError: BERT's special tokens are not all among the rows.
    """
    ids = {token: number for number, token in enumerate(tokens)}
    missing = [Problem("missing", token, f"{role} has no row") for role, token in ROLES.items() if token not in ids]
    if missing:
        raise MisfitError(source, "a BERT or RoFormer tokenizer", missing)
    return TokenizerSettings(rows=dict(enumerate(tokens)), ids=ids, source=Path(source), **flags)


def _read_if_there(path: Path) -> Json:
    return read_json(path) if path.is_file() else {}


# Special and added tokens --------------------------------------------------------------------------------------------


def _added_tokens(
    directory: Path, config: Json, written: Json, ids: Mapping[str, int], rows: int, problems: list[Problem]
) -> tuple[dict[str, AddedToken], tuple[AddedToken, ...], frozenset[str]]:
    """Gather the special tokens and the further added ones, with transformers 5's precedence.

    ``added_tokens_decoder`` in tokenizer_config.json is the newest form: where it stands the older files
    (special_tokens_map.json, added_tokens.json, the list in tokenizer.json) do not count.
    """
    settings = dict(config)
    declared: dict[int, AddedToken] = {}
    if "added_tokens_decoder" in config:
        for number, value in _declared(config["added_tokens_decoder"], "added_tokens_decoder", problems):
            declared[number] = value
    else:
        settings.update(_read_if_there(directory / "special_tokens_map.json"))
        named = {_spelling(settings.get(role, usual)) for role, usual in ROLES.items()}
        for content, number in _read_if_there(directory / "added_tokens.json").items():
            if type(number) is int and content:
                is_special = content in named
                declared[number] = AddedToken(content, normalized=not is_special, special=is_special)
            else:
                problems.append(
                    Problem("setting", "added_tokens.json", f"gives {quoted(content)} the id {quoted(number)}")
                )
        for item in _list(written.get("added_tokens"), "added_tokens", problems):
            token_id = item.get("id") if isinstance(item, dict) else None
            token = _token(item, "added_tokens", problems)
            if token is not None and type(token_id) is int:
                declared[token_id] = token
    by_content = {token.content: token for token in declared.values()}
    special: dict[str, AddedToken] = {}
    for role, usual in ROLES.items():
        token = _token(settings.get(role) or usual, role, problems)
        if token is not None:
            token = by_content.get(token.content, token)
            special[role] = token if token.special else AddedToken(**{**token.__dict__, "special": True})
    extra = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or []
    further = [settings[role] for role in _FURTHER_ROLES if settings.get(role)]
    extras = [
        by_content.get(token.content, token)
        for token in (_token(item, "extra_special_tokens", problems) for item in (*further, *_extra(extra, problems)))
        if token is not None
    ]
    named_special = {token.content: token for token in special.values()}
    added: dict[str, AddedToken] = {}
    for _, token in sorted(declared.items()):
        added.setdefault(token.content, named_special.get(token.content, token))
    for token in (*special.values(), *extras):
        added.setdefault(token.content, token)
    _check_ids(added, declared, special, ids, rows, problems)
    return special, tuple(added.values()), frozenset(token.content for token in (*special.values(), *extras))


def _check_ids(
    added: Mapping[str, AddedToken], declared: Mapping[int, AddedToken], special: Mapping[str, AddedToken],
    ids: Mapping[str, int], rows: int, problems: list[Problem],
) -> None:  # fmt: skip
    """Report tokens without a row, and ids that the tokenizers library would not give: rows, then one after another.

    transformers puts a special token that has no row past the last one, in silence, where the embedding has no row
    either.
    """
    roles = {token.content: role for role, token in special.items()}
    wanted = {token.content: number for number, token in declared.items()}
    following = len(ids)
    for content in added:
        number = ids.get(content)
        if number is None:
            number, following = following, following + 1
            if content not in wanted:
                problems.append(Problem("missing", content, f"{roles.get(content, 'special token')} has no row"))
                continue
            if number < rows:  # two rows with one spelling make the vocabulary shorter than its last id
                problems.append(Problem("id", content, f"would get the id {number}, which a row already has"))
        if wanted.get(content, number) != number:
            problems.append(Problem("id", content, f"declared as {wanted[content]}, but it is {number}"))


def _declared(value: Any, name: str, problems: list[Problem]) -> Iterator[tuple[int, AddedToken]]:
    if not isinstance(value, dict) or len(value) > _MOST_ADDED:
        problems.append(
            Problem("setting", name, f"is a {type(value).__name__}; want an object of at most {_MOST_ADDED:,}")
        )
        return
    for key, item in value.items():
        token = _token(item, name, problems)
        if not (key.isascii() and key.isdecimal() and len(key) < 10):
            problems.append(Problem("setting", name, f"has the key {quoted(key)}; want an id"))
        elif token is not None:
            yield int(key), token


def _extra(value: Any, problems: list[Problem]) -> Sequence[Any]:
    return list(value.values()) if isinstance(value, dict) else _list(value, "extra_special_tokens", problems)


def _list(value: Any, name: str, problems: list[Problem]) -> Sequence[Any]:
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > _MOST_ADDED:
        problems.append(
            Problem("setting", name, f"is a {type(value).__name__}; want a list of at most {_MOST_ADDED:,}")
        )
        return []
    return value


def _spelling(value: Any) -> Any:
    return value.get("content") if isinstance(value, dict) else value


def _token(value: Any, name: str, problems: list[Problem]) -> AddedToken | None:
    """Read a token from its spelling, or from an object with ``content`` and flags."""
    content = _spelling(value)
    flags = {key: value[key] for key in AddedToken.__annotations__ if key in value} if isinstance(value, dict) else {}
    flags.pop("content", None)
    if not isinstance(content, str) or not content or not all(isinstance(flag, bool) for flag in flags.values()):
        problems.append(Problem("setting", name, f"got {quoted(value)}, want a token or an object with its content"))
        return None
    try:
        content.encode("utf-8")
    except UnicodeEncodeError:
        problems.append(Problem("setting", name, f"{quoted(value)} holds half of a surrogate pair"))
        return None
    return AddedToken(content, **flags)


# Settings ------------------------------------------------------------------------------------------------------------


def _flag(config: Json, key: str, usual: bool | None, problems: list[Problem]) -> Any:
    value = config.get(key, usual)
    if isinstance(value, bool) or value is usual:
        return value
    problems.append(Problem("setting", key, f"got {quoted(value)}, want true or false"))
    return usual


def _is_word_vocabulary(
    directory: Path, config: Json, rows: Mapping[int, str], problems: list[Problem]
) -> tuple[bool, str]:
    """Decide between BERT's rules and jieba's words: the tokenizer class if a file names one, else the rows."""
    use_jieba = _flag(config, "use_jieba", None, problems)
    if use_jieba is not None:  # PaddleNLP has one class for both kinds and this setting
        return use_jieba, f"use_jieba is {str(use_jieba).lower()} in tokenizer_config.json"
    model_config = directory / "config.json"
    for name, settings in (("tokenizer_config.json", config), ("config.json", _read_if_there(model_config))):
        named = settings.get("tokenizer_class")
        if named is None:
            continue
        kind = named.removesuffix("Fast") if isinstance(named, str) else repr(named)
        if kind in WORD_CLASSES or kind in BERT_CLASSES:
            return kind in WORD_CLASSES, f"{name} names {named}"
        if kind not in _PLAIN_CLASSES:
            problems.append(
                Problem(
                    "setting",
                    "tokenizer_class",
                    f"got {quoted(named)} in {name}, want BertTokenizer or RoFormerTokenizer",
                )
            )
    found = counted(rows.values())
    return found.words, found.because
