"""How the problems of a checkpoint are told together: what is said once, and what to do about all of them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..errors import Problem
from ..table.mapping import Dialect, ModelClass
from ..table.recognition import FACTORED, JOINED, encoder_names, is_inside_encoder, looks_like
from ..table.statements import ANOTHERS

#: So many problems of a kind are listed one by one, and told as names that are not this model's.
_FEW = 8
#: The shape of a kernel that lies the other way round.
_TURNED = re.compile(r"got \((\d+), (\d+)\), want \([A-Z], [A-Z]\) = \((?!\1,)\2, \1\)")
#: Where a size was said that a person set.
FROM_SET = "from --set"
LEARNED = "BERT's learned positions"
#: Tensors whose values are not there, or only a part of them.
_ELSEWHERE = re.compile(r"on the meta device|\.DTensor\b")
EMPTY = "a tensor without elements, as ZeRO's stage 3 and FSDP leave one in the place of what they divided"
#: What query, key and value are called in every dialect.
_PART_OF_JOINED = re.compile(r"(self_attn\.[qkv]_proj|attention[./]self[./](query|key|value))[./]")
#: Source: bert4keras/models.py, RoFormerV2.apply_embeddings and apply_final_layers.
UNBIASED = (
    "not there: bert4keras' RoFormerV2 with embedding_size other than hidden_size projects without a bias, and back "
    "(Output-Mapping) before it scores words; PaddleNLP's and JunnYu's project with a bias, and not back"
)


def of_one_kind(problems: Sequence[Problem]) -> list[Problem]:
    """Say once that a whole model is of a type that no weights have, of a kind that is not read, or not there."""
    found = list(problems)
    for kind in ("dtype", "unread", "empty"):
        same = [problem for problem in found if problem.kind == kind]
        details = {problem.detail for problem in same}
        if len(same) > _FEW and len(details) == 1:
            one = Problem(kind, f"{len(same)} tensors", *details)
            found = [one, *(problem for problem in found if problem.kind != kind)]
    return found


def without_the_joined(problems: tuple[Problem, ...]) -> tuple[Problem, ...]:
    """Leave out that query, key and value are missing where they are there in one tensor."""
    if not any(JOINED in problem.detail for problem in problems):
        return problems
    return tuple(each for each in problems if not (each.kind == "missing" and _PART_OF_JOINED.search(each.name)))


def next_step(problems: Sequence[Problem], dialect: Dialect, kind: ModelClass) -> str:
    """Return the next step that fits the problems: the first of them that tells most."""
    kinds = {problem.kind for problem in problems}
    missing = [problem.name for problem in problems if problem.kind == "missing"]
    whole = encoder_names(dialect, missing).isdisjoint(missing)  # with its pooler
    whole = whole and not any(is_inside_encoder(dialect, name) for name in missing)
    unknown = [problem for problem in problems if problem.kind == "unknown"]
    if any(LEARNED in problem.detail for problem in unknown):
        return (
            "This looks like BERT, which learns its positions: not a RoFormer. To begin one with its weights, which "
            "must then be trained: `roformer-convert convert SOURCE --to … --from bert`."
        )
    if "empty" in kinds or all(_ELSEWHERE.search(problem.detail) for problem in problems):
        return (
            "The values were never loaded, or are another process's: save the model where it has them (with ZeRO or "
            "FSDP by their own call, which gathers them), or start from the checkpoint that it was to be loaded from."
        )
    if any(problem.detail == UNBIASED for problem in problems):
        return "It has no counterpart to be converted to; one with embedding_size = hidden_size has."
    if "function" in kinds:
        return ANOTHERS
    if kinds == {"shape"} and all("(max_position_embeddings, head size)" in problem.detail for problem in problems):
        return "The table is computed from the configuration: correct max_position_embeddings or the number of heads."
    if kinds == {"shape"} and all(_TURNED.match(problem.detail) for problem in problems):
        return f"These lie the other way round: save every kernel as {dialect}'s software does, the square ones too."
    if any(JOINED in problem.detail for problem in unknown):
        return "Save query, key and value as three tensors of their own, as they were before they were joined."
    if any(FROM_SET in problem.detail for problem in problems):
        return "The tensors decide their sizes: leave that out of --set."
    if "configuration" in kinds or any("a layer beyond" in problem.detail for problem in unknown) or "shape" in kinds:
        return "The configuration and the weights are of two models, or the file is damaged: fetch both again."
    if len(missing) > _FEW and len(unknown) > _FEW:
        return f"Few of the names are a {dialect} RoFormer's. If the files have another dialect, name it with --from."
    if any(looks_like(problem.name) == FACTORED for problem in unknown):
        return "Merge these where the model is, and save it again."
    if any(is_inside_encoder(dialect, problem.name) for problem in unknown):
        return (
            "What is inside the encoder takes part in what it computes, and no RoFormer has this. If it is left over "
            "and takes none, --drop PATTERN leaves out what matches; adapters are merged first."
        )
    if unknown and whole:
        return (
            f"These are not a {kind.class_name}'s. If it is of another class, name it with --class. "
            "--encoder-only converts the encoder without heads, --drop PATTERN leaves out what matches."
        )
    if kinds == {"missing"} and whole:
        return "A head is not whole: save the model again, or take the encoder alone with --encoder-only."
    if "tied" in kinds:
        return "These two are one tensor to the model's software, which would use either: save the model again."
    if kinds == {"unread"}:
        return "Save plain arrays or tensors under these names: of numbers, in one piece (tensor.contiguous())."
    if "dtype" in kinds:
        return "Save the weights in one of these types first; integers are not weights."
    if "derived" in kinds and dialect == "tf":
        return (
            "transformers' TF classes train this table with the rest. If that was so, --drop '*embed_positions*' takes "
            "the computed one in its place, which is as far off as it says; otherwise correct max_position_embeddings "
            "or the number of heads."
        )
    if "derived" in kinds:
        return "The table is computed from the configuration: correct max_position_embeddings or the number of heads."
    nothing = "Nothing is guessed: the table in converters/table/mapping.py must account for every tensor."
    return f"{nothing} Save the model again whole, or fetch the file again." if kinds == {"missing"} else nothing
