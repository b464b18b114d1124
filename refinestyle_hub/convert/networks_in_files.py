"""Where the networks are in a file: found by the names of their tensors, under any prefix and in any wrapper.

A state dict may be the whole file or lie under "g_ema", "params_ema", "state_dict" or anything else; its names may
begin with "decoder.", "module." or "_orig_mod."; a pickled module is as good as its state dict.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from ..errors import ModelFileError, listed
from ..pickles.builders import ARRAY, Record
from ..storage.tensors import under


__all__ = ["Contents", "FoundNetworks", "contents_of_file", "describe", "find_networks", "tensor_of"]

MAX_NODES = 200_000  # dictionaries, modules and tensors that are looked at
MAX_DEPTH = 24
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module")  # of parallel training and of torch.compile
INSIDE = ("_parameters", "_buffers", "_modules")  # of a pickled module
Layout = Literal["nvidia", "rosinality"]
# A tensor that only this network has, and what else must be there under the same prefix
GENERATORS: dict[Layout, tuple[str, str]] = {
    "rosinality": ("input.input", "conv1.conv.modulation.weight"),
    "nvidia": ("synthesis.b4.const", "synthesis.b4.conv1.affine.weight"),
}
DISCRIMINATORS: dict[Layout, tuple[str, str]] = {
    "rosinality": ("final_linear.1.weight", "convs.0.0.weight"),
    "nvidia": ("b4.out.weight", "b4.fc.weight"),
}
TOPS = {  # of the generator's names: what lies beside them is of something else
    "rosinality": ("style", "input", "conv1", "convs", "to_rgb1", "to_rgbs", "noises"),
    "nvidia": ("mapping", "synthesis"),
}
AVERAGES = ("latent_avg", "mean_latent", "w_avg", "dlatent_avg")


@dataclass(frozen=True)
class Contents:
    """All tensors of a file by their full names, with dots, and the pickled objects that hold some."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    records: dict[str, Record] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)  # of the file itself, also those of what holds no tensors


@dataclass(frozen=True)
class FoundNetworks:
    """The networks of a file, without their prefixes."""

    layout: Layout
    prefix: str  # of the generator, with the last dot
    generator: dict[str, Tensor]
    discriminator: dict[str, Tensor] | None
    average: Tensor | None  # w, or one w for each code, where it lies beside the generator
    left_out: list[str]  # what else is in the file


def tensor_of(value: Any) -> Tensor | None:
    """The tensor that a value of a file is, also where it is an array; None for any other value."""
    if type(value) is Record and value.name == ARRAY:
        value = value.state.get("values")
    return value if isinstance(value, Tensor) else None


def contents_of_file(content: Any, where: object) -> Contents:
    """Every tensor of what was unpickled, by its place. Raises ModelFileError where there are too many places."""
    keys = [str(key)[:40] for key in content] if type(content) is dict else []
    found, seen = Contents(keys=keys), 0
    waiting: list[tuple[tuple[str, ...], Any]] = [((), content)]
    while waiting:
        parts, value = waiting.pop()
        seen += 1
        if seen > MAX_NODES or len(parts) > MAX_DEPTH:
            raise ModelFileError(f"{where} is nested without end: it is no checkpoint, not a module of a StyleGAN2.")
        name = ".".join(parts)
        tensor = tensor_of(value)
        if tensor is not None:
            found.tensors.setdefault(name, tensor)
            continue
        if type(value) is Record:
            found.records[name] = value
        waiting += reversed([(parts + below, inner) for below, inner in _inside(value)])
    return found


def _inside(value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """What a container holds, by the part that it adds to the name."""
    if type(value) is Record:
        if any(kind in value.state for kind in INSIDE):
            for kind in INSIDE:
                yield from _inside(value.state.get(kind))
            return
        value = value.state
    if type(value) is dict:
        for key, inner in value.items():
            if isinstance(inner, Tensor) or type(inner) in (dict, Record):
                yield tuple(part for part in str(key).split(".") if part not in WRAPPERS), inner


def find_networks(contents: Contents) -> FoundNetworks | None:
    """The generator of a file, its discriminator and its mean latent. None where there is no such generator.

    Of several the averaged one is taken, which training calls "ema".
    """
    places = [(layout, prefix) for layout in GENERATORS for prefix in _prefixes(contents, GENERATORS[layout])]
    if not places:
        return None
    layout, prefix = min(places, key=lambda place: ("ema" not in place[1].lower(), place[1].count(".")))
    generator = under(contents.tensors, prefix)
    if not prefix:
        generator = {name: t for name, t in generator.items() if name.partition(".")[0] in TOPS[layout]}
    critics = _prefixes(contents, DISCRIMINATORS[layout])
    critic = min(critics, key=lambda place: ("ema" in place.lower(), place.count(".")), default=None)
    averages = [name for name in contents.tensors if _is_average(name)]
    average = min(averages, key=lambda name: name.count("."), default=None)
    used = {prefix + name for name in generator}
    used |= {name for name in contents.tensors if critic is not None and name.startswith(critic)}
    return FoundNetworks(
        layout,
        prefix,
        {name: t for name, t in generator.items() if name not in AVERAGES},
        None if critic is None else under(contents.tensors, critic),
        None if average is None else contents.tensors[average],
        _left_out(contents, used | {average or ""}, prefix.partition(".")[0]),
    )


def _left_out(contents: Contents, used: set[str], wrapper: str) -> list[str]:
    """The keys of a file of which nothing is used; in the generator's own wrapper, the keys beside it."""
    beside = [name.split(".") for name in contents.tensors if name not in used]
    labels = [".".join(parts[: 2 if parts[0] == wrapper else 1]) for parts in beside]
    known = {name.partition(".")[0] for name in contents.tensors}
    return list(dict.fromkeys([*labels, *(key for key in contents.keys if key.partition(".")[0] not in known)]))


def describe(content: Any) -> str:
    """What a file holds, in a few words, where no generator was found in it."""
    if isinstance(content, Record):
        return f"an object of {content.name[:60]!r}"
    if isinstance(content, Mapping):
        return listed([str(key)[:40] for key in content]) or "nothing"
    return f"a {type(content).__name__}"


def _prefixes(contents: Contents, names: tuple[str, str]) -> list[str]:
    """Prefixes under which there are tensors of both names."""
    first, second = names
    found = [name.removesuffix(first) for name in contents.tensors if name.endswith(first)]
    return [p for p in found if (not p or p.endswith(".")) and p + second in contents.tensors]


def _is_average(name: str) -> bool:
    """A mean latent that lies beside a network, and not in its mapping network."""
    *above, last = name.split(".")
    return last in AVERAGES and above[-1:] != ["mapping"]
