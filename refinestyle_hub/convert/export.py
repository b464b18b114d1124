"""Our networks -> files of the other code bases, so that an adapted domain can leave for other tools.

A domain leaves inside a generator: ``export_rosinality(generator.merge({sketch: 0.8}), "sketch.pt")``. What is
exported here and converted back is the same to the last bit.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from ..boundary.paths import AnyPath, user_path
from ..errors import ConfigError, UnsupportedModelError
from ..generators.base import Generator
from ..generators.discriminator import Discriminator
from ..generators.stylegan2 import StyleGAN2Generator
from ..hub.search import is_own
from ..hub.sources import open_source
from ..storage.atomic import write_file
from ..storage.fingerprint import check_base
from ..storage.index import read_index
from ..storage.model_folder import INDEX, Source
from ..storage.schema import config_to_json
from ..storage.tensors import encode_tensors
from ..tokens.token_set import TokenSet
from .networks import fir
from .nvidia import FILTER
from .rosinality import discriminator_names, generator_names, layer_name


__all__ = ["export", "export_nvidia", "export_rosinality", "nvidia_state_dict", "rosinality_checkpoint"]

ENDINGS: dict[str, Literal["rosinality", "nvidia"]] = {".pt": "rosinality", ".safetensors": "nvidia"}


def nvidia_state_dict(network: StyleGAN2Generator | Discriminator) -> dict[str, Tensor]:
    """The tensors that ``load_state_dict`` of NVIDIA's network of the same sizes takes, with its filters."""
    state = {name: tensor.detach() for name, tensor in network.state_dict().items()}
    if isinstance(network, StyleGAN2Generator):
        owners = [f"synthesis.b{resolution}" for resolution in network.config.channels]
        owners += [f"synthesis.{spec.name}" for spec in network.config.layers if spec.role == "conv"]
    else:
        owners = [f"b{resolution}" for resolution in network.resolutions]
        owners += [name.removesuffix(".weight") for name, tensor in state.items() if tensor.ndim == 4]
    return state | {f"{owner}.{FILTER}": fir(1.0) for owner in owners}


def export_nvidia(network: StyleGAN2Generator | Discriminator, path: AnyPath) -> None:
    """Write ``nvidia_state_dict`` as a ``.safetensors`` file, which also carries our config.

    To use it: ``G.load_state_dict(safetensors.torch.load_file(path))``, with G built for the same sizes. It comes back
    by ``read_nvidia_state``, or as a model by ``convert``.
    """
    config = config_to_json(type(network).__name__, network.config)
    write_file(path, encode_tensors(nvidia_state_dict(network), config, torch.float32))


def rosinality_checkpoint(
    generator: StyleGAN2Generator, discriminator: Discriminator | None = None
) -> dict[str, object]:
    """The checkpoint of rosinality's stylegan2-pytorch: ``g_ema``, ``latent_avg`` and, if given, ``d``.

    Warns where that code draws other pictures: it does not clamp activations.

    Raises:
        UnsupportedModelError: z and w have different sizes, or the minibatch statistic differs; that code has neither.
    """
    config = generator.config
    if config.z_dim != config.w_dim:
        raise UnsupportedModelError(
            f"rosinality's mapping has z and w of one size, this generator {config.z_dim} and {config.w_dim}.\n"
            "Export it under NVIDIA's names instead."
        )
    if config.conv_clamp is not None:
        warnings.warn(
            f"rosinality's code does not clamp activations at {config.conv_clamp:g}, as this generator does; pictures "
            "differ where one is larger.",
            stacklevel=2,
        )
    names = generator_names(config)
    state = _renamed(generator, names)
    latent_avg = state.pop(names["mapping.w_avg"])
    for name, tensor in state.items():  # dimensions of 1 that only theirs have
        if name == "input.input" or name.endswith(".conv.weight"):
            state[name] = tensor[None]
        elif name.endswith("noise.weight"):
            state[name] = tensor.reshape(1)
        elif name.startswith("noises."):
            state[name] = tensor[None, None]
        elif name.startswith("to_rgb") and name.endswith(".bias") and tensor.shape == (3,):
            state[name] = tensor.reshape(1, 3, 1, 1)
    for spec in config.layers:
        if spec.up:
            state[f"{layer_name(spec.name)}.conv.blur.kernel"] = fir(4.0)
        if spec.role == "rgb" and spec.resolution > 4:
            state[f"{layer_name(spec.name)}.upsample.kernel"] = fir(4.0)
    checkpoint: dict[str, object] = {"g_ema": state, "latent_avg": latent_avg}
    if discriminator is not None:
        checkpoint["d"] = _discriminator_state(discriminator)
    return checkpoint


