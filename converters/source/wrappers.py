"""See through what a training program puts around a state dict: prefixes of names, dicts, compiled and sharded modules.

No wrapper is known by its name. Two names that every encoder has, its word embedding and its first layer's query, show
where a state dict begins: what stands before them is a prefix. Which of the other tensors are a training run's (an
optimizer's, a scheduler's) follows from their names; the others may be somebody's own head, and leaving that out is
for a person to say.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from ..errors import ConvertError, Problem, printable, quoted
from ..table.mapping import BASE, CLASSES, PRETRAINING, Dialect, ModelClass, Table, Traits
from ..table.recognition import detect_dialect, has_head, head_names, known_names

#: Parts of a name that a module around a module adds anywhere in it (``base_layer`` is peft's, whose adapters were
#: merged or left out), and the dicts of a pickled torch module.
_TRANSPARENT = re.compile(
    r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module|base_layer|_modules|_parameters|_buffers)\."
)
#: DataParallel around a part of the model, not around all of it: no module of a RoFormer is called so.
_INNER_MODULE = re.compile(r"(?<=\.)module\.")
#: A part of a name that says what is below it: state of a training run, no model.
_TRAINING = re.compile(
    r"(^|[./_])(optim|optimizers?|optimizer_states?|lr_schedulers?|grad_scaler|exp_avg|exp_avg_sq|max_exp_avg_sq|"
    r"momentum|momentum_buffer|moment[12]|beta[12]_pow_acc|master_weights|master_params|"
    r"shadow_params|collected_params)(?=[./_]|$)"  # averages of parameters by their numbers (torch_ema)
)
#: The dict in which any optimizer of PyTorch's keeps what belongs to a parameter, whatever it calls that.
_OF_A_PARAMETER = re.compile(r"(^|\.)state\.\d+\.")
_POSITIONS = re.compile(r"(^|[./])embeddings[./]position_embeddings([./]|$)")
#: What another model's own classes call their encoder: with a head beside it, it may be that one, with its positions.
_ANOTHERS = re.compile(r"(bert|nezha|ernie|electra|albert|roberta|deberta|distilbert)\.")
_FLOATING = re.compile(r"b?float|complex")
#: State dicts that an error lists.
_MOST_LISTED = 20


@dataclass(frozen=True)
class Seen:
    """What is inside.

    Attributes:
        names: Name in the file → name inside, of every tensor that is taken.
        notes: What was seen through.
        problems: Why nothing decides which tensors are meant.
        next_step: What to do about them.
    """

    names: Mapping[str, str]
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    next_step: str | None = None


def see_through(
    stored: Mapping[str, str],
    dialects: Sequence[Dialect],
    nested: Collection[str],
    prefix: str | None,
    where: object,
    *,
    encoder_only: bool = False,
    matrices: Collection[str] = (),
    kind: ModelClass | None = None,
) -> Seen:
    """Find the state dict among a file's tensors.

    Args:
        stored: Name → type of each.
        dialects: Whose names may be inside.
        nested: Prefixes that are dicts and lists of the file.
        prefix: What a person says that the names begin with; its last dot may be missing.
        where: The file, for messages.
        encoder_only: Whether heads beside the encoder are not wanted anyway.
        matrices: Those of the names whose tensors have two axes, of which every head has one.
        kind: The class that a person named.

    Raises:
        ConvertError: No name begins with ``prefix``.
    """
    view = _View(stored, dialects, nested, _without_transparent(stored), matrices)
    found = view.find()
    if prefix is not None:
        return _given(view, found, prefix, where)
    models = [each for each in found if not _TRAINING.search(each)] or list(found)
    if not models:
        return Seen({name: name for name in stored})
    if len(models) == 1:
        return _only(view, models[0], found[models[0]], encoder_only, kind)
    step = f"Say which one is meant with --prefix, for example `--prefix {_spoken(models[0])}`."
    problems = tuple(view.problem(each) for each in models[:_MOST_LISTED])
    return Seen({name: name for name in stored}, (), problems, step)


def holds_model(names: Iterable[str], dialects: Sequence[Dialect]) -> bool:
    """Say whether there is a RoFormer's encoder among tensors, which is not the state of an optimizer of one."""
    names = list(names)
    view = _View(dict.fromkeys(names, ""), dialects, (), _without_transparent(names))
    return any(not _TRAINING.search(prefix) for prefix in view.find())


