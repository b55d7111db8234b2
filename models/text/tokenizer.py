"""One tokenizer for all three frameworks: text to ids, offsets and padded arrays.

On the tokenizers library: BERT's character and wordpiece rules, or jieba's words first where the vocabulary is one of
words. :mod:`.tokenizer_files` says which, and reads the rest of what a directory says. No framework is imported.

Sources: ``BertTokenizer`` (tokenization_bert.py) and ``RoFormerTokenizer`` (tokenization_roformer.py,
tokenization_utils.py) of transformers 5.23. Its RoFormerTokenizer.from_pretrained looks jieba's words up in the *path*
of vocab.txt, so that every word falls apart into characters; built from a dict, and in 4.57, it does as ours does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...converters.errors import ConvertError
from ..processes.frameworks import MissingPackageError, is_installed
from .tokenizer_files import TokenizerSettings, read_settings

try:
    from tokenizers import AddedToken, PreTokenizedString
    from tokenizers import Encoding as RustEncoding
    from tokenizers import Tokenizer as Pipeline
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer, PreTokenizer
    from tokenizers.processors import TemplateProcessing
except ImportError:
    raise ConvertError(
        "The tokenizer needs the tokenizers library, which is not installed",
        "Install it with: pip install tokenizers (the extras paddle, torch and tensorflow bring it).",
    ) from None

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Encoding:
    """One text, or a pair of texts, as ids, with [CLS] and [SEP].

    Attributes:
        ids: T token ids.
        token_type_ids: 0 for the first text, 1 for the second.
        tokens: The tokens' spellings.
        offsets: (start, end) of each token in its own text, in characters; (0, 0) for [CLS] and [SEP].
    """

    ids: list[int]
    token_type_ids: list[int]
    tokens: list[str]
    offsets: list[tuple[int, int]]


@dataclass(frozen=True)
class Batch:
    """Texts as int64 arrays (B, T), padded on the right to the longest.

    Attributes:
        input_ids: Token ids, and the padding token's behind each text.
        token_type_ids: 0 for the first text and padding, 1 for the second text.
        attention_mask: 1 for tokens, 0 for padding.
        lengths: (B,) tokens of each text, [CLS] and [SEP] included.
        offsets: (B, T, 2) start and end of each token in its text, in characters; None where not asked for.
    """

    input_ids: Int64
    token_type_ids: Int64
    attention_mask: Int64
    lengths: Int64
    offsets: Int64 | None = None


class Tokenizer:
    """Text to ids, as transformers' BertTokenizer or RoFormerTokenizer does it.

    Attributes:
        settings: What was read.
        size: One past the largest id.
        special_ids: Ids left out where special tokens are skipped.
        pad_id, unk_id, cls_id, sep_id, mask_id: Ids of the special tokens.
    """

    def __init__(self, settings: TokenizerSettings) -> None:
        special = {role: token.content for role, token in settings.special.items()}
        pipeline = Pipeline(WordPiece(dict(settings.ids), unk_token=special["unk_token"]))
        pipeline.normalizer = BertNormalizer(
            clean_text=True,
            # RoFormerTokenizer leaves Chinese characters to jieba, whatever tokenize_chinese_chars says
            handle_chinese_chars=settings.split_chinese and not settings.words,
            strip_accents=settings.strip_accents,
            lowercase=settings.lower_case,
        )
        pipeline.add_tokens([AddedToken(**asdict(token)) for token in settings.added])
        pipeline.pre_tokenizer = (
            PreTokenizer.custom(JiebaWords(pipeline.get_vocab())) if settings.words else BertPreTokenizer()
        )
        # every added token has an id now, so none of these is None
        ids: dict[str, Any] = {role: pipeline.token_to_id(spelling) for role, spelling in special.items()}
        self.pad_id, self.unk_id, self.mask_id = ids["pad_token"], ids["unk_token"], ids["mask_token"]
        self.cls_id, self.sep_id = ids["cls_token"], ids["sep_token"]
        # C and S and not the tokens themselves: a spelling with a space or a colon would not survive the template
        pipeline.post_processor = TemplateProcessing(
            single=["C:0", "$A:0", "S:0"],
            pair=["C:0", "$A:0", "S:0", "$B:1", "S:1"],
            special_tokens=[
                {"id": letter, "ids": [ids[role]], "tokens": [special[role]]}
                for letter, role in (("C", "cls_token"), ("S", "sep_token"))
            ],
        )
        self.settings = settings
        self._pipeline = pipeline
        added: dict[Any, str] = {pipeline.token_to_id(token.content): token.content for token in settings.added}
        self._rows: Mapping[int, str] = {**added, **settings.rows}
        self.size = max(self._rows) + 1
        self.special_ids: frozenset[Any] = frozenset(pipeline.token_to_id(spelling) for spelling in settings.skipped)

    @classmethod
    def from_pretrained(cls, directory: Path | str) -> Tokenizer:
        """Read the tokenizer of a checkpoint directory of any dialect.

        Raises:
            FormatError: A file is damaged or too large, or two of them disagree.
            MisfitError: No vocabulary, a special token without a row, an unusable setting.
            MissingPackageError: A word vocabulary, and jieba is not installed.
        """
        return cls(read_settings(Path(directory)))

    def encode(self, text: str, pair: str | None = None, *, max_length: int | None = None) -> Encoding:
        """Turn one text, or two, into ids.

        Args:
            text: The first text.
            pair: The second; its token type is 1.
            max_length: Most tokens, [CLS] and [SEP] included; the longer of the two is cut first, from its end.

        Raises:
            ConvertError: A text holds half of a surrogate pair; ``max_length`` leaves no room for [CLS] and [SEP].
        """
        texts = text if pair is None else (text, pair)
        one = _run(self._pipeline.encode_batch, [texts])[0]
        columns = (one.ids, one.type_ids, one.tokens, one.offsets)
        kept = _kept(one, pair is not None, max_length)
        return Encoding(*(columns if kept is None else ([column[place] for place in kept] for column in columns)))

    def encode_batch(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        max_length: int | None = None,
        multiple_of: int = 1,
        offsets: bool = False,
    ) -> Batch:
        """Turn B texts, or pairs of texts, into padded arrays (B, T).

        Args:
            texts: The first texts.
            pairs: As many second texts.
            max_length: Most tokens of one text, or pair, as in :meth:`encode`.
            multiple_of: T is rounded up to a multiple of this many tokens.
            offsets: Whether to keep offsets; without them it is faster.

        Raises:
            ConvertError: As :meth:`encode`.
        """
        both = list(texts) if pairs is None else list(zip(texts, pairs, strict=True))
        found = _run(self._pipeline.encode_batch if offsets else self._pipeline.encode_batch_fast, both)
        kept = [_kept(one, pairs is not None, max_length) for one in found]
        lengths = np.fromiter(
            (len(one) if some is None else len(some) for one, some in zip(found, kept, strict=True)),
            np.int64,
            len(found),
        )
        width = -(-int(lengths.max(initial=0)) // multiple_of) * multiple_of
        attention_mask = (np.arange(width) < lengths[:, None]).astype(np.int64)
        input_ids = np.full((len(found), width), self.pad_id, np.int64)
        token_type_ids = np.zeros((len(found), width), np.int64)
        places = np.zeros((len(found), width, 2), np.int64) if offsets else None
        for row, (one, some) in enumerate(zip(found, kept, strict=True)):
            part = slice(None) if some is None else some
            length = lengths[row]
            input_ids[row, :length] = one.ids if some is None else np.array(one.ids)[part]
            if pairs is not None:
                token_type_ids[row, :length] = np.array(one.type_ids)[part]
            if places is not None:
                places[row, :length] = np.array(one.offsets)[part]
        return Batch(input_ids, token_type_ids, attention_mask, lengths, places)

    def pieces(self, texts: Sequence[str]) -> list[RustEncoding]:
        """Turn texts into the library's own encodings, without [CLS] and [SEP].

        Raises:
            ConvertError: A text holds half of a surrogate pair.
        """
        return _run(partial(self._pipeline.encode_batch, add_special_tokens=False), list(texts))

    def token(self, token_id: int) -> str | None:
        """Spell one id as the vocabulary does, ``##`` included; None where no row has that id."""
        return self._rows.get(token_id)

    def token_id(self, token: str) -> int | None:
        """Find a token's id; None where the vocabulary does not hold it."""
        found: int | None = self._pipeline.token_to_id(token)
        return found

    def mask_positions(self, ids: Sequence[int] | Int64) -> list[int]:
        """Find the masks in T ids."""
        return [int(position) for position in np.flatnonzero(np.asarray(ids) == self.mask_id)]