def _discriminator_state(discriminator: Discriminator) -> dict[str, Tensor]:
    config = discriminator.config
    if config.mbstd_channels != 1 or config.mbstd_group != 4:
        raise UnsupportedModelError(
            "rosinality's discriminator has one minibatch statistic over groups of 4, this one "
            f"{config.mbstd_channels} over groups of {config.mbstd_group}. Leave it out."
        )
    state = _renamed(discriminator, discriminator_names(config))
    for i in range(1, len(config.channels)):
        state |= {f"convs.{i}.conv2.0.kernel": fir(1.0), f"convs.{i}.skip.0.kernel": fir(1.0)}
    return state


def export_rosinality(
    generator: StyleGAN2Generator, path: AnyPath, discriminator: Discriminator | None = None
) -> None:
    """Write ``rosinality_checkpoint`` as a ``.pt`` file; warns and raises as that does."""
    buffer = io.BytesIO()
    torch.save(rosinality_checkpoint(generator, discriminator), buffer)
    write_file(path, buffer.getvalue())


def export(
    model: AnyPath,
    out: AnyPath,
    *,
    layout: Literal["rosinality", "nvidia"] | None = None,
    domains: Mapping[str, float] | None = None,
    discriminator: bool = False,
) -> Literal["rosinality", "nvidia"]:
    """Write the generator of a saved model, plain or with domains in its weights, as one file of another code base.

    Args:
        model: The bundled name, folder or Hub id of the model.
        out: The file to write: ``.pt`` for rosinality, ``.safetensors`` for NVIDIA's names.
        layout: The layout, if it is to be checked; by default the ending of ``out`` decides.
        domains: Strength by domain: a name of the model's own, or the folder or Hub id of another.
        discriminator: Whether the model's discriminator goes into the file too; only rosinality's layout can hold it.

    Returns:
        The layout.

    Raises:
        ModelNotFoundError: There is no such model or domain.
        BaseMismatchError: A domain was made for another generator.
        MergeError: A domain enters after the modulation, so that no generator holds it.
        UnsupportedModelError: The other code base does not have such a network.
        ConfigError: The ending of ``out`` belongs to no layout or to the other one, or the layout holds no
            discriminator.
    """
    chosen = ENDINGS.get(user_path(out).suffix.lower())
    if chosen is None or layout not in (None, chosen):
        raise ConfigError(f"{out}: name a .pt for rosinality's layout, or a .safetensors for NVIDIA's names.")
    if discriminator and chosen != "rosinality":
        raise ConfigError("A file with NVIDIA's names holds one network, the generator; rosinality's .pt holds both.")
    source = open_source(model)
    generator = Generator.from_source(source)
    if not isinstance(generator, StyleGAN2Generator):
        raise UnsupportedModelError(
            f"Only a StyleGAN2 generator can be exported; this one is {generator.config.network}."
        )
    if domains:
        generator = generator.merge([(_domain(source, name, generator), float(s)) for name, s in domains.items()])
    if chosen == "nvidia":
        export_nvidia(generator, out)
    else:
        export_rosinality(generator, out, Discriminator.from_source(source) if discriminator else None)
    return chosen


def _domain(source: Source, name: str, generator: StyleGAN2Generator) -> TokenSet:
    own = is_own(name, read_index(source).domains if source.find(INDEX) else ())
    tokens = TokenSet.from_source(source, subfolder=f"domains/{name}") if own else TokenSet.from_pretrained(name)
    if tokens.base is not None:
        check_base(tokens.base, generator.fingerprint(), what=f"The domain {name!r}")
    return tokens


def _renamed(network: StyleGAN2Generator | Discriminator, names: dict[str, str]) -> dict[str, Tensor]:
    # copies: a file of views would hold whole storages
    return {names[ours]: tensor.detach().cpu().float().clone() for ours, tensor in network.state_dict().items()}