@dataclass(frozen=True)
class _View:
    """A file's names, and the same without what is transparent in them.

    Attributes:
        stored: Name → type.
        dialects: Whose names may be inside.
        nested: Prefixes that are dicts and lists of the file.
        inner: Name → name without what modules around modules add inside it.
        matrices: Names of tensors that have two axes.
    """

    stored: Mapping[str, str]
    dialects: Sequence[Dialect]
    nested: Collection[str]
    inner: Mapping[str, str]
    matrices: Collection[str] = ()

    def find(self) -> dict[str, str]:
        """Return what stands before each RoFormer's encoder, ``""`` for nothing, and a name by which it was found.

        A BERT is not a RoFormer: it has learned positions.
        """
        anchors = sorted({each for dialect in self.dialects for each in _anchors(dialect)}, key=len, reverse=True)
        berts = {own[: match.end(1)] for own in self.inner.values() if (match := _POSITIONS.search(own))}
        found: dict[str, str] = {}
        for name, own in self.inner.items():
            ends = (own[: -len(each)] for each in anchors if own.endswith(each))
            prefix = next((each for each in ends if each[-1:] in ("", ".", "/")), None)
            if prefix is not None and berts.isdisjoint((prefix, f"{prefix}roformer.")):
                found.setdefault(prefix, name)
        return found

    def known(self, prefix: str) -> frozenset[str]:
        """Return the names behind the prefix that are some RoFormer's."""
        rests = [own[len(prefix) :] for own in self.inner.values() if own.startswith(prefix)]
        return frozenset().union(*(known_names(dialect, rests) for dialect in self.dialects))

    def dict_of(self, name: str) -> str:
        """Return the prefix of the dict or list of the file that holds a tensor; ``""`` for the outermost."""
        end = name.rfind(".")
        while end >= 0 and name[: end + 1] not in self.nested:
            end = name.rfind(".", 0, end)
        return name[: end + 1]

    def problem(self, prefix: str) -> Problem:
        many = sum(own.startswith(prefix) for own in self.inner.values())
        said = f"the names of {many} tensors begin so" if prefix else "names that nothing stands before"
        return Problem("wrapped", f"{prefix}*", f"{said}; a RoFormer's encoder is among them")

    def has_head(self, names: Iterable[str]) -> bool:
        """Say whether there is a head of some class of RoFormers among the names inside a state dict."""
        names = frozenset(names)
        return any(has_head(dialect, names, base=base) for dialect in self.dialects for base in (False, True))

    def head(
        self, prefix: str, taken: Collection[str], beside: Sequence[str], kind: ModelClass | None
    ) -> dict[str, str]:
        """Return what lies beside an encoder under its names in a RoFormer, where all of it is one class's head.

        So it is in a class of somebody's own whose encoder has another name than ``roformer``. A masked-LM head has
        names that are nobody else's; of one with other names, ``classifier.weight``, a person says whose they are.

        Args:
            prefix: What the encoder's names begin with.
            taken: These names behind it, which show the dialect.
            beside: Names of what lies beside.
            kind: The class that a person named, or None.
        """
        outer = prefix[: prefix.rstrip(".").rfind(".") + 1]
        if kind is None and _ANOTHERS.fullmatch(prefix[len(outer) :]):
            return {}
        head = {name: self.inner[name][len(outer) :] for name in beside if self.inner[name].startswith(outer)}
        known = head_names(detect_dialect(self.dialects, taken), kind or PRETRAINING)
        return head if len(head) == len(beside) and known.issuperset(head.values()) else {}

    def classes(self, prefix: str, taken: Collection[str], beside: Sequence[str]) -> list[str]:
        """Return the names of the classes whose head it may be that lies beside an encoder."""
        return [kind.name for kind in CLASSES.values() if self.head(prefix, taken, beside, kind)]

    def split(self, prefix: str, anchor: str) -> tuple[dict[str, str], list[str]]:
        """Return the tensors of one state dict under their names inside, and those beside that may belong to it.

        Of another dict in the file these are all or none: a head has a matrix, the class weights of a loss have not.

        Args:
            prefix: What its names begin with.
            anchor: One of its names, in the file.
        """
        holder = self.dict_of(anchor)
        known = cache(lambda: self.known(prefix))  # not asked in a file that is one state dict
        taken: dict[str, str] = {}
        beside: dict[str, str] = {}
        for name, own in self.inner.items():
            rest, where = own[len(prefix) :], self.dict_of(name)
            if own.startswith(prefix) and ((where == holder and not _TRAINING.search(rest)) or rest in known()):
                taken[name] = rest
            elif _FLOATING.match(self.stored[name]) and not (_TRAINING.search(own) or _OF_A_PARAMETER.search(where)):
                beside[name] = where
        heads = {holder, *(where for name, where in beside.items() if name in self.matrices)}
        return taken, [name for name, where in beside.items() if where in heads]


