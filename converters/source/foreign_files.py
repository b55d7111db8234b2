"""Files that are no plain weights: what they are, by name and first bytes, and what to do instead.

Nothing here decides what is read: a file is asked about once it is known not to be weights, or so that what a training
run leaves beside them is not taken for them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from ..errors import FormatError, quoted, shown
from ..stand_ins import LFS_POINTER, START_BYTES, stand_in
from ..tensors import signatures


@dataclass(frozen=True)
class Kind:
    """A kind of file that has no weights of a RoFormer in it.

    Attributes:
        what: What such a file is, as a sentence continues: "an exported ONNX graph".
        step: What to do about it.
        names: Patterns of its name, in small letters.
        begins: Pattern of its first bytes, where these tell it.
    """

    what: str
    step: str
    names: tuple[str, ...] = ()
    begins: bytes | None = None


_ORIGINAL = "An export no longer has the model's names. Start from what it was exported from: "

ADAPTERS = Kind(
    "adapters (LoRA and the like), which are a difference from a base model's weights",
    "Merge them into it first.",
    ("adapter_model.*", "adapter_config.json", "lora_model_state*.pdparams", "lora_config.json", "prefix_config.json"),
)
SAVED_MODEL = Kind(
    "a TensorFlow SavedModel or frozen graph",
    f"{_ORIGINAL}the tf_model.h5 of save_pretrained, or the .ckpt files of training.",
    ("saved_model.pb", "saved_model.pbtxt", "keras_metadata.pb", "*.pb", "*.tflite"),
    rb"\x08\x01\x12|.{4}TFL3",
)
OPTIMIZER = Kind(
    "the state of an optimizer or of a training run",
    "The model is another file of the same run: pytorch_model.bin, model.safetensors or model_state.pdparams.",
    (
        "optimizer*.pt", "optimizer*.bin", "optimizer*.pth", "optimizer*.safetensors", "optim*.pt",
        "scheduler*.pt", "scheduler*.bin", "scaler*.pt", "training_args.bin", "rng_state*.pth", "random_states_*.pkl",
        "*_optim_states.pt", "*.pdopt", "trainer_state.json", "training_state*",
        "scheduler.pdparams", "scaler.pdparams",
    ),
)  # fmt: skip
_AGAIN = "Look for where the weights are, and fetch them again."
_UNPACK = "Unpack it and name the folder with the weights."
_NUMPY = Kind("arrays of numpy", "Save the state dict as safetensors, by its names.", ("*.npz", "*.npy"), rb"\x93NUMPY")
_KERAS = Kind(
    "a whole Keras 3 model",
    "Its weights have no names. Load it with Keras where it was made, and save the weights alone: tf_model.h5 of "
    "save_pretrained, or what bert4keras' save_weights writes with a name ending in .h5.",
    ("*.keras",),
)

#: In the order in which a folder is described: what says most about it first.
KINDS: tuple[Kind, ...] = (
    ADAPTERS,
    Kind(
        "a distributed checkpoint, of which each rank wrote its part",
        "Put it together first. torch's and accelerate's (FSDP): python -m torch.distributed.checkpoint.format_utils "
        "dcp_to_torch FOLDER pytorch_model.bin. Paddle's: load it with paddle.distributed.load_state_dict where it was "
        "trained, and paddle.save the model's state_dict().",
        ("*.distcp",),
    ),
    Kind(
        "an exported Paddle program (paddle.jit.save)",
        f"{_ORIGINAL}the model_state.pdparams of save_pretrained, or a state_dict() of paddle.save.",
        ("*.pdmodel", "*.pdiparams", "*.pdiparams.info", "__model__", "*.nb"),
    ),
    Kind(
        "an exported ONNX graph",
        f"{_ORIGINAL}pytorch_model.bin or model.safetensors of save_pretrained.",
        ("*.onnx", "*.onnx.data", "*.onnx_data", "*.ort"),
        rb"\x08[\x03-\x0f]\x12",  # the version of its format, and who made it
    ),
    SAVED_MODEL,
    Kind(
        "a program exported for OpenVINO",
        f"{_ORIGINAL}pytorch_model.bin or model.safetensors of save_pretrained.",
        ("openvino_model.xml", "openvino_model.bin"),
    ),
    Kind(
        "a program exported for one runtime",
        f"{_ORIGINAL}the weights that the model was trained as.",
        ("*.pt2", "*.engine", "*.trt", "*.mlmodel", "*.mlpackage", "*.torchscript", "*.ptl", "*.mar"),
    ),
    _KERAS,
    Kind(
        "weights for llama.cpp",
        "Start from what they were made of: pytorch_model.bin or model.safetensors.",
        ("*.gguf", "*.ggml"),
        rb"GGUF|ggml|lmgg",
    ),
    Kind(
        "Flax weights",
        "Load them in transformers 4 with from_pretrained(…, from_flax=True), and save it: that is read.",
        ("*.msgpack",),
        rb"[\x81-\x8f][\xa1-\xbf\xd9]",  # a small dict whose first key is a text
    ),
    Kind(
        "a checkpoint of JAX (Orbax)",
        "Restore it with Orbax where it was trained, and save its arrays as safetensors, under the names that "
        "transformers' RoFormer has in PyTorch, with every kernel transposed.",
        ("manifest.ocdbt", "_checkpoint_metadata", "_metadata", "*.orbax-checkpoint-tmp-*"),
    ),
    Kind("weights for rust-bert", "Start from the pytorch_model.bin that they were made of.", ("*.ot",)),
    Kind(
        "an unfinished download",
        "Let it finish, or fetch the file again.",
        ("*.incomplete", "*.part", "*.crdownload", "*.aria2", "*.download", "*.partial"),
    ),
    Kind(
        "a pointer of DVC, not the file itself",
        "Fetch what it names with `dvc pull` in the repository.",
        ("*.dvc",),
    ),
    Kind(
        "a piece of a file that was cut up",
        "Put the pieces together in their order, `cat NAME.* > NAME`, and name what comes of it.",
        ("*.part-*", "*.part[0-9]*", "*.[0-9][0-9][0-9]", "*.[a-z0-9]*.a[a-z]"),
    ),
    Kind(
        "a checkpoint of MindSpore",
        "Load it with mindspore.load_checkpoint, and save its arrays as safetensors under the names that transformers' "
        "RoFormer has in PyTorch.",
        begins=rb"\n.{1,4}\n[\x05-\x7f][\w.]{5}",
    ),
    Kind(
        "a packed archive",
        _UNPACK,
        ("*.zip", "*.tar", "*.tar.*", "*.tgz", "*.gz", "*.bz2", "*.xz", "*.7z", "*.rar", "*.zst"),
        rb"\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf|Rar!|\x28\xb5\x2f\xfd|.{257}ustar",
    ),
    OPTIMIZER,
    _NUMPY,
    Kind(
        "part of a tokenizer",
        "The weights are another file of the same model; fetch it into this folder too.",
        ("vocab.txt", "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "*.model"),
    ),
    Kind(
        "a configuration",
        "The weights are another file of the same model; fetch it into this folder too.",
        ("config.json", "bert_config.json", "model_config.json"),
    ),
    Kind("zero bytes, which a copy or download left that did not finish", _AGAIN, begins=rb"\0{256}|\0+\Z"),
    Kind("what a Mac keeps beside a file", "The file itself has its name without ._", ("._*",), rb"\0\x05\x16\x07"),
    Kind("a picture", _AGAIN, begins=rb"\x89PNG|\xff\xd8\xff|GIF8"),
    Kind("a document", _AGAIN, begins=rb"%PDF-"),
    Kind("a database or a table of data", _AGAIN, begins=rb"SQLite format 3|PAR1|ARROW1"),
    Kind("a program for the machine", _AGAIN, begins=rb"\x7fELF|MZ"),
)  # fmt: skip

#: A text of letters, numbers and marks; a pickle of protocol 0 is one as well, and is weights.
_TEXT = re.compile(r"[^\x00-\x08\x0b\x0e-\x1f\x7f]+")
_PICKLED_TEXT = re.compile(rb"\(?[dl]p\d|c[\w.]+\n")


def kind_of(name: str) -> Kind | None:
    """Say what a file is by its name, or None for one that tells nothing."""
    small = name.lower()
    return next((kind for kind in KINDS if any(fnmatchcase(small, pattern) for pattern in kind.names)), None)


def is_training_state(name: str) -> bool:
    """Say whether a file is named as what lies beside weights and may look like them: not to be taken for them."""
    return kind_of(name) in (ADAPTERS, OPTIMIZER) or name.lower() == "openvino_model.bin"


def is_lfs_pointer(path: Path) -> bool:
    """Say whether a file is Git LFS's pointer instead of what it points to."""
    return stand_in(_start(path)) is LFS_POINTER