def _run(encode: Callable[[list[Any]], list[RustEncoding]], texts: list[Any]) -> list[RustEncoding]:
    try:
        return encode(texts)
    except TypeError:
        _refuse_surrogates(texts)
        raise


def _kept(one: RustEncoding, is_pair: bool, max_length: int | None) -> list[int] | None:
    """Choose the tokens that ``max_length`` leaves of [CLS] A [SEP] or [CLS] A [SEP] B [SEP]; None where all stay.

    The library's own truncation also builds every piece that it cuts off, for pairs every piece of A with every piece
    of B. Source: ``TruncationStrategy::LongestFirst`` in its utils/truncation.rs.
    """
    if max_length is None:
        return None
    ends = 3 if is_pair else 2
    if max_length < ends:
        raise ConvertError(f"max_length is {max_length}; wanted at least {ends}, for [CLS] and each text's [SEP]")
    total, room = len(one), max_length - ends
    if total <= max_length:
        return None
    if not is_pair:
        return [*range(1 + room), total - 1]
    second = sum(one.type_ids) - 1
    first = total - ends - second
    shorter = min(first, second)
    longer = max(shorter, room - shorter)
    if shorter + longer > room:
        shorter, longer = room // 2, room - room // 2
    keep_first, keep_second = (shorter, longer) if first <= second else (longer, shorter)
    return [*range(1 + keep_first), 1 + first, *range(2 + first, 2 + first + keep_second), total - 1]


