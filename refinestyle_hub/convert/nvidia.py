"""Pickles of NVIDIA's stylegan2-ada-pytorch, and those of StyleGAN2 from the stylegan3 repository.

They hold whole modules (``G``, ``D``, ``G_ema``), each with the source code of its class. The code is left aside
unread: what a module computes follows from its class name, its attributes and its tensors, and anything but the
published StyleGAN2 is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from ..boundary.contents import fetch_again
from ..boundary.paths import AnyPath, user_path
from ..config import DiscriminatorConfig, StyleGAN2Config
from ..errors import ModelFileError, ModelNotFoundError, UnsupportedModelError, printable
from ..generators.discriminator import Discriminator
from ..generators.stylegan2 import StyleGAN2Generator
from ..pickles.builders import Record
from ..storage.schema import config_from_json
from ..storage.tensors import read_header
from .networks import Networks, assemble, estimate_mean_latent, mean_of_codes, without_filters
from .networks_in_files import FoundNetworks


__all__ = ["FILTER", "read_nvidia", "read_nvidia_state", "read_nvidia_tensors", "read_safetensors", "read_state_dict"]

FILTER = "resample_filter"
LAYOUT = "NVIDIA's stylegan2-ada-pytorch"
MAX_MODULES = 2000  # a 1024 px generator has 63
MAX_DEPTH = 8
WHOLE_BATCH = 1 << 14  # samples in a group of the minibatch statistic, where it is taken over all of them


class Module(NamedTuple):
    """A network without its code."""

    tensors: dict[str, Tensor]
    attributes: dict[str, dict[str, Any]]  # by the module's name; "" is the network itself

    def values(self, attribute: str, *leaves: str) -> set[Any]:
        """The different values of an attribute in all modules with one of these last names."""
        return {
            _plain(state[attribute])
            for name, state in self.attributes.items()
            if attribute in state and name.rpartition(".")[2] in leaves
        }


def _plain(value: Any) -> Any:
    return value if value is None or type(value) in (bool, int, float, str) else f"a {type(value).__name__}"


def _children(record: Record, kind: str, where: object) -> dict[str, Any]:
    found = record.state.get(kind)
    if type(found) is not dict or not all(type(name) is str for name in found):
        raise ModelFileError(f"{where}: {record.name[:60]} is not a PyTorch module.")
    return {name: value for name, value in found.items() if value is not None}


def _flatten(network: Record, where: object) -> Module:
    """All tensors and attributes by name. Bounded: a file may name one module in many places, or within itself."""
    module = Module({}, {})
    waiting = [("", network)]
    while waiting:
        name, record = waiting.pop()
        if type(record) is not Record or len(module.attributes) >= MAX_MODULES or name.count(".") > MAX_DEPTH:
            raise ModelFileError(f"{where}: {name[:60] or 'the network'} is not a module of a StyleGAN2.")
        module.attributes[name] = record.state
        prefix = f"{name}." if name else ""
        for kind in ("_parameters", "_buffers"):
            for leaf, tensor in _children(record, kind, where).items():
                if not isinstance(tensor, Tensor):
                    raise ModelFileError(f"{where}: {prefix[:60]}{leaf[:60]} is not a tensor.")
                module.tensors[prefix + leaf] = tensor
        waiting += [(prefix + leaf, child) for leaf, child in _children(record, "_modules", where).items()]
    return module


# --- What is supported ----------------------------------------------------------------------------------------------


def _unsupported(where: object, what: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{where} holds {what}.\nOnly unconditional RGB networks of StyleGAN2 can be converted."
    )


def _check_network(network: Any, kind: str, where: object) -> Module:
    """Flatten a network and refuse what its class, its classes or its layers say is not plain StyleGAN2."""
    if type(network) is not Record:
        raise ModelFileError(f"{where} holds no {kind} where one should be.")
    module = _flatten(network, where)
    if "synthesis.input" in module.attributes:
        raise _unsupported(where, "a StyleGAN3")
    if network.name != kind:
        raise _unsupported(where, f"a network of class {network.name[:60]!r}")
    if _plain(network.state.get("c_dim", 0)) != 0 or "mapping.embed" in module.attributes:
        raise _unsupported(where, f"a class-conditional {kind.lower()}")
    for name, state in module.attributes.items():
        leaf = name.rpartition(".")[2]
        expected = "linear" if leaf in ("affine", "out", "skip", "torgb") else "lrelu"
        if _plain(state.get("activation", expected)) != expected:
            raise _unsupported(where, f"a layer {name[:60]} with the activation {_plain(state['activation'])!r}")
    return module


def _only(values: set[Any], default: Any, what: str, where: object) -> Any:
    if len(values) > 1:
        raise _unsupported(where, f"layers that differ in {what}")
    return next(iter(values), default)


def _clamp(module: Module, where: object) -> float | None:
    clamp = _only(module.values("conv_clamp", "conv0", "conv1", "conv", "torgb", "fromrgb"), None, "conv_clamp", where)
    if clamp is not None and not (type(clamp) in (int, float) and 0 < clamp < 1e6):
        raise ModelFileError(f"{where}: conv_clamp is {clamp!r}.")
    return None if clamp is None else float(clamp)


def _half_blocks(module: Module) -> int:
    """How many of the highest resolutions ran in fp16."""
    return sum(state.get("use_fp16") is True for state in module.attributes.values())


def _shape(module: Module, name: str, dimensions: int, where: object) -> torch.Size:
    tensor = module.tensors.get(name)
    if tensor is None or tensor.ndim != dimensions:
        raise ModelFileError(f"{where} is not a StyleGAN2 of NVIDIA's: no {name} of {dimensions} dimensions.")
    return tensor.shape


def _check_sizes(module: Module, where: object, **sizes: int) -> None:
    """Sizes read off the tensors must be those that the network states."""
    for name, size in sizes.items():
        stated = _plain(module.attributes.get("", {}).get(name, size))
        if stated != size:
            raise ModelFileError(f"{where} states {name} {stated!r}, but its tensors are for {size}.")


# --- The two networks -----------------------------------------------------------------------------------------------


def _generator_config(module: Module, crop: str, where: object) -> StyleGAN2Config:
    if _only(module.values("architecture", *_blocks(module)), "skip", "architecture", where) != "skip":
        raise _unsupported(where, "a generator without skip connections")
    channels, resolution = {}, 4
    while f"synthesis.b{resolution}.conv1.weight" in module.tensors:
        channels[resolution] = _shape(module, f"synthesis.b{resolution}.conv1.weight", 4, where)[0]
        resolution *= 2
    depth = 0
    while f"mapping.fc{depth}.weight" in module.tensors:
        depth += 1
    if not module.values("bias_gain", *(f"fc{i}" for i in range(depth))) <= {0.01}:
        raise _unsupported(where, "a mapping network of another learning rate multiplier than 0.01")
    z_dim = _shape(module, "mapping.fc0.weight", 2, where)[1]
    w_dim = _shape(module, "synthesis.b4.conv1.affine.weight", 2, where)[1]
    colours = _shape(module, "synthesis.b4.torgb.weight", 4, where)[0]
    if colours != 3:
        raise _unsupported(where, f"a generator of pictures with {colours} channels")
    _check_sizes(module, where, z_dim=z_dim, w_dim=w_dim, img_resolution=resolution // 2, img_channels=3)
    return StyleGAN2Config(
        resolution=resolution // 2,
        z_dim=z_dim,
        w_dim=w_dim,
        mapping_layers=depth,
        channels=channels,
        conv_clamp=_clamp(module, where),
        num_fp16_res=_half_blocks(module),
        crop=crop,
    )


def _blocks(module: Module) -> list[str]:
    names = (name.rpartition(".")[2] for name in module.attributes)
    return [name for name in names if name[:1] == "b" and name[1:].isdigit()]


def _generator(module: Module, config: StyleGAN2Config, where: object) -> tuple[StyleGAN2Generator, list[str]]:
    found, notes = without_filters(module.tensors, FILTER, 1.0, where), []
    template = StyleGAN2Generator.template(config)
    silent = [n for n in template if n.rpartition(".")[2] in ("noise_const", "noise_strength") and n not in found]
    if silent and module.values("use_noise", "conv0", "conv1") == {False}:
        found.update({name: torch.zeros(template[name].shape) for name in silent})
        notes.append("The network was trained without noise; its strength is 0 everywhere.")
    estimated = "mapping.w_avg" not in found
    if estimated:
        found["mapping.w_avg"] = torch.zeros(config.w_dim)
    generator = assemble(StyleGAN2Generator, config, found, where)
    if estimated:
        generator.mean_latent.copy_(estimate_mean_latent(generator))
        notes.append("The file has no mean latent; it was estimated from 100,000 seeded samples.")
    return generator, notes


def _discriminator(module: Module, where: object) -> Discriminator:
    if _only(module.values("architecture", *_blocks(module)), "resnet", "architecture", where) != "resnet":
        raise UnsupportedModelError(
            f"{where} holds a discriminator without residual blocks. Leave it out: discriminator=False."
        )
    channels, resolution = {}, 8
    while f"b{resolution}.conv0.weight" in module.tensors:
        channels[resolution] = _shape(module, f"b{resolution}.conv0.weight", 4, where)[0]
        resolution *= 2
    outputs, inputs, _, _ = _shape(module, "b4.conv.weight", 4, where)
    channels[4] = outputs
    group = module.attributes.get("b4.mbstd", {}).get("group_size", 4)
    group = WHOLE_BATCH if group is None else group
    statistics = inputs - outputs
    grouped = type(group) is int and 0 < group <= WHOLE_BATCH
    if not grouped or statistics < 0 or (statistics and outputs % statistics):
        raise ModelFileError(f"{where}: a minibatch statistic of {statistics} channels, groups of {_plain(group)!r}.")
    _check_sizes(module, where, img_resolution=resolution // 2, img_channels=3)
    config = DiscriminatorConfig(
        resolution=resolution // 2,
        channels=channels,
        mbstd_group=group,
        mbstd_channels=statistics,
        conv_clamp=_clamp(module, where),
        num_fp16_res=_half_blocks(module),
    )
    return assemble(Discriminator, config, without_filters(module.tensors, FILTER, 1.0, where), where)


def read_nvidia(
    content: Mapping[str, Any] | Record, where: object, *, crop: str, discriminator: bool = True
) -> Networks:
    """The averaged generator and the discriminator of a training pickle, or a generator that was pickled alone.

    Raises:
        ModelFileError: The file is damaged, or of another kind.
        UnsupportedModelError: It is a StyleGAN3, class-conditional, not RGB, or of another architecture.
    """
    networks = {"G_ema": content} if isinstance(content, Record) else content
    module = _check_network(networks.get("G_ema"), "Generator", where)
    generator, notes = _generator(module, _generator_config(module, crop, where), where)
    other = None
    if discriminator and networks.get("D") is not None:
        other = _discriminator(_check_network(networks["D"], "Discriminator", where), where)
    return Networks(LAYOUT, generator, other, tuple(notes))


def read_nvidia_tensors(found: FoundNetworks, where: object, *, crop: str, discriminator: bool = True) -> Networks:
    """The networks of bare tensors under NVIDIA's names: activations are not clamped, as nothing tells."""
    tensors = dict(found.generator)
    if found.average is not None and "mapping.w_avg" not in tensors:
        w_dim = len(tensors.get("mapping.fc0.weight", found.average))
        tensors["mapping.w_avg"] = mean_of_codes(found.average, w_dim, where)
    module = Module(tensors, {})
    generator, notes = _generator(module, _generator_config(module, crop, where), where)
    other = None
    if discriminator and found.discriminator is not None:
        other = _discriminator(Module(found.discriminator, {}), where)
    return Networks(LAYOUT, generator, other, tuple(notes))


