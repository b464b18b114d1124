"""Editing directions in w and w+: what they are, and how they are applied.

A direction is a fixed offset to the codes; an edit adds strength times the offset.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import torch
from torch import Tensor

from ..boundary.fields import check_fields
from ..boundary.numbers import real, whole
from ..config import Fingerprint
from ..errors import ConfigError, DirectionError, ShapeError, counted, listed, no_such, printable
from ..generators.codes import fit_codes
from ..hub.pretrained import Pretrained
from ..hub.push import Pushable


__all__ = ["Direction", "DirectionInfo", "Directions", "DirectionsConfig", "Edits", "apply"]

Edits: TypeAlias = Mapping[str, float | Tensor]  # strength by direction
LONGEST_NAME = 40  # letters of a group, or of an end


@dataclass(frozen=True)
class DirectionInfo:
    """What is known about a direction: its entry in ``config.json``."""

    codes: int = 1  # rows of the vector: 1, which moves every code alike, or one for each of the L codes
    layers: tuple[int, int] | None = None  # first code that moves and the end (not moved any more); None: all
    unit: str = "length 1 in w"  # what strength 1 means
    limits: tuple[float, float] = (-3.0, 3.0)  # strengths of use
    gain: float = 1.0  # of the strength beside a photo's tokens, which hold the edit back
    effect: Mapping[str, float] = field(default_factory=dict)  # attribute -> measured change for strength 1
    leak: Mapping[str, float] = field(default_factory=dict)  # attribute -> unwanted change, standard deviations
    source: str = ""
    licence: str = ""
    group: str = ""  # what it is shown with, such as "Expression"; empty: none
    negative: str = ""  # what a picture gets at strengths below 0, in a word or two, and
    positive: str = ""  # above 0; both are known, or neither is

    def __post_init__(self) -> None:
        check_fields(self)
        if self.layers is not None:
            if len(found := tuple(self.layers)) != 2:
                raise ConfigError(f"layers are a first code and an end, such as (0, 4), not {self.layers}.")
            object.__setattr__(self, "layers", tuple(whole(code, "A code of layers", 0) for code in found))
        limits = tuple(real(strength, "A limit of a direction") for strength in self.limits)
        if len(limits) != 2 or not limits[0] <= 0 <= limits[1] or limits[0] == limits[1]:
            raise ConfigError(f"limits are the lowest and highest strength, with 0 within, not {list(self.limits)}.")
        object.__setattr__(self, "limits", limits)
        first, end = self.layers or (0, 1)
        if not 1 <= self.gain <= 2:
            raise ConfigError(f"The gain of a direction is 1 to 2, not {self.gain}.")
        if self.codes < 1 or not first < end:
            raise ConfigError(f"A direction of {counted(self.codes, 'code')} cannot move the layers {self.layers}.")
        if bool(self.negative) != bool(self.positive):
            raise ConfigError(f"A direction names both of its ends, or none: {self.negative!r}, {self.positive!r}.")
        for text in (self.group, self.negative, self.positive):
            if len(text) > LONGEST_NAME or text != text.strip() or not text.isprintable():
                raise ConfigError(
                    f"{text[:80]!r} cannot name a group or an end: use one line of at most {LONGEST_NAME} letters."
                )


@dataclass(frozen=True, eq=False)
class Direction:
    """An offset ``vector`` [1, D] or [L, D] to w+ for strength 1."""

    vector: Tensor
    info: DirectionInfo = DirectionInfo()

    def __post_init__(self) -> None:
        if self.vector.dim() != 2 or len(self.vector) != self.info.codes:
            raise ShapeError(f"A direction is [{self.info.codes}, D], not {list(self.vector.shape)}.")

    def offset(self, num_ws: int) -> Tensor:
        """The offset of every code, [L, D], zero outside the layer range.

        Raises:
            DirectionError: The direction has another number of codes, or moves codes that do not exist.
        """
        if self.info.codes not in (1, num_ws):
            raise DirectionError(f"The direction has {self.info.codes} codes, the generator {num_ws}.")
        first, end = self.info.layers or (0, num_ws)
        if end > num_ws:
            raise DirectionError(f"The direction moves codes {first} to {end - 1}, the generator has {num_ws}.")
        moves = torch.zeros(num_ws, 1, dtype=self.vector.dtype, device=self.vector.device)
        moves[first:end] = 1
        return self.vector * moves

    def fit(self, num_ws: int) -> Direction:
        """The same direction for a generator of the same latent space with another number of codes, see ``fit_codes``.

        Raises:
            DirectionError: It moves only codes that there are not.
        """
        codes, layers = self.info.codes, self.info.layers
        if codes > 1 and codes != num_ws:
            info = replace(self.info, codes=num_ws, layers=None)
            return Direction(fit_codes(self.offset(codes), num_ws), info)
        if layers is None or layers[1] <= num_ws:
            return self
        if layers[0] >= num_ws:
            raise DirectionError(f"The direction moves codes {layers[0]} to {layers[1] - 1}, of {num_ws}.")
        return replace(self, info=replace(self.info, layers=(layers[0], num_ws)))


@dataclass(frozen=True)
class DirectionsConfig:
    """``config.json`` of a set of directions."""

    w_dim: int  # D
    directions: Mapping[str, DirectionInfo]
    base: Fingerprint | None = None  # the generator they were found for; None: not known


class Directions(Pretrained, Pushable, Mapping[str, Direction]):
    """Directions by name, as they are saved with a model. Immutable."""

    part = "directions"
    config_class = DirectionsConfig

    def __init__(self, directions: Mapping[str, Direction], base: Fingerprint | None = None) -> None:
        widths = {d.vector.shape[1] for d in directions.values()}
        if len(widths) > 1:
            raise ShapeError(f"All directions of a set need the same width D; these have {sorted(widths)}.")
        infos = {name: d.info for name, d in directions.items()}
        self.config = DirectionsConfig(max(widths, default=0), infos, base)
        self._directions = dict(directions)

    def __getitem__(self, name: str) -> Direction:
        """The direction ``name``. Raises DirectionError, which suggests similar names."""
        try:
            return self._directions[name]
        except KeyError:
            raise DirectionError(no_such("direction", name, self)) from None

    def __contains__(self, name: object) -> bool:
        return name in self._directions

    def __iter__(self) -> Iterator[str]:
        return iter(self._directions)

    def __len__(self) -> int:
        return len(self._directions)

    def fit(self, num_ws: int) -> Directions:
        """The directions that move codes of a generator with ``num_ws`` codes and this latent space, fitted to it."""
        fitting = {n: d for n, d in self._directions.items() if (d.info.layers or (0, 1))[0] < num_ws}
        return Directions({name: d.fit(num_ws) for name, d in fitting.items()}, self.config.base)

    def joined(self, others: Mapping[str, Direction], base: Fingerprint, *, replace: bool = False) -> Directions:
        """Return these directions and others, as a set of the generator ``base``.

        Args:
            others: The directions to add.
            base: The generator for which both are meant.
            replace: Whether another direction of the same name gives way.

        Raises:
            ConfigError: A name is taken, or is not one that a command line can take.
            ShapeError: The widths differ.
        """
        self.check_names(others, replace=replace)
        return Directions({**self._directions, **others}, base)

    def check_names(self, names: Collection[str], *, replace: bool = False) -> None:
        """Raise ConfigError where a name is taken, unless it is to ``replace``, or is not one for a command line."""
        for name in names:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
                shown = printable(repr(name))
                raise ConfigError(f"{shown} cannot name a direction: use letters, digits, dot, dash, underscore.")
        taken = sorted(self.keys() & set(names))
        if taken and not replace:
            raise ConfigError(f"There are directions of that name already: {listed(taken)}. Replace them, or rename.")

    def state_dict(self) -> dict[str, Tensor]:
        """The vectors by name."""
        return {name: d.vector for name, d in self._directions.items()}

    @classmethod
    def template(cls, config: DirectionsConfig) -> dict[str, Tensor]:
        """Shapes of the vectors, on the meta device."""
        return {n: torch.empty(d.codes, config.w_dim, device="meta") for n, d in config.directions.items()}

    @classmethod
    def from_state(cls, config: DirectionsConfig, tensors: Mapping[str, Tensor]) -> Directions:
        """Make a set from a checked config and its vectors."""
        return cls({n: Direction(tensors[n], info) for n, info in config.directions.items()}, config.base)


def apply(w_plus: Tensor, edits: Edits, directions: Mapping[str, Direction], refine: Tensor | float = 0.0) -> Tensor:
    """Move w+ [N, L, D] by strength times direction for each edit; edits add.

    A photo's tokens hold some edits back. Beside them the strength of such an edit is multiplied by its direction's
    ``gain``, so that it does about what it does to w+ alone; beside weaker tokens by less.

    Args:
        w_plus: The codes, which are left as they are.
        edits: Strength by name: any real number, or one for each sample [N].
        directions: The directions by name.
        refine: Strength of the photo's own tokens, 0 to 1, or one for each sample [N]; 0 where there are none.

    Raises:
        DirectionError: A name is unknown, or a direction has another size.
        ConfigError: A strength is not finite.
        ShapeError: ``w_plus`` is not [N, L, D], or strengths are not [N].
    """
    if w_plus.dim() != 3:
        raise ShapeError(f"w+ is [N, L, D], not {list(w_plus.shape)}.")
    samples, num_ws, width = w_plus.shape
    held = torch.as_tensor(refine, dtype=w_plus.dtype, device=w_plus.device)
    for name, strength in edits.items():
        if name not in directions:
            raise DirectionError(no_such("direction", name, directions))
        offset = directions[name].offset(num_ws).to(w_plus)
        if offset.shape[1] != width:
            raise DirectionError(
                f"The direction {name!r} has {counted(offset.shape[1], 'number')} a code, w+ has {width}."
            )
        try:
            amount = torch.as_tensor(strength, dtype=w_plus.dtype, device=w_plus.device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigError(f"The strength of {name!r} must be a finite number, not {strength!r:.80}.") from error
        if amount.shape not in ((), (samples,)):
            raise ShapeError(f"The strength of {name!r} is one number or [{samples}], not {list(amount.shape)}.")
        if not bool(amount.isfinite().all()):
            raise ConfigError(f"The strength of {name!r} must be a finite number.")
        amount = amount * (1 + held * (directions[name].info.gain - 1))
        w_plus = w_plus + amount.reshape(-1, 1, 1) * offset
    return w_plus
