"""Files that are no plain weights: what they are, by name and first bytes, and what to do instead.

Nothing here decides what is read: a file is asked about once it is known not to be weights, or so that what a training
run leaves beside them is not taken for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from ..errors import FormatError, quoted
from ..stand_ins import LFS_POINTER, START_BYTES, stand_in


@dataclass(frozen=True)
class Kind:
    """Attributes:
    what: What such a file is, as a sentence continues: "an exported ONNX graph".
    step: What to do about it.
    names: Patterns of its name, in small letters.
    begins: Bytes that it may begin with.
    """

    what: str
    step: str
    names: tuple[str, ...]
    begins: tuple[bytes, ...] = ()


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
_UNPACK = "Unpack it and name the folder with the weights."

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
        ("*.engine", "*.trt", "*.mlmodel", "*.mlpackage", "*.torchscript", "*.ptl", "*.mar"),
    ),
    Kind(
        "a whole Keras 3 model",
        "Its weights have no names. Load it with Keras where it was made, and save the weights alone: tf_model.h5 of "
        "save_pretrained, or what bert4keras' save_weights writes with a name ending in .h5.",
        ("*.keras",),
    ),
    Kind(
        "weights for llama.cpp",
        "Start from what they were made of: pytorch_model.bin or model.safetensors.",
        ("*.gguf", "*.ggml"),
        (b"GGUF", b"ggml", b"lmgg"),
    ),
    Kind(
        "Flax weights",
        "Load them in transformers 4 with from_pretrained(…, from_flax=True), and save it: that is read.",
        ("*.msgpack",),
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
        "a packed archive",
        _UNPACK,
        ("*.zip", "*.tar", "*.tar.*", "*.tgz", "*.gz", "*.bz2", "*.xz", "*.7z", "*.rar", "*.zst"),
        (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!", b"\x28\xb5\x2f\xfd"),
    ),
    OPTIMIZER,
    Kind("arrays of numpy", "Save the state dict as safetensors, by its names.", ("*.npz", "*.npy"), (b"\x93NUMPY",)),
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
)  # fmt: skip

#: Where a tar archive says that it is one.
_TAR = (257, b"ustar")


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
        FormatError: It is a pointer of Git LFS, a web page, an archive, an export, or one of the other :data:`KINDS`.
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
        if kind.begins and start.startswith(kind.begins):
            yield kind.what, kind.step
    if start[_TAR[0] :].startswith(_TAR[1]):
        yield "a packed archive", _UNPACK
    if start.startswith(b"PK\x03\x04"):
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
        elif not any(name.endswith("data.pkl") for name in names):
            held = ", ".join(quoted(name, 60)[1:-1] for name in names[:4])
            yield f"a packed archive, of {held}{' …' * (len(names) > 4)}", _UNPACK