def read_nvidia_state(path: AnyPath, *, crop: str = "ffhq") -> StyleGAN2Generator | Discriminator:
    """The network whose tensors a ``.safetensors`` file holds under NVIDIA's names: inverse of ``export_nvidia``.

    Its config is the file's own. Without one it is a generator: sizes are read off the tensors, activations are not
    clamped, and ``crop`` says how the training pictures were framed.

    Raises:
        ModelNotFoundError: There is no such file.
        ModelFileError: The file is damaged, or has other tensors than a network of NVIDIA's.
        UnsupportedModelError: The filter differs, or the pictures are not RGB.
    """
    return _read_state(user_path(path), crop)[0]


def read_state_dict(path: Path, *, crop: str) -> Networks:
    """A generator's tensors under NVIDIA's names in a ``.safetensors`` file, see ``read_nvidia_state``."""
    network, notes = _read_state(path, crop)
    if isinstance(network, Discriminator):
        raise UnsupportedModelError(
            f"{path} holds a discriminator alone, and a model needs a generator.\n"
            "refinestyle_hub.convert.read_nvidia_state reads it."
        )
    return Networks(LAYOUT, network, None, tuple(notes))


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a ``.safetensors`` file as they are. Raises ModelFileError."""
    read_header(path)
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(path.read_bytes())
    except (safetensors.SafetensorError, ValueError, AssertionError, KeyError) as error:
        raise ModelFileError(f"{path} is damaged: {printable(error)}.\n{fetch_again(path)}", path=path) from None
    return tensors


def _read_state(path: Path, crop: str) -> tuple[StyleGAN2Generator | Discriminator, list[str]]:
    if not path.is_file():
        raise ModelNotFoundError(f"There is no file {path}.")
    header, tensors = read_header(path), read_safetensors(path)
    if header.config is None:
        return _generator(Module(tensors, {}), _generator_config(Module(tensors, {}), crop, path), path)
    if header.config.get("class") == "Discriminator":
        config = config_from_json("Discriminator", DiscriminatorConfig, header.config, path)
        return assemble(Discriminator, config, without_filters(tensors, FILTER, 1.0, path), path), []
    return _generator(
        Module(tensors, {}), config_from_json("StyleGAN2Generator", StyleGAN2Config, header.config, path), path
    )
