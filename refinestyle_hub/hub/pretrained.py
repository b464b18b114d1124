"""``from_pretrained`` and ``save_pretrained`` for every part of a model.

A class gets them by deriving from ``Pretrained`` and naming its ``part`` and ``config_class``.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..boundary.fields import check_options, text
from ..boundary.paths import AnyPath, is_address, user_path
from ..errors import ConfigError, ModelFileError, ModelNotFoundError, printable
from ..runtime.defaults import standard_defaults
from ..runtime.devices import floating
from ..storage.atomic import write_folder
from ..storage.index import CONFIG, join, model_folders
from ..storage.model_folder import INDEX, Source
from ..storage.schema import config_from_json, config_to_json, dump_json, read_json
from ..storage.tensors import Header, encode_tensors, read_header, read_tensors
from .later import Later
from .sources import HubOptions, open_source


if TYPE_CHECKING:
    from typing_extensions import Unpack


__all__ = ["Pretrained", "locate_config"]


P = TypeVar("P", bound="Pretrained")


# --- Parts ----------------------------------------------------------------------------------------------------------


def _weights_name(stem: str, variant: str | None) -> str:
    if variant is not None and not (isinstance(variant, str) and re.fullmatch(r"[a-z0-9]{1,16}", variant)):
        raise ConfigError(f"variant must be a short name such as 'fp16', not {printable(repr(variant))}.")
    return f"{stem}.{variant}.safetensors" if variant else f"{stem}.safetensors"


def locate_config(source: Source, part: str, subfolder: str | None) -> tuple[str, Path]:
    """The folder of a part inside its source, and its config.json. Raises ModelNotFoundError if it is not there."""
    folders = [text(subfolder, "subfolder").strip("/")] if subfolder is not None else list(dict.fromkeys(["", part]))
    names = {join(folder, CONFIG): folder for folder in folders}
    found = source.find_first(list(names))
    if found is not None:
        return names[found[0]], found[1]
    error = source.missing(*names)
    if all(map(source.is_absent, names)) and source.find(INDEX) is not None:
        known = ", ".join(model_folders(source)[1:])
        raise ModelNotFoundError(f"{error}\nIt is a pipeline; give one of its folders as subfolder: {known}.")
    raise error


def _locate_weights(source: Source, folder: str, stem: str, variant: str | None) -> Path:
    """The weights file; without ``variant`` the plain one, or fp16 where only that ships."""
    name = join(folder, _weights_name(stem, variant))
    if path := source.find(name):
        return path
    pattern = re.compile(rf"{re.escape(stem)}(?:\.([a-z0-9]+))?\.safetensors")
    matches = [match for match in map(pattern.fullmatch, source.names(folder)) if match]
    if variant is None and [match[1] for match in matches] == ["fp16"]:
        half = source.find(join(folder, matches[0][0]))
        if half is not None:
            if not source.is_absent(name):
                warnings.warn(f"{source}: {name} is not in the cache; using the cached fp16 variant.", stacklevel=4)
            return half
    error = source.missing(name)
    available = ", ".join(repr(match[1]) for match in matches) or "none"
    raise type(error)(f"{error}\nAvailable as variant=: {available}.")


def _holds(weights: Path, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> bool:
    """Whether a weights file holds ``config`` and ``state``, as far as half precision tells."""
    try:
        header = read_header(weights)
        kept = read_tensors(weights, state, header=header)
        same = encode_tensors(kept, config, torch.float16) == encode_tensors(state, config, torch.float16)
    except ModelFileError:  # damaged; tensors of another config; values that are too large for a half-precision file
        return False
    return same and header.config in (None, config)


class _Unfilled(TorchFunctionMode):
    """Modules built inside get their shapes and constants but no random values, and leave the random state alone.

    The meta device would do the same, but its first division imports half of torch's compiler, for seconds.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in (torch.Tensor.normal_, torch.Tensor.uniform_):
            return args[0]
        kwargs = dict(kwargs or {})
        if function in (torch.randn, torch.rand):
            kwargs.pop("generator", None)
            function = torch.empty
        return function(*args, **kwargs)


