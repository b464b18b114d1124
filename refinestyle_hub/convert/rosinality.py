"""Checkpoints of rosinality's stylegan2-pytorch: ``{"g_ema": ..., "d": ..., "latent_avg": ...}``.

The same networks as NVIDIA's under other names: kernels and biases are stored alike (both turn TensorFlow's
up-sampling kernels round), some tensors have further dimensions of 1, and filters are stored with their gain.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..config import DiscriminatorConfig, StyleGAN2Config
from ..errors import ModelFileError, UnsupportedModelError
from ..generators.discriminator import Discriminator
from ..generators.stylegan2 import StyleGAN2Generator
from .networks import Networks, assemble, estimate_mean_latent, mean_of_codes, named_tensors, without_filters
from .networks_in_files import tensor_of


__all__ = ["discriminator_names", "generator_names", "layer_name", "read_rosinality"]

LATENT_AVG = "latent_avg"  # beside the state of the generator


# --- Names ----------------------------------------------------------------------------------------------------------


def layer_name(name: str) -> str:
    """Our layer -> theirs: "b4.conv1" -> "conv1", "b8.conv0" -> "convs.0", "b8.torgb" -> "to_rgbs.0"."""
    block, kind = name.split(".")
    k = int(block[1:]).bit_length() - 4  # 4 px: -1
    if k < 0:
        return {"conv1": "conv1", "torgb": "to_rgb1"}[kind]
    return {"conv0": f"convs.{2 * k}", "conv1": f"convs.{2 * k + 1}", "torgb": f"to_rgbs.{k}"}[kind]


def generator_names(config: StyleGAN2Config) -> dict[str, str]:
    """Our name of every tensor of the generator -> theirs."""
    names = {"mapping.w_avg": LATENT_AVG, "synthesis.b4.const": "input.input"}
    for i in range(config.mapping_layers):
        names |= {f"mapping.fc{i}.{leaf}": f"style.{i + 1}.{leaf}" for leaf in ("weight", "bias")}
    for spec in config.layers:
        ours, theirs = f"synthesis.{spec.name}", layer_name(spec.name)
        names[f"{ours}.weight"] = f"{theirs}.conv.weight"
        names[f"{ours}.affine.weight"] = f"{theirs}.conv.modulation.weight"
        names[f"{ours}.affine.bias"] = f"{theirs}.conv.modulation.bias"
        if spec.role == "rgb":
            names[f"{ours}.bias"] = f"{theirs}.bias"
        else:
            names[f"{ours}.bias"] = f"{theirs}.activate.bias"
            names[f"{ours}.noise_strength"] = f"{theirs}.noise.weight"
            names[f"{ours}.noise_const"] = f"noises.noise_{spec.code}"
    return names


def discriminator_names(config: DiscriminatorConfig) -> dict[str, str]:
    """Our name of every tensor of the discriminator -> theirs."""
    names = {
        f"b{config.resolution}.fromrgb.weight": "convs.0.0.weight",
        f"b{config.resolution}.fromrgb.bias": "convs.0.1.bias",
        "b4.conv.weight": "final_conv.0.weight",
        "b4.conv.bias": "final_conv.1.bias",
    }
    for ours, theirs in (("fc", "final_linear.0"), ("out", "final_linear.1")):
        names |= {f"b4.{ours}.{leaf}": f"{theirs}.{leaf}" for leaf in ("weight", "bias")}
    for i, resolution in enumerate(sorted(config.channels, reverse=True)[:-1], start=1):
        names |= {
            f"b{resolution}.conv0.weight": f"convs.{i}.conv1.0.weight",
            f"b{resolution}.conv0.bias": f"convs.{i}.conv1.1.bias",
            f"b{resolution}.conv1.weight": f"convs.{i}.conv2.1.weight",
            f"b{resolution}.conv1.bias": f"convs.{i}.conv2.2.bias",
            f"b{resolution}.skip.weight": f"convs.{i}.skip.1.weight",
        }
    return names


# --- Reading --------------------------------------------------------------------------------------------------------


def _shape(found: Mapping[str, Tensor], name: str, dimensions: int, where: object) -> torch.Size:
    if name not in found or found[name].ndim != dimensions:
        raise ModelFileError(f"{where} is not a StyleGAN2 of rosinality's: no {name} of {dimensions} dimensions.")
    return found[name].shape


def _generator_config(found: Mapping[str, Tensor], crop: str, where: object) -> StyleGAN2Config:
    channels = {4: _shape(found, "conv1.conv.weight", 5, where)[1]}
    numbers = [int(match[1]) for match in map(re.compile(r"convs\.(\d{1,3})\.").match, found) if match]
    for k in range((max(numbers, default=-1) + 1) // 2):
        channels[8 << k] = _shape(found, f"convs.{2 * k + 1}.conv.weight", 5, where)[1]
    colours = _shape(found, "to_rgb1.conv.weight", 5, where)[1]
    if colours != 3:
        raise UnsupportedModelError(f"{where} draws pictures of {colours} channels; only RGB is supported.")
    w_dim, z_dim = _shape(found, "style.1.weight", 2, where)
    depth = sum(name.startswith("style.") and name.endswith(".weight") for name in found)
    return StyleGAN2Config(
        resolution=max(channels), z_dim=z_dim, w_dim=w_dim, mapping_layers=depth, channels=channels, crop=crop
    )


def _discriminator_config(found: Mapping[str, Tensor], where: object) -> DiscriminatorConfig:
    widths = [_shape(found, "convs.0.0.weight", 4, where)[0]]
    while (name := f"convs.{len(widths)}.conv2.1.weight") in found:
        widths.append(_shape(found, name, 4, where)[0])
    channels = {4 << i: width for i, width in enumerate(reversed(widths))}
    return DiscriminatorConfig(resolution=max(channels), channels=channels)


def read_rosinality(content: Mapping[str, Any], where: object, *, crop: str, discriminator: bool = True) -> Networks:
    """The networks of a checkpoint; the averaged generator, or where there is none ("g" only) that one.

    Raises:
        ModelFileError: It is not such a checkpoint, or tensors are missing, unexpected, misshapen or not finite.
        UnsupportedModelError: The pictures are not RGB, or the filter differs.
    """
    found = named_tensors(content.get("g_ema", content.get("g")), where)
    found = without_filters(found, "kernel", 4.0, where)
    config = _generator_config(found, crop, where)
    names, notes = generator_names(config), []
    template = StyleGAN2Generator.template(config)

    rng = torch.Generator().manual_seed(0)
    absent = [ours for ours, theirs in names.items() if theirs.startswith("noises.") and theirs not in found]
    for ours in absent:
        found[names[ours]] = torch.randn(template[ours].shape, generator=rng)
    if absent:
        notes.append("The file has no constant noise; it was drawn from a seeded normal distribution.")
    estimated = content.get(LATENT_AVG) is None
    average = torch.zeros(config.w_dim) if estimated else tensor_of(content[LATENT_AVG])
    if average is None:
        raise ModelFileError(f"{where}: {LATENT_AVG} is not a tensor.")
    found[LATENT_AVG] = mean_of_codes(average, config.w_dim, where)
    generator = assemble(StyleGAN2Generator, config, found, where, names)
    if estimated:
        generator.mean_latent.copy_(estimate_mean_latent(generator))
        notes.append("The file has no mean latent; it was estimated from 100,000 seeded samples.")

    other = None
    if discriminator and content.get("d") is not None:
        state = without_filters(named_tensors(content["d"], where), "kernel", 1.0, where)
        d_config = _discriminator_config(state, where)
        other = assemble(Discriminator, d_config, state, where, discriminator_names(d_config))
    return Networks("rosinality's stylegan2-pytorch", generator, other, tuple(notes))