def half_pair(text: str) -> str | None:
    """Describe half of a surrogate pair in ``text``, which is how bytes that were not UTF-8 reach Python, or None."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return f"half of a surrogate pair (U+{ord(text[error.start]):04X}) at character {error.start}: not UTF-8 text"
    return None


def _refuse_surrogates(texts: list[Any]) -> None:
    for number, text in enumerate(texts, 1):
        for part in text if isinstance(text, tuple) else (text,):
            wrong = half_pair(part)
            if wrong:
                raise ConvertError(f"text {number} holds {wrong}", "Give the text in UTF-8.")


# Word vocabularies ---------------------------------------------------------------------------------------------------


class JiebaWords:
    """Splits normalised text at jieba's words: one in the vocabulary stays whole, others fall into Chinese characters.

    Source: ``JiebaPreTokenizer`` of transformers, which slices each word out of the whole text and so takes time
    quadratic in its length; here the text is halved until the words are short work.
    """

    def __init__(self, vocabulary: Mapping[str, int]) -> None:
        if not is_installed("rjieba"):
            raise MissingPackageError("A vocabulary of words", {"rjieba": "jieba"})
        import rjieba

        self._cut: Callable[..., list[tuple[str, int, int]]] = rjieba.tokenize
        self._vocabulary = vocabulary
        self._characters = BertNormalizer(
            clean_text=False, handle_chinese_chars=True, strip_accents=False, lowercase=False
        )

    def pre_tokenize(self, text: PreTokenizedString) -> None:
        """Split ``text`` in place; the library calls this for what lies between the added tokens."""
        text.split(lambda _, part: list(_slices(part, 0, list(self.spans(str(part))))))

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield the start and end of each piece of ``text``, white space left out."""
        for word, start, end in self._cut(text, hmm=False):
            if word in self._vocabulary:
                yield start, end
            else:
                for piece in self._characters.normalize_str(word).split():
                    yield start, start + len(piece)
                    start += len(piece)


def _slices(text: Any, begin: int, spans: Sequence[tuple[int, int]]) -> Iterator[Any]:
    """Cut ``spans`` out of ``text``, whose first character is number ``begin``; a slice costs its text's length."""
    if len(spans) <= 32:
        for start, end in spans:
            yield text[start - begin : end - begin]
        return
    middle = len(spans) // 2
    first, second, end = spans[0][0], spans[middle][0], spans[-1][1]
    yield from _slices(text[first - begin : second - begin], first, spans[:middle])
    yield from _slices(text[second - begin : end - begin], second, spans[middle:])