def refuse(path: Path) -> None:
    """Name what is in a weight file's place, or return where that is not known.

    Raises:
        FormatError: It is a pointer of Git LFS, a web page, an archive, an export, a text, or one of the other
            :data:`KINDS`.
    """
    start = _start(path)
    instead = stand_in(start)
    if instead is not None:
        raise FormatError(path, f"not the weights but {instead.what}", next_step=instead.step)
    for what, step in _by_content(path, start):
        raise FormatError(path, f"not weights but {what}", next_step=step)
    kind = kind_of(path.name)
    if kind is not None:
        raise FormatError(path, f"not weights but {kind.what}", next_step=kind.step)
    text = start.decode(errors="ignore")
    cut = len(start) - len(text.encode())  # bytes of the last character
    if cut < 4 and _TEXT.fullmatch(text) and not _PICKLED_TEXT.match(start):
        what = f"not weights but a text, which begins {quoted(text.strip(), 60)}"
        raise FormatError(path, what, next_step="Read what it says; the weights lie elsewhere.")


def _start(path: Path) -> bytes:
    if not path.is_file():  # opening a pipe would wait for ever
        return b""
    try:
        with open(path, "rb") as file:
            return file.read(START_BYTES)
    except OSError:
        return b""


def _by_content(path: Path, start: bytes) -> Iterator[tuple[str, str]]:
    for kind in KINDS:
        if kind.begins is not None and re.match(kind.begins, start, re.DOTALL):
            yield kind.what, kind.step
    if start.startswith(signatures.ZIP):
        yield from _in_zip(path)


def _in_zip(path: Path) -> Iterator[tuple[str, str]]:
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return
    if any(name.endswith("/constants.pkl") for name in names):
        yield (
            "a TorchScript program (torch.jit.save)",
            "Load it with torch.jit.load, save its state_dict() with torch.save, and name that.",
        )
    elif any(name.endswith("/archive_format") for name in names):
        yield "a program exported by torch.export", "Start from the state_dict() of the model that was exported."
    elif "model.weights.h5" in names:
        yield _KERAS.what, _KERAS.step
    elif names and all(name.endswith(".npy") for name in names):
        yield _NUMPY.what, _NUMPY.step
    elif not any(name.endswith("data.pkl") for name in names):
        held = [shown(name, 80) for name in names if not name.endswith("/")]
        yield f"a packed archive, of {', '.join(held[:4])}{', …' * (len(held) > 4)}", _UNPACK
