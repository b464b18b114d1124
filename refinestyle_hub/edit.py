"""Editing directions in w and w+: what they are, how they are applied, and three ways to find them.

A direction is a fixed offset to the codes; an edit adds strength times the offset. ``find_from_labels`` fits linear
models to labelled samples, ``sefa`` factorises the modulation weights, ``pca`` the distribution of w. Published files
are read by `convert.directions`; `train.directions` fits and measures the set that a model ships with.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .errors import ConfigError, DirectionError, ShapeError
from .fingerprint import Fingerprint
from .generator import Generator
from .hub import Pretrained


__all__ = [
    "Direction",
    "DirectionInfo",
    "Directions",
    "DirectionsConfig",
    "apply",
    "find_from_labels",
    "pca",
    "sefa",
]


@dataclass(frozen=True)
class DirectionInfo:
    """What is known about a direction: its entry in ``config.json``."""

    codes: int = 1  # rows of the vector: 1, which moves every code alike, or one for each of the L codes
    layers: tuple[int, int] | None = None  # first code that moves and the end (not moved any more); None: all
    unit: str = "length 1 in w"  # what strength 1 means
    limits: tuple[float, float] = (-3.0, 3.0)  # strengths of use
    effect: Mapping[str, float] = field(default_factory=dict)  # attribute -> measured change for strength 1
    leak: Mapping[str, float] = field(default_factory=dict)  # attribute -> unwanted change, standard deviations
    source: str = ""
    licence: str = ""

    def __post_init__(self) -> None:
        first, end = self.layers or (0, 1)
        if self.codes < 1 or not 0 <= first < end:
            raise ConfigError(f"A direction of {self.codes} codes cannot move the layers {self.layers}.")


@dataclass(frozen=True, eq=False)
class Direction:
    """An offset ``vector`` [1, D] or [L, D] to w+ for strength 1."""

    vector: Tensor
    info: DirectionInfo = DirectionInfo()

    def __post_init__(self) -> None:
        if self.vector.dim() != 2 or len(self.vector) != self.info.codes:
            raise ShapeError(f"A direction is [{self.info.codes}, D], not {list(self.vector.shape)}.")

    def offset(self, num_layers: int) -> Tensor:
        """The offset of every code, [L, D], zero outside the layer range.

        Raises:
            DirectionError: the direction has another number of codes, or moves some that there are not.
        """
        if self.info.codes not in (1, num_layers):
            raise DirectionError(f"The direction has {self.info.codes} codes, the generator {num_layers}.")
        first, end = self.info.layers or (0, num_layers)
        if end > num_layers:
            raise DirectionError(f"The direction moves codes {first} to {end - 1}, the generator has {num_layers}.")
        moves = torch.zeros(num_layers, 1, dtype=self.vector.dtype, device=self.vector.device)
        moves[first:end] = 1
        return self.vector * moves


@dataclass(frozen=True)
class DirectionsConfig:
    """``config.json`` of a set of directions."""

    w_dim: int  # D
    directions: Mapping[str, DirectionInfo]
    base: Fingerprint | None = None  # the generator they were found for; None: not known


class Directions(Pretrained, Mapping[str, Direction]):
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
            raise _unknown(name, self) from None

    def __contains__(self, name: object) -> bool:
        return name in self._directions

    def __iter__(self) -> Iterator[str]:
        return iter(self._directions)

    def __len__(self) -> int:
        return len(self._directions)

    def state_dict(self) -> dict[str, Tensor]:
        """The vectors by name."""
        return {name: d.vector for name, d in self._directions.items()}

    @classmethod
    def template(cls, config: DirectionsConfig) -> dict[str, Tensor]:
        """Shapes of the vectors, on the meta device."""
        return {n: torch.empty(d.codes, config.w_dim, device="meta") for n, d in config.directions.items()}

    @classmethod
    def from_state(cls, config: DirectionsConfig, tensors: Mapping[str, Tensor]) -> Directions:
        """From a checked config and its vectors."""
        return cls({n: Direction(tensors[n], info) for n, info in config.directions.items()}, config.base)


def _unknown(name: object, known: Collection[str]) -> DirectionError:
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return DirectionError(f"No direction {str(name)[:60]!r}.{hint}\nKnown: {', '.join(sorted(known)) or 'none'}.")


def apply(w_plus: Tensor, edits: Mapping[str, float | Tensor], directions: Mapping[str, Direction]) -> Tensor:
    """Move w+ [N, L, D] by strength times direction for each edit; edits add.

    Args:
        w_plus: codes; left as they are.
        edits: strength by name, any real number or one for each sample [N].
        directions: where the names are looked up.

    Raises:
        DirectionError: unknown name, or a direction of another size.
        ConfigError: a strength that is not finite.
        ShapeError: ``w_plus`` is not [N, L, D], or strengths are not [N].
    """
    if w_plus.dim() != 3:
        raise ShapeError(f"w+ is [N, L, D], not {list(w_plus.shape)}.")
    samples, num_layers, width = w_plus.shape
    for name, strength in edits.items():
        if name not in directions:
            raise _unknown(name, directions)
        offset = directions[name].offset(num_layers).to(w_plus)
        if offset.shape[1] != width:
            raise DirectionError(f"The direction {name!r} has {offset.shape[1]} numbers a code, w+ has {width}.")
        amount = torch.as_tensor(strength, dtype=w_plus.dtype, device=w_plus.device)
        if amount.shape not in ((), (samples,)):
            raise ShapeError(f"The strength of {name!r} is one number or [{samples}], not {list(amount.shape)}.")
        if not bool(amount.isfinite().all()):
            raise ConfigError(f"The strength of {name!r} must be a finite number.")
        w_plus = w_plus + amount.reshape(-1, 1, 1) * offset
    return w_plus


# --- Finding directions ---------------------------------------------------------------------------------------------


def find_from_labels(
    w: Tensor,
    labels: Mapping[str, Tensor],
    *,
    against: Collection[str] | None = None,
    layers: tuple[int, int] | None = None,
    ridge: float = 1e-3,
) -> dict[str, Direction]:
    """Directions that move one label by one standard deviation and, to first order, the others not at all.

    Every label is regressed on w (for yes/no labels this is the linear discriminant). Of all offsets that change the
    predictions as wanted, the one is taken that is the least unlikely under the distribution of w: with regression
    vectors B and covariance S of w, it is S B (B^T S B)^-1 e. InterFaceGAN (Shen et al. 2020) projects out the other
    normals instead, which is the same with S = 1, and leaves the region where w lies sooner.

    Args:
        w: samples [N, D], for one vector that serves all codes, or w+ [N, L, D], for a vector for each code.
        labels: name -> [N], any scale, yes/no as 0 and 1.
        against: labels that each direction must leave alone; None: all the others; (): none.
        layers: first code to move and the end; None: all.
        ridge: added to S for the regression, as a share of its mean eigenvalue.

    Returns:
        A direction for each label, with vectors [1, D] or [L, D].

    Raises:
        ShapeError: sizes do not fit together, or fewer than two samples.
        DirectionError: a label that never changes, or that others determine; a name in ``against`` without labels.
    """
    if unknown := sorted(set(against or ()) - set(labels)):
        raise DirectionError(f"There are no labels of {', '.join(unknown)} to leave alone.")
    if w.dim() not in (2, 3) or len(w) < 2 or any(y.shape != w.shape[:1] for y in labels.values()):
        raise ShapeError("find_from_labels needs w [N, D] or [N, L, D] and labels [N], with N of 2 or more.")
    if constant := [name for name, y in labels.items() if float(y.double().std()) < 1e-9]:
        raise DirectionError(f"All samples have the same {', '.join(constant)}: no direction can be found.")
    rows = w[:, slice(*layers)] if layers and w.dim() == 3 else w
    x = rows.reshape(len(w), -1).double()  # [N, F]
    x = x - x.mean(dim=0)
    y = torch.stack([values.to(x) for values in labels.values()], dim=1)  # [N, K]
    deviations = y.std(dim=0)
    y = (y - y.mean(dim=0)) / deviations
    covariance = x.T @ x / len(x)  # [F, F]
    damping = ridge * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=x.dtype, device=x.device)
    normals = torch.linalg.solve(covariance + damping, x.T @ y / len(x))  # B [F, K]
    moves = covariance @ normals  # S B
    responses = normals.T @ moves  # B^T S B [K, K]

    found = {}
    for k, name in enumerate(labels):
        others = [j for j, other in enumerate(labels) if j != k and (against is None or other in against)]
        chosen = torch.tensor([k, *others])
        block = responses[chosen][:, chosen]
        scales = block.diagonal().clamp_min(1e-12).rsqrt()
        if float(torch.linalg.eigvalsh(scales[:, None] * block * scales)[0]) < 1e-6:
            raise DirectionError(f"{name!r} cannot be told from the labels held against it: leave some of them out.")
        wanted = torch.zeros(len(chosen), dtype=x.dtype, device=x.device)
        wanted[0] = 1
        vector = moves[:, chosen] @ torch.linalg.solve(block, wanted)  # [F]
        vector = vector.reshape(-1, w.shape[-1]).float()
        if layers and w.dim() == 3:
            whole = vector.new_zeros(w.shape[1:])
            whole[slice(*layers)] = vector
            vector = whole
        info = DirectionInfo(
            codes=len(vector),
            layers=layers,
            unit=f"one standard deviation of {name} over the samples ({float(deviations[k]):.3g})",
            source="linear regression on labelled samples",
        )
        found[name] = Direction(vector, info)
    return found


def _signed(vectors: Tensor) -> Tensor:
    """Eigenvectors [k, D] have no sign of their own: make the largest number of each positive."""
    largest = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True))
    return vectors * largest.sign()


def sefa(generator: Generator, layers: tuple[int, int] | None = None, k: int = 10) -> dict[str, Direction]:
    """Directions of w that change the styles the most: SeFa (Shen and Zhou, CVPR 2021), closed form.

    They are the first eigenvectors of A^T A, A being the modulation weights of the convolutions of a layer range, each
    style's row brought to length 1.

    Args:
        generator: its weights are read.
        layers: first code and the end; what the directions are found from, and what they move. None: all.
        k: how many.

    Returns:
        "sefa0", "sefa1", ..., strongest first, of length 1 in w.

    Raises:
        ConfigError: no such layers, or more directions than w has dimensions.
    """
    config = generator.config
    first, end = layers or (0, config.num_layers)
    convs = [spec.name for spec in config.layers if spec.kind == "conv" and first <= spec.code < end]
    if not convs or end > config.num_layers or not 1 <= k <= config.w_dim:
        raise ConfigError(f"sefa needs layers in 0..{config.num_layers - 1} and 1 to {config.w_dim} directions.")
    weights = [generator.synthesis.get_parameter(f"{name}.affine.weight").detach() for name in convs]  # [C_in, D]
    a = torch.nn.functional.normalize(torch.cat(weights).double(), dim=1)
    vectors = torch.linalg.eigh(a.T @ a).eigenvectors.T.flip(0)[:k].float()
    info = DirectionInfo(layers=layers, limits=(-5.0, 5.0), source="SeFa: eigenvectors of the modulation weights")
    return {f"sefa{i}": Direction(vector[None], info) for i, vector in enumerate(_signed(vectors))}


def pca(w: Tensor, k: int = 10, layers: tuple[int, int] | None = None) -> dict[str, Direction]:
    """Principal components of samples w [N, D]: GANSpace (Härkönen et al., NeurIPS 2020).

    Returns:
        "pca0", "pca1", ..., strongest first; strength 1 is one standard deviation along the component.

    Raises:
        ShapeError: not [N, D].
        ConfigError: more components than samples or dimensions.
    """
    if w.dim() != 2:
        raise ShapeError(f"pca needs w [N, D], not {list(w.shape)}.")
    if not 1 <= k <= min(len(w) - 1, w.shape[1]):
        raise ConfigError(f"{len(w)} samples of {w.shape[1]} dimensions do not have {k} components.")
    x = w.double() - w.double().mean(dim=0)
    _, deviations, vectors = torch.linalg.svd(x, full_matrices=False)
    vectors = _signed(vectors[:k]) * (deviations[:k, None] / math.sqrt(len(w) - 1))
    info = DirectionInfo(layers=layers, unit="one standard deviation of the component", source="GANSpace: PCA of w")
    return {f"pca{i}": Direction(vector[None], info) for i, vector in enumerate(vectors.float())}
