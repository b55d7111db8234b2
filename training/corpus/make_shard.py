"""One shard made from its pieces of text: the work of :mod:`.prepare` that any process of any machine can do."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...converters.errors import ConvertError, FormatError
from ...models.text.tokenizer import Tokenizer
from ..text.encode_text import TextEncoder
from ..text.files import LineReader, TextFormat, is_compressed, paragraphs
from ..text.sentences import split_sentences
from .reading import shard_name
from .shard_writer import MAKE_ROOM, ShardWriter
from .work_units import Input, Piece

#: Characters that are encoded at a time.
_BATCH_CHARACTERS = 1 << 16


@dataclass(frozen=True)
class Job:
    """What a process needs to make shards.

    Attributes:
        directory: Directory of the corpus, the tokenizer's files in it.
        segmenter: See :data:`~..text.segmentation.SEGMENTERS`.
        text_format: How the inputs are read.
        inputs: All files of the corpus.
        units: The pieces of every shard.
        corpus: The corpus's id.
        vocabulary_size: One past the largest id.
    """

    directory: Path
    segmenter: str
    text_format: TextFormat
    inputs: tuple[Input, ...]
    units: tuple[tuple[Piece, ...], ...]
    corpus: str
    vocabulary_size: int

    def nbytes(self, number: int) -> int:
        """Count the bytes that unit ``number`` reads."""
        return sum(piece.stop - piece.start for piece in self.units[number])


@dataclass(frozen=True)
class Made:
    """What making one shard came to; ``peak_bytes`` is the most memory its process ever held."""

    number: int
    characters: int
    peak_bytes: int


def open_encoder(job: Job) -> TextEncoder:
    """Read the tokenizer that lies beside the shards.

    Raises:
        FormatError: It is not the tokenizer that the corpus was begun with.
    """
    return TextEncoder(Tokenizer.from_pretrained(job.directory), job.segmenter)


def make_shard(job: Job, number: int, encoder: TextEncoder, progress: Callable[[int], None]) -> Made:
    """Make one shard: depends on the job and its number, and on no other shard.

    Raises:
        ConvertError: An input cannot be read or is not valid, or the shard cannot be written.
    """
    path = job.directory / shard_name(number)
    characters = 0
    try:
        with ShardWriter(path, job.vocabulary_size, number, job.corpus) as writer:
            for piece in job.units[number]:
                characters += _add_piece(job, piece, encoder, writer, progress)
            writer.commit()
    except OSError as error:
        raise ConvertError(f"{path}: cannot be written: {error.strerror or error}", MAKE_ROOM) from None
    return Made(number, characters, peak_memory())


def _add_piece(
    job: Job, piece: Piece, encoder: TextEncoder, writer: ShardWriter, progress: Callable[[int], None]
) -> int:
    item = job.inputs[piece.input]
    path = Path(item.name)
    if path.stat().st_size != item.nbytes:
        raise FormatError(
            path, f"changed since the corpus was begun: {path.stat().st_size:,} bytes now, {item.nbytes:,} then"
        )
    # the bytes of a compressed file say nothing about where its text ends
    reader = LineReader(path, piece.start, None if is_compressed(path) else piece.stop)
    characters = waiting = reported = 0
    sentences: list[str] = []
    ends: list[int] = []  # how many of ``sentences`` had come when a document ended
    for paragraph in paragraphs(reader, job.text_format):
        if paragraph is None:
            ends.append(len(sentences))
            continue
        characters += len(paragraph)
        for sentence in split_sentences(paragraph):
            sentences.append(sentence)
            waiting += len(sentence)
            if waiting > _BATCH_CHARACTERS:
                writer.add(*encoder.encode(sentences), ends)
                sentences, ends, waiting = [], [], 0
                progress(reader.progress - reported)
                reported = reader.progress
    writer.add(*encoder.encode(sentences), ends)
    progress(piece.stop - piece.start - reported)
    return characters


def peak_memory() -> int:
    """Return the bytes that this process held at its most; 0 where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    with contextlib.suppress(OSError, ValueError):  # Linux, where the other number is never below the parent process's
        for line in Path("/proc/self/status").read_text("ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
