"""Domains and inverted faces as single .safetensors files: written for a download, read from strangers.

Only this format is read. In this order: suffix, size, header, class, names, shapes and kinds of every tensor, finite
values, the generator it was made for, and that no number is out of all range.
"""

from __future__ import annotations

import html
import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias, TypeVar

import torch

from refinestyle_hub.errors import BaseMismatchError, ConfigError, ModelFileError
from refinestyle_hub.inversion.inversion import Inversion
from refinestyle_hub.pipeline import RefineStylePipeline
from refinestyle_hub.storage.fingerprint import check_base
from refinestyle_hub.storage.schema import config_to_json
from refinestyle_hub.storage.tensors import encode_tensors, read_header
from refinestyle_hub.tokens.token_set import TokenSet

from . import limits, messages
from .files import cache_file
from .session import clean_name


Tokens: TypeAlias = "TokenSet | Inversion"
T = TypeVar("T", TokenSet, Inversion)

KINDS: dict[str, type[TokenSet] | type[Inversion]] = {"TokenSet": TokenSet, "Inversion": Inversion}


def domain_file(domain: TokenSet, name: str) -> str:
    """A domain in the cache, as ``<name>.safetensors``."""
    content = encode_tensors(domain.state_dict(), config_to_json("TokenSet", domain.config), torch.float32)
    return cache_file(content, f"{name}.safetensors")


def inversion_file(inversion: Inversion) -> str:
    """An inversion in the cache, without a pixel of the photo."""
    bare = replace(inversion, crop=None)
    content = encode_tensors(bare.state_dict(), config_to_json("Inversion", bare.config), torch.float32)
    return cache_file(content, "face.safetensors")


def read_tokens(path: str | os.PathLike[str], pipe: RefineStylePipeline) -> Tokens:
    """A domain or an inversion for the pipeline's generator; refused with the reason."""
    file = Path(path)
    if file.suffix.lower() != ".safetensors" or not file.is_file():
        raise messages.refuse(messages.NOT_SAFETENSORS)
    if file.stat().st_size > limits.MAX_TOKEN_BYTES:
        raise messages.refuse(messages.FILE_TOO_LARGE)
    try:
        header = read_header(file)
        if len(header.start) > limits.MAX_HEADER:
            raise ModelFileError(f"{file.name}: its header has {len(header.start) / 1e6:.1f} MB; that is no domain.")
        kind = KINDS.get(str((header.config or {}).get("class")))
        if kind is None:
            raise ModelFileError(f"{file.name} holds neither a face nor a domain of RefineStyle.")
        return check(kind.from_pretrained(file), pipe)
    except (ModelFileError, ConfigError) as error:  # their messages name the file by its path
        raise messages.refuse(html.escape(str(error).replace(str(file), file.name))) from error


def read(kind: type[T], path: str | os.PathLike[str], pipe: RefineStylePipeline) -> T:
    """``read_tokens`` where only a face, or only a domain, will do."""
    found = read_tokens(path, pipe)
    if not isinstance(found, kind):
        raise messages.refuse(messages.NOT_A_FACE if kind is Inversion else messages.NOT_A_DOMAIN)
    return found


def name_of(domain: TokenSet, path: str | os.PathLike[str]) -> str:
    """What a domain calls itself, or its file is called."""
    return clean_name(domain.metadata.get("name"), clean_name(Path(path).stem))


def check(tokens: Tokens, pipe: RefineStylePipeline) -> Tokens:
    """That it fits the pipeline's generator and draws something; refused with the reason.

    Tensors are held against the generator's own layers: what a file says of its base proves nothing.
    """
    config = pipe.generator.config
    layers = {spec.name: spec for spec in config.layers}
    found: TokenSet | None
    if isinstance(tokens, Inversion):
        what, found, fits = "The face", tokens.tokens, tokens.w_plus.shape == (config.num_ws, config.w_dim)
    else:
        what, found, fits = "The domain", tokens, True
    for name, layer in (found.layers if found else {}).items():
        spec = layers.get(name)
        taps = layer.q if layer.spatial == "full" else layer.a
        fits = fits and spec is not None and (layer.inputs, layer.outputs) == (spec.inputs, spec.outputs)
        fits = fits and (taps is None or spec is not None and taps.shape[-2:] == (spec.kernel, spec.kernel))
        if layer.rank > limits.MAX_RANK:
            raise messages.refuse(f"{what} has {layer.rank} tokens for a layer; at most {limits.MAX_RANK} are drawn.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a relative of the generator will do
            for base in filter(None, [tokens.base, found.base if found else None]):
                check_base(base, pipe.fingerprint)
    except BaseMismatchError as error:
        raise messages.refuse(messages.OTHER_GENERATOR, what=what, base=tokens.base, this=pipe.fingerprint) from error
    if not fits:
        raise messages.refuse(messages.OTHER_GENERATOR, what=what, base="its layers differ", this=pipe.fingerprint)
    numbers = [t for name, t in tokens.state_dict().items() if t.is_floating_point() and name != "quad"]  # of a photo
    if any(bool((t.abs() > limits.MAX_VALUE).any()) for t in numbers):
        raise messages.refuse(messages.OUT_OF_RANGE)
    return tokens