class Pretrained:
    """Mixin: ``from_pretrained`` and ``save_pretrained`` for a class with a config and named tensors.

    A subclass sets ``part`` and ``config_class`` and has ``config`` and ``state_dict()``. As it stands the mixin
    serves ``nn.Module`` classes built as ``cls(config)``; a value type overrides ``template`` and ``from_state``.
    """

    part: ClassVar[str] = ""  # its folder in a pipeline repo; "": none of its own
    stem: ClassVar[str] = "model"  # its weights are <stem>[.variant].safetensors
    config_class: ClassVar[type]

    @classmethod
    def class_named(cls: type[P], name: object, where: object) -> type[P]:
        """The class that ``config.json`` names: this one, but for a base of several."""
        if name != cls.__name__:
            raise ModelFileError(f"{where} is of class '{printable(name)}', not '{cls.__name__}'.")
        return cls

    @classmethod
    @standard_defaults()
    def template(cls, config: Any) -> Mapping[str, Tensor]:
        """Names, shapes and dtypes of the tensors that belong to ``config``; their values do not count."""
        with _Unfilled():
            module = cls(config)  # type: ignore[call-arg]
        assert isinstance(module, nn.Module)
        return module.state_dict()

    @classmethod
    @standard_defaults()
    def from_state(cls: type[P], config: Any, tensors: Mapping[str, Tensor]) -> P:
        """An instance around ``tensors``, which fit ``template(config)``; modules come in eval mode."""
        with _Unfilled():
            module = cls(config)  # type: ignore[call-arg]
        assert isinstance(module, nn.Module)
        module.load_state_dict(tensors, assign=True)
        return module.eval()

    def save_pretrained(self, folder: AnyPath, variant: str | None = None) -> None:
        """Write ``config.json`` and the weights into ``folder``: all of it or nothing, the same bytes every time.

        Args:
            folder: The folder, which is made when it does not exist. Other files in it are left alone, but for an fp16
                variant of other weights, which goes when float32 is saved.
            variant: None for float32, "fp16" for half precision.

        Raises:
            ModelFileError: ``folder`` is a file; a value is NaN, infinite, or too large for the variant; or half
                precision would lie beside other weights in full precision, which may be the only ones.
        """
        if variant not in (None, "fp16"):
            raise ConfigError(f"variant must be None or 'fp16', not {variant!r}.")
        config = config_to_json(type(self).__name__, self.config)  # type: ignore[attr-defined]
        dtype = torch.float16 if variant else torch.float32
        state: Mapping[str, Tensor] = self.state_dict()  # type: ignore[attr-defined]
        weights = encode_tensors(state, config, dtype)
        folder = user_path(folder)
        other = folder / _weights_name(self.stem, None if variant else "fp16")
        stale = other.is_file() and not _holds(other, state, config)
        if stale and variant:
            raise ModelFileError(
                f"{other} holds other weights in full precision, and would be loaded in place of these.\n"
                "Save to another folder, or remove that file."
            )
        write_folder(folder, {_weights_name(self.stem, variant): weights, CONFIG: dump_json(config)})
        if stale:
            other.unlink(missing_ok=True)

    @classmethod
    def from_pretrained(
        cls: type[P],
        name_or_path: AnyPath,
        *,
        subfolder: str | None = None,
        variant: str | None = None,
        dtype: torch.dtype = torch.float32,
        **options: Unpack[HubOptions],
    ) -> P:
        """Load a bundled model, a local folder, a Hub repo, or one ``.safetensors`` file that carries its config.

        Args:
            subfolder: Its place in the model, such as "domains/sketch"; by default the root, then the part's usual
                folder.
            variant: "fp16" for the half-precision file; by default the plain one, or fp16 where only that ships.
            dtype: The type of the tensors once loaded, whatever the file has.
            options: revision, token, cache_dir, local_files_only and force_download, see ``HubOptions``.

        Raises:
            ModelNotFoundError: There is no such model, part or variant, or it is not in the cache while offline.
            HubAccessError, HubConnectionError: The Hub refuses, or cannot be reached.
            ModelFileError: The file is damaged, or does not hold exactly the tensors of its config, all finite.
            ConfigError: The config is of a newer major format or has a value out of range, or options do not fit.
        """
        check_options(options, [*HubOptions.__annotations__, "dtype", "subfolder", "variant"])
        dtype = floating(dtype)
        path = Path() if is_address(name_or_path) else user_path(name_or_path)
        if path.is_file():
            if subfolder or variant or options.get("revision"):
                raise ConfigError(f"{path} is one file: subfolder=, variant= and revision= are for folders and repos.")
            return cls._read(path, None, dtype)
        source = open_source(name_or_path, **options)
        return cls.from_source(source, subfolder=subfolder, variant=variant, dtype=dtype)

    @classmethod
    def from_source(
        cls: type[P],
        source: Source,
        *,
        subfolder: str | None = None,
        variant: str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> P:
        """``from_pretrained`` from an opened source: several parts of one repo come from the same commit."""
        folder, config_path = locate_config(source, cls.part, subfolder)
        return cls._read(_locate_weights(source, folder, cls.stem, variant), config_path, dtype)

    @classmethod
    def later(cls: type[P], source: Source, *, subfolder: str | None = None, variant: str | None = None) -> Later[P]:
        """``from_source`` for a part that may never be used. Its files are found and its config is read at once."""
        folder, config_path = locate_config(source, cls.part, subfolder)
        weights = _locate_weights(source, folder, cls.stem, variant)
        _, config, _ = cls._described(weights, config_path)
        return Later(config, lambda: cls._read(weights, config_path, torch.float32))

    @classmethod
    @standard_defaults()
    def _read(cls: type[P], weights: Path, config_path: Path | None, dtype: torch.dtype) -> P:
        made, config, header = cls._described(weights, config_path)
        return made.from_state(config, read_tensors(weights, made.template(config), dtype, header))

    @classmethod
    def _described(cls: type[P], weights: Path, config_path: Path | None) -> tuple[type[P], Any, Header]:
        """The class and the config of what a file of weights holds, and its header."""
        header = read_header(weights)
        data = read_json(config_path) if config_path else header.config
        if data is None:
            raise ModelFileError(f"{weights} carries no config of its own; load the folder that has its {CONFIG}.")
        if header.config is not None and header.config != data:
            raise ModelFileError(
                f"{config_path} is not the config that {weights.name} was saved with.\n"
                "Save the model again (a save may have been cut off), or restore the edited file."
            )
        where = config_path or weights
        made = cls.class_named(data.get("class"), where)
        config: Any = config_from_json(made.__name__, made.config_class, data, where)
        return made, config, header
