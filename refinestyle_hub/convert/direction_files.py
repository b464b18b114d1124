"""Published editing directions -> ``editing.Direction``.

InterFaceGAN boundaries (``.npy``), the direction files of e4e, ReStyle, HyperStyle and PTI (``.pt``, also several by
name), and GANSpace components (``.pt`` with ``comp``, ``mean`` and ``std``, or GANSpace's own ``.npz``), optionally
with StyleRes's table of named edits. Nothing in a file is executed: ``.npy`` and ``.npz`` are read without pickle,
``.pt`` by our own unpickler (tensors and plain containers).
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from ..boundary.paths import AnyPath, user_path
from ..editing.directions import Direction, DirectionInfo
from ..errors import ModelFileError, ModelNotFoundError, counted
from .array_files import read_arrays


__all__ = ["read_directions"]

MAX_CODES = 64  # no generator has more; StyleCLIP's table of 9088 style channels is no direction


def read_directions(
    path: AnyPath,
    *,
    w_dim: int = 512,
    name: str | None = None,
    table: AnyPath | None = None,
    licence: str = "",
) -> dict[str, Direction]:
    """The directions in a published file.

    Args:
        path: A ``.npy`` or ``.pt`` file with one direction of D, 1 x D, L x D, 1 x L x D or 1 x (L D) numbers; a
            ``.pt`` with several of them by name; a ``.pt`` or ``.npz`` with GANSpace components.
        w_dim: D, the size of w.
        name: The name of a single direction. None takes it from the file's name.
        table: StyleRes's ``ganspace_configs.csv`` (name, component, first layer, end layer, strength), which names
            edits along GANSpace components; without it they are "pca0", "pca1", ...
        licence: The licence of the file, which its directions keep. Most sources state one for their repository only.

    Returns:
        Directions in the file's own units; a GANSpace component's unit is one standard deviation.

    Raises:
        ModelNotFoundError: There is no such file.
        ModelFileError: The file is damaged, of another kind, or of another width than ``w_dim``.
    """
    path = user_path(path)
    content = _read(path)
    if isinstance(content, Tensor):
        content = {name or _short_name(path): content}
    if not {"comp", "std"} <= content.keys():
        return {short: _direction(values, w_dim, path, licence) for short, values in content.items()}
    components = _components(content, w_dim, path)
    info = DirectionInfo(unit="one standard deviation of the component", source=path.name, licence=licence)
    if table is None:
        return {f"pca{i}": Direction(c[None], info) for i, c in enumerate(components)}
    found = {}
    for edit, component, layers, strength in _rows(user_path(table), len(components)):
        limits = (-abs(strength), abs(strength))
        found[edit] = Direction(components[component][None], replace(info, layers=layers, limits=limits))
    return found


def _direction(values: Tensor, w_dim: int, path: Path, licence: str) -> Direction:
    vector = _vector(values, w_dim, path)
    if len(vector) > MAX_CODES:
        raise ModelFileError(f"{path} has {len(vector)} rows: a table of style channels, and not w+ codes.")
    unit = f"the length in the file ({float(vector.norm(dim=1).mean()):.3g} a code)"
    info = DirectionInfo(codes=len(vector), unit=unit, limits=(-5.0, 5.0), source=path.name, licence=licence)
    return Direction(vector, info)


def _read(path: Path) -> Tensor | Mapping[str, Tensor]:
    """One direction, several by name, or the "comp" and "std" of GANSpace."""
    arrays = read_arrays(path)
    for kind in ("lat", "act"):  # components of w, else of the layer
        if f"{kind}_comp" in arrays and f"{kind}_stdev" in arrays:
            return {"comp": arrays[f"{kind}_comp"], "std": arrays[f"{kind}_stdev"]}
    if not arrays:
        raise ModelFileError(f"{path} holds neither directions nor GANSpace's comp, mean and std.", path=path)
    return arrays[""] if set(arrays) == {""} else arrays


def _short_name(path: Path) -> str:
    """Read the name of the edit off the file's.

    stylegan_ffhq_smile_w_boundary.npy -> smile; Smiling_boundary.npy -> smiling; age.pt -> age.
    """
    stem = path.stem.lower().removesuffix("_boundary").removesuffix("_w")
    for prefix in ("stylegan2_ffhq_", "stylegan_ffhq_", "stylegan_celebahq_"):
        stem = stem.removeprefix(prefix)
    if not stem:
        raise ModelFileError(f"The name of {path} does not say what it edits: give one.")
    return stem


def _vector(content: Tensor, w_dim: int, path: Path) -> Tensor:
    """The numbers as finite codes, [1 or L, D]."""
    if content.numel() == 0 or content.numel() % w_dim or content.shape[-1] % w_dim:
        raise ModelFileError(f"{path} is {list(content.shape)}: not codes of {w_dim} numbers (give w_dim).")
    vector = content.reshape(-1, w_dim).float()
    if not bool(vector.isfinite().all()):
        raise ModelFileError(f"{path} has NaN or infinite values.")
    return vector


def _components(content: Mapping[str, Tensor], w_dim: int, path: Path) -> Tensor:
    """Components times their standard deviations, [k, D]."""
    comp, std = content["comp"], content["std"]
    vectors = _vector(comp, w_dim, path)
    if std.numel() != len(vectors) or not bool(std.isfinite().all()):
        raise ModelFileError(
            f"{path}: {counted(len(vectors), 'component')}, but standard deviations of shape {list(std.shape)}."
        )
    return vectors * std.reshape(-1, 1).float()


def _rows(path: Path, components: int) -> list[tuple[str, int, tuple[int, int], float]]:
    """The lines of the table: name, component, (first layer, end layer), strength. A heading line is passed over."""
    if not path.is_file():
        raise ModelNotFoundError(f"There is no table {path}.")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise ModelFileError(f"{path} is not a table in UTF-8: save it as CSV or TSV.", path=path) from None
    rows = []
    for number, cells in enumerate(csv.reader(lines, delimiter="\t" if "\t" in "".join(lines) else ","), start=1):
        if not cells or (number == 1 and not cells[-1].strip().lstrip("+-").replace(".", "", 1).isdigit()):
            continue
        try:
            name, component, first, end, strength = (cell.strip() for cell in cells)
            row = (name, int(component), (int(first), int(end)), float(strength))
        except ValueError:
            raise ModelFileError(f"{path}, line {number}: not name, component, first, end layer, strength.") from None
        if not 0 <= row[1] < components or not 0 <= row[2][0] < row[2][1]:
            raise ModelFileError(f"{path}, line {number}: no such component (there are {components}) or layers.")
        rows.append(row)
    return rows
