"""Four ways to find editing directions.

``difference_of_means`` compares two groups of codes, ``find_from_labels`` fits linear models to labelled samples,
``sefa`` factorises the modulation weights, and ``pca`` the distribution of w. Public files are read by
``convert.direction_files``.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from ..boundary.numbers import whole
from ..errors import ConfigError, DirectionError, ShapeError, counted
from ..generators.base import Generator
from .directions import Direction, DirectionInfo


__all__ = ["difference_of_means", "find_from_labels", "pca", "sefa"]


def difference_of_means(first: Tensor, second: Tensor, *, layers: tuple[int, int] | None = None) -> Direction:
    """Return the direction [L, D] from the mean of some codes to that of others; strength 1 is the whole way.

    Args:
        first: w+ [N, L, D] of pictures without what the direction shall add.
        second: w+ [M, L, D] of pictures with it.
        layers: The first code to move and the end. None means all.

    Raises:
        ShapeError: The codes are not [N, L, D], have other sizes, or there are none.
        DirectionError: Both groups have the same mean in the codes that move.
    """
    if first.dim() != 3 or second.shape[1:] != first.shape[1:] or not len(first) or not len(second):
        raise ShapeError(f"Two groups of w+ are [N, L, D] and [M, L, D], not {[*first.shape]} and {[*second.shape]}.")
    vector = (second.cpu().double().mean(dim=0) - first.cpu().double().mean(dim=0)).float()
    rows = slice(*(layers or (0, None)))
    if float(vector[rows].norm()) <= 1e-5 * float(first.mean(dim=0)[rows].norm()):  # but for rounding
        raise DirectionError("Both groups have the same mean: no direction leads from one to the other.")
    source = f"difference of means of {len(first)} and {counted(len(second), 'picture')}"
    unit = "from the mean of the first pictures to that of the second"
    return Direction(vector, DirectionInfo(codes=len(vector), layers=layers, unit=unit, source=source))


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
        w: Samples [N, D], for one vector that serves all codes, or w+ [N, L, D], for a vector for each code.
        labels: Values [N] by name, on any scale; yes and no are 1 and 0.
        against: Labels that each direction must leave alone. None means all the others, () none.
        layers: The first code to move and the end. None means all.
        ridge: Added to S for the regression, as a share of its mean eigenvalue.

    Returns:
        A direction for each label, with vectors [1, D] or [L, D].

    Raises:
        ShapeError: The sizes do not fit together, or there are fewer than two samples.
        DirectionError: A label never changes, w does not tell it, or others determine it; or a name in ``against`` has
            no labels; or a number is not finite, or there are no labels.
    """
    if unknown := sorted(set(against or ()) - set(labels)):
        raise DirectionError(f"There are no labels of {', '.join(unknown)} to leave alone.")
    if w.dim() not in (2, 3) or len(w) < 2 or any(y.shape != w.shape[:1] for y in labels.values()):
        raise ShapeError("find_from_labels needs w [N, D] or [N, L, D] and labels [N], with N of 2 or more.")
    if not labels or not all(bool(x.isfinite().all()) for x in (w, *labels.values())):
        raise DirectionError(
            "Directions are found from w and labels of finite numbers: some are not, or none is there."
        )
    if constant := [name for name, y in labels.items() if float(y.cpu().double().std()) < 1e-9]:
        raise DirectionError(f"All samples have the same {', '.join(constant)}: no direction can be found.")
    rows = w[:, slice(*layers)] if layers and w.dim() == 3 else w
    x = rows.reshape(len(w), -1).cpu().double()  # [N, F]; not all devices have doubles
    x = x - x.mean(dim=0)
    y = torch.stack([values.to(x) for values in labels.values()], dim=1)  # [N, K]
    deviations = y.std(dim=0)
    y = (y - y.mean(dim=0)) / deviations
    covariance = x.T @ x / len(x)  # [F, F]
    damping = ridge * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=x.dtype, device=x.device)
    normals = torch.linalg.solve(covariance + damping, x.T @ y / len(x))  # B [F, K]
    moves = covariance @ normals  # S B
    responses = normals.T @ moves  # B^T S B [K, K]
    if unread := [name for name, told in zip(labels, responses.diagonal().tolist(), strict=True) if told < 1e-9]:
        raise DirectionError(f"w does not tell {', '.join(unread)}: no direction can be found.")

    found = {}
    for k, name in enumerate(labels):
        others = [j for j, other in enumerate(labels) if j != k and (against is None or other in against)]
        chosen = torch.tensor([k, *others])
        block = responses[chosen][:, chosen]
        scales = block.diagonal().clamp_min(1e-12).rsqrt()
        if float(torch.linalg.eigvalsh(scales[:, None] * block * scales)[0]) < 1e-6:
            raise DirectionError(
                f"{name!r} cannot be separated from the labels held against it: leave some of them out."
            )
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
        generator: The generator, whose weights are read.
        layers: The first code and the end of the layers that the directions are found from and move. None means all.
        k: The number of directions.

    Returns:
        "sefa0", "sefa1", ..., strongest first, of length 1 in w.

    Raises:
        ConfigError: There are no such layers, or not that many dimensions of w.
    """
    config, k = generator.config, whole(k, "k", 1)
    info = DirectionInfo(layers=layers, limits=(-5.0, 5.0), source="SeFa: eigenvectors of the modulation weights")
    first, end = info.layers or (0, config.num_ws)
    convs = [spec.name for spec in config.layers if spec.role == "conv" and first <= spec.code < end]
    if end > config.num_ws or not 1 <= k <= config.w_dim:
        raise ConfigError(f"sefa needs layers in 0..{config.num_ws - 1} and 1 to {config.w_dim} directions.")
    if not convs:
        raise ConfigError(f"No convolution takes the codes {first} to {end - 1}, only colours do: sefa needs others.")
    w = torch.cat([torch.eye(config.w_dim), torch.zeros(1, config.w_dim)]).to(generator.device)
    with torch.no_grad():
        styles = [generator.layer(name).style(w) for name in convs]  # [D + 1, C_in]
    weights = [(style[:-1] - style[-1]).T for style in styles]  # [C_in, D]
    a = torch.nn.functional.normalize(torch.cat(weights).cpu().double(), dim=1)
    vectors = torch.linalg.eigh(a.T @ a).eigenvectors.T.flip(0)[:k].float()
    return {f"sefa{i}": Direction(vector[None], info) for i, vector in enumerate(_signed(vectors))}


def pca(w: Tensor, k: int = 10, layers: tuple[int, int] | None = None) -> dict[str, Direction]:
    """Principal components of samples w [N, D]: GANSpace (Härkönen et al., NeurIPS 2020).

    Returns:
        "pca0", "pca1", ..., strongest first; strength 1 is one standard deviation along the component.

    Raises:
        ShapeError: w is not [N, D].
        DirectionError: A number is not finite.
        ConfigError: There are more components than samples or dimensions.
    """
    if w.dim() != 2:
        raise ShapeError(f"pca needs w [N, D], not {list(w.shape)}.")
    if not bool(w.isfinite().all()):
        raise DirectionError("pca needs w of finite numbers.")
    k = whole(k, "k", 1)
    if k > min(len(w) - 1, w.shape[1]):
        raise ConfigError(
            f"{counted(len(w), 'sample')} of {w.shape[1]} dimensions cannot have {counted(k, 'component')}."
        )
    x = w.cpu().double()
    x = x - x.mean(dim=0)
    _, deviations, vectors = torch.linalg.svd(x, full_matrices=False)
    vectors = _signed(vectors[:k]) * (deviations[:k, None] / math.sqrt(len(w) - 1))
    info = DirectionInfo(layers=layers, unit="one standard deviation of the component", source="GANSpace: PCA of w")
    return {f"pca{i}": Direction(vector[None], info) for i, vector in enumerate(vectors.float())}