@cache
def _anchors(dialect: Dialect) -> tuple[str, ...]:
    """Return the names by which an encoder is found, with the outer prefix and without it."""
    tables = [Table(1, BASE, traits).by_canonical for traits in (Traits(), Traits(False, False))]
    rows = [table[each] for table in tables for each in ("embeddings.word.weight", "layers.0.attention.query.weight")]
    spelled = (row.name(dialect, base=base) for row in rows for base in (False, True))
    return tuple(dict.fromkeys(name for name in spelled if name is not None))


def _without_transparent(names: Iterable[str]) -> dict[str, str]:
    """Take out of every name what a wrapped module adds inside it, unless two names would then be one."""
    inner = {name: _INNER_MODULE.sub("", _TRANSPARENT.sub("", name)) for name in names}
    return inner if len(set(inner.values())) == len(inner) else {name: name for name in inner}


def _only(view: _View, prefix: str, anchor: str, encoder_only: bool, kind: ModelClass | None) -> Seen:
    """Take the one state dict, leave out a training run's state, and ask about what may belong to the model.

    An encoder alone has its head beside it, or in another dict of the file, and one that comes with a head of its own
    may have a second one; but vectors beside such a one are no head's: the class weights of a loss, a metric's counts.
    """
    taken, beside = view.split(prefix, anchor)
    if beside and not encoder_only and (head := view.head(prefix, taken.values(), beside, kind)):
        said = f"{_note(prefix, taken)}, with the {'masked-LM ' * (kind is None)}head beside it"
        return Seen({**taken, **head}, (said,))
    whole = view.has_head(taken.values()) and not any(name in view.matrices for name in beside)
    if not beside or encoder_only or whole:
        inside = dict.fromkeys(match[1] for name in taken for match in _TRANSPARENT.finditer(name[len(prefix) :]))
        notes = [f"{', '.join(inside)} inside the names is passed over"] if inside else []
        return Seen(taken, (*((_note(prefix, taken),) if prefix else ()), *notes))
    holder = view.dict_of(anchor)
    where = {name: "beside them in the same state dict" for name in beside if view.dict_of(name) == holder}
    problems = [Problem("beside", name, where.get(name, "in another dict of the file")) for name in beside]
    step = (
        f"To convert without what is beside, say `--prefix {_spoken(prefix)}` or --encoder-only; without a part of it, "
        "--drop PATTERN. What is left out is named in the result."
    )
    if classes := view.classes(prefix, taken.values(), beside):
        step += f" If it is the head of one of RoFormer's classes, name that with --class: {', '.join(classes)}."
    return Seen({name: name for name in view.stored}, (), (view.problem(prefix), *problems), step)


def _given(view: _View, found: Mapping[str, str], prefix: str, where: object) -> Seen:
    """Take what begins with the prefix that a person gave, and leave out everything else.

    Where no name begins so, it may be the end of what one encoder's names begin with: before it stands a dict of the
    file, of which whoever knows the program does not think.

    Raises:
        ConvertError: No name begins so.
    """
    ends = (prefix,) if prefix[-1:] in ("", ".", "/") else (f"{prefix}.", f"{prefix}/")
    longer = [each for each in found for end in ends if end and each.endswith((f".{end}", f"/{end}"))]
    for spelled in (*ends, *longer[: len(longer) == 1]):
        for each in (view, replace(view, inner={name: name for name in view.stored})):
            anchor = found.get(spelled) or next((n for n, own in each.inner.items() if own.startswith(spelled)), None)
            if anchor is not None:
                taken, _ = each.split(spelled, anchor)
                if not spelled:  # beside others that have one
                    others = tuple(other for other in found if other)
                    taken = {name: own for name, own in taken.items() if not own.startswith(others)}
                inside = {name: _TRANSPARENT.sub("", own) for name, own in taken.items()}
                return Seen(inside, (_note(spelled, taken),) if spelled else ())
    these = ", ".join(map(_spoken, list(found)[:_MOST_LISTED]))
    raise ConvertError(
        f"{where}: no tensor's name begins with {quoted(prefix)}, which --prefix says",
        f"Before a RoFormer's names stand here: {these}" if found else "No name in it ends as a RoFormer's do.",
    )


def _note(prefix: str, taken: Mapping[str, str]) -> str:
    return f"the model is what begins with {printable(prefix)} in the file ({len(taken)} tensors)"


def _spoken(prefix: str) -> str:
    """Write a prefix as a shell takes it."""
    return prefix if prefix and re.fullmatch(r"[\w./-]+", prefix, re.ASCII) else quoted(prefix)
