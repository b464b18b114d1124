"""Models of several parts: one folder for each, and an index that names them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from torch import nn

from ..boundary.fields import check_options
from ..boundary.paths import AnyPath, user_path
from ..errors import ConfigError, listed
from ..runtime.compiled import leave_unusable_cache, wanted
from ..runtime.defaults import standard_defaults
from ..runtime.devices import floating, usable_device
from ..storage.index import PipelineIndex, join, read_index, save_index
from ..storage.model_folder import INDEX
from ..storage.schema import from_json
from .later import LazyPart
from .pretrained import Pretrained
from .sources import HubOptions, open_source


if TYPE_CHECKING:
    from typing_extensions import Unpack


__all__ = ["PretrainedPipeline"]

P = TypeVar("P", bound="PretrainedPipeline")


class PretrainedPipeline:
    """Mixin: ``from_pretrained``, ``save_pretrained`` and ``to`` for a model of several parts.

    A subclass names its ``parts``, the first of which is always there, and the classes of its ``domains`` and
    ``settings``. It takes all of them as arguments, together with ``allow_base_mismatch``, and has them as
    attributes. Of the settings, the index keeps what differs from their defaults.
    """

    parts: ClassVar[Mapping[str, type[Pretrained]]]
    domain_class: ClassVar[type[Pretrained]]
    settings: ClassVar[Mapping[str, type[Any]]]
    domains: Mapping[str, Any]

    @classmethod
    @standard_defaults()
    def from_pretrained(
        cls: type[P],
        name_or_path: AnyPath,
        *,
        subfolder: str | None = None,
        variant: str | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        compile: bool | None = None,
        allow_base_mismatch: bool = False,
        **options: Unpack[HubOptions],
    ) -> P:
        """Load a bundled model, a local folder or a Hub repo with a ``model_index.json``; the first part is frozen.

        Args:
            name_or_path: The name, folder or Hub id.
            subfolder, variant: See ``Pretrained.from_pretrained``.
            device: Where the networks go.
            dtype: Type of their numbers, such as torch.float16 for drawing on a GPU; see ``to``.
            compile: Whether to ``compile`` the first part; None does as REFINESTYLE_COMPILE says, which is 1 or 0.
            allow_base_mismatch: Whether to accept directions, encoder and domains made for other weights.
            options: revision, token, cache_dir, local_files_only and force_download, see ``HubOptions``.

        Raises:
            ModelNotFoundError: There is no such model, or a part that its index names is missing.
            ModelFileError, ConfigError: A file is damaged or of a newer format.
            BaseMismatchError: Parts were made for another generator.
        """
        check_options(options, [*HubOptions.__annotations__, "compile", "dtype", "device", "subfolder", "variant"])
        source = open_source(name_or_path, **options)
        compiled = wanted(compile)
        leave_unusable_cache()
        index = read_index(source, subfolder)
        unknown = sorted(set(index.settings) - set(cls.settings))
        if unknown:
            raise ConfigError(f"{source}: {INDEX} has settings that nobody knows here: {listed(unknown)}.")
        chosen = {name: from_json(cls.settings[name], data, INDEX) for name, data in index.settings.items()}
        first, *others = cls.parts
        found: dict[str, Any] = {}
        for name in (first, *(name for name in others if name in index.parts)):
            kind = cls.parts[name]
            half = variant if issubclass(kind, nn.Module) else None
            load = kind.later if isinstance(getattr(cls, name, None), LazyPart) else kind.from_source
            found[name] = load(source, subfolder=join(subfolder, name), variant=half)
        found[first].requires_grad_(False)
        if compiled:
            found[first].compile()
        folders = {name: join(subfolder, f"domains/{name}") for name in index.domains}
        domains = {name: cls.domain_class.from_source(source, subfolder=place) for name, place in folders.items()}
        made = cls(**found, **chosen, domains=domains, allow_base_mismatch=allow_base_mismatch)  # type: ignore[call-arg]
        return made.to(device) if dtype is None else made.to(device, dtype)

    def save_pretrained(self, folder: AnyPath, variant: str | None = None) -> None:
        """Write every part into ``folder``, and last the index that names them.

        Args:
            folder: The folder, which is made when it does not exist.
            variant: Of the networks: None for float32, "fp16" for half precision.

        Raises:
            ConfigError: The model is in bfloat16.
            SaveError: It cannot be written.
        """
        folder = user_path(folder)
        if any(t.dtype == torch.bfloat16 for t in getattr(self, next(iter(self.parts))).state_dict().values()):
            raise ConfigError(
                "In bfloat16 a model has lost digits of its weights, and its domains would no longer fit.\n"
                "Load it without a dtype to save it."
            )
        there = {name: getattr(self, name) for name in self.parts}
        there = {name: part for name, part in there.items() if isinstance(part, nn.Module) or part}
        index = PipelineIndex(tuple(there), tuple(self.domains), self._settings())
        for name, part in there.items():
            part.save_pretrained(folder / name, variant if isinstance(part, nn.Module) else None)
        for name, domain in self.domains.items():
            domain.save_pretrained(folder / "domains" / name)
        save_index(folder, index)

    def _settings(self) -> dict[str, dict[str, Any]]:
        """Of each subject the fields that differ from their defaults; no subject without any."""
        changed = {}
        for name, kind in self.settings.items():
            mine, plain = getattr(self, name), kind()
            values = {f.name: getattr(mine, f.name) for f in fields(kind)}
            changed[name] = {field: value for field, value in values.items() if value != getattr(plain, field)}
        return {name: values for name, values in changed.items() if values}

    def to(
        self: P,
        *where: torch.device | str | torch.dtype,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> P:
        """Move the networks to a device, and the parts of the model to a type of number; returns the pipeline.

        Half precision is for drawing. Inversions and adaptations are computed in float32 all the same. Domains stay
        where they are, beside those from files: they are small, and each drawing takes what it needs to the device.

        Raises:
            ConfigError: The device cannot be used here, or the type is none of fractions.
        """
        changes: list[Any] = [*where, *(one for one in (device, dtype) if one is not None)]
        devices = [usable_device(place) for place in changes if not isinstance(place, torch.dtype)]
        dtypes = [floating(place) for place in changes if isinstance(place, torch.dtype)]
        for name, part in vars(self).items():
            if isinstance(part, nn.Module):
                for place in devices:
                    part.to(place)
                for kind in dtypes if name in self.parts else []:
                    part.to(kind)
        return self
