"""``export``: a directory for onnxruntime, TensorFlow or Paddle Inference, made by the framework itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .command_group import OnePath, echo
from .converters.amounts import amount
from .converters.json_output import render_json
from .converters.name_choice import NameChoice
from .converters.other_names import EXPORTS
from .device_option import DEVICE
from .source_options import CLASS, CONFIG, FOLLOW_LINKS, FROM, SET, parts_options, take_stated

if TYPE_CHECKING:
    from .models.export.exporting import Export


@click.command(
    "export",
    cls=OnePath,
    second="The output is named with -o: -o {}",
    short_help="Make ONNX, a SavedModel or a Paddle Inference model of DIR.",
)
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--to",
    required=True,
    type=NameChoice(EXPORTS),
    help="What to make; PyTorch, TensorFlow or Paddle makes it and must be installed.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Directory to make.  [default: ckpt-TO beside ckpt]"
)
@click.option("--force", is_flag=True, help="Replace the output if it is an export.")
@click.option(
    "--max-length",
    type=click.IntRange(1, 1 << 17),
    help="Raise the longest sequence, in tokens, above the configuration's max_position_embeddings.",
)
@DEVICE
@FROM
@CONFIG
@SET
@CLASS
@parts_options
@FOLLOW_LINKS
@click.option("--no-trial", is_flag=True, help="Do not run the result and compare its logits with the model's.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as data on stdout.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@click.option("-v", "--verbose", is_flag=True, help="Print on stderr what the framework's process prints.")
def export_command(
    directory: Path,
    to: str,
    output: Path | None,
    force: bool,
    max_length: int | None,
    device: Any,
    follow_links: bool,
    no_trial: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **given: Any,
) -> None:
    """Export the model in DIR, a checkpoint of any dialect and class, for serving without this program.

    Every export takes input_ids, token_type_ids and attention_mask, int64 (batch, length), of any batch and length up
    to the model's limit, and gives logits, float32: of a masked or causal LM (batch, length, vocabulary), of labels
    (batch, labels) or (batch, length, labels). Multiple choice takes (batch, choices, length). A bare encoder gives
    hidden and, with a pooler, pooled. The tokenizer's files travel along. The result is run in its runtime, on the CPU
    or on --device, and compared with the model before it gets its name.

    \b
        roformer-convert export ckpt/ --to onnx
        onnxruntime.InferenceSession("ckpt-onnx/model.onnx")
    \b
        roformer-convert export ckpt/ --to savedmodel -o served/1
        tf.saved_model.load("served/1").signatures["serving_default"]
    \b
        roformer-convert export ckpt/ --to paddle-inference --max-length 1536
        paddle.inference.Config("ckpt-paddle-inference/inference.json",
                                "ckpt-paddle-inference/inference.pdiparams")
    """
    from .models.export.exporting import FORMATS, export
    from .parity.status_line import StatusLine

    with StatusLine(shown=not (quiet or verbose)) as status:
        status.show(f"making the export with {FORMATS[to].framework}{'' if no_trial else ' and running it'}")
        done = export(
            directory,
            output,
            to=to,
            force=force,
            extend_to=max_length,
            follow_links=follow_links,
            trial=not no_trial,
            device=device,
            report=(lambda line: echo(line, err=True)) if verbose else (lambda line: None),
            **take_stated(given),
        )
    if as_json:
        click.echo(render_json(done.as_dict()))
    elif not quiet:
        echo(render(done, tried=not no_trial))


def render(done: Export, *, tried: bool) -> str:
    """Say in a few lines what was made."""
    lines = [
        f"{done.source} → {done.target} ({done.format.name}, {done.kind.name})",
        f"  {amount(done.nbytes)}, sequences of up to {done.max_length:,} tokens, made with {done.version}",
        f"  for {done.format.opened_by}" + ("" if done.file == "." else f", {done.file}"),
    ]
    lines.extend(f"  note: {note}" for note in done.notes)
    if done.runtime is not None:
        checked = (
            f"run in {done.runtime}: outputs within {done.difference:.1g} of the model's (largest {done.largest:.3g})"
        )
    else:
        checked = "not run" if tried else "not run (--no-trial)"
    lines.append(f"  {checked}; {done.seconds:.1f} s")
    return "\n".join(lines)


COMMANDS = {"export": export_command}
