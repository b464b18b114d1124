"""Published editing directions -> ``editing.Direction``.

InterFaceGAN boundaries (``.npy``, ``.npz``), the direction files of e4e, ReStyle, HyperStyle and PTI (``.pt``, also
several by name), GANSpace components (``.pt`` with ``comp``, ``mean`` and ``std``, or GANSpace's own ``.npz``),
optionally with StyleRes's table of named edits, and SeFa's factors as rosinality's code saves them. Nothing in a
file is executed: ``.npy`` and ``.npz`` are read without pickle, ``.pt`` by our own unpickler (tensors and plain
containers).
"""

from __future__ import annotations

import csv
import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from ..boundary.paths import AnyPath, user_path
from ..editing.directions import Direction, DirectionInfo
from ..errors import ModelFileError, ModelNotFoundError, counted
from .array_files import FINEST, read_arrays


__all__ = ["doubt", "read_directions"]

FACTORS = 20  # of SeFa's, the strongest: a file has as many as w has numbers


def read_directions(
    path: AnyPath,
    *,
    w_dim: int = 512,
    num_ws: int | None = None,
    name: str | None = None,
    table: AnyPath | None = None,
    licence: str = "",
) -> dict[str, Direction]:
    """The directions in a published file.

    Args:
        path: A file with one direction of D, 1 x D, L x D, 1 x L x D or 1 x (L D) numbers, or several of them by name;
            or with GANSpace components or SeFa's factors. Single numbers are left out: a boundary has an intercept.
        w_dim: D, the size of w.
        num_ws: The codes of the generator: files with fewer are refused. None takes any.
        name: The name of a single direction; of several, what their names begin with. None takes the file's name for
            a single one.
        table: StyleRes's ``ganspace_configs.csv`` (name, component, first layer, end layer, strength), which names
            edits along GANSpace components; without it they are "pca0", "pca1", ...
        licence: The licence of the file, which its directions keep. Most sources state one for their repository only.

    Returns:
        Directions in the file's own units, with the file's number of codes; a GANSpace component's unit is one
        standard deviation. SeFa's are "sefa0", "sefa1", ..., the strongest only.

    Raises:
        ModelNotFoundError: There is no such file.
        ModelFileError: The file is damaged, of another kind, or of another width than ``w_dim``.
    """
    path = user_path(path)
    arrays = _read(path)
    ganspace = {"comp", "std"} <= arrays.keys()
    if table is not None and not ganspace:
        raise ModelFileError(f"{path} has no GANSpace components, which a table of edits needs.", path=path)
    if ganspace:
        found = _ganspace(arrays, w_dim, path, licence, table)
    elif "eigvec" in arrays:
        found = _sefa(arrays["eigvec"], w_dim, path, licence)
    else:
        found = {
            short: _direction(values, w_dim, num_ws, path, licence)
            for short, values in arrays.items()
            if values.numel() != 1
        }
        if not found:
            raise ModelFileError(f"{path} holds neither directions nor GANSpace's comp, mean and std.", path=path)
        if len(found) == 1:
            return {name or _short_name(path): direction for direction in found.values()}
    tidy = {short: _tidy(short) for short in found}
    if len(set(tidy.values())) < len(tidy) or not all(tidy.values()):
        raise ModelFileError(f"{path} has names that cannot be told apart in plain letters and digits.", path=path)
    return {f"{name}-{tidy[short]}" if name else tidy[short]: direction for short, direction in found.items()}


def doubt(path: AnyPath) -> str:
    """What the name of a file says against it: it is of another latent space than w of StyleGAN2. Empty: nothing."""
    file = user_path(path).name
    if not re.match(r"(?i)(stylegan|pggan)_\w+_boundary\.", file):
        return ""
    space = "w" if "_w_boundary" in file.lower() and file.lower().startswith("style") else "z"
    whose = "the first StyleGAN" if file.lower().startswith("style") else "PGGAN"
    return (
        f"By its name {file} was found in {space} of {whose}, which StyleGAN2 does not share: see what it does here."
    )


def _ganspace(
    arrays: Mapping[str, Tensor], w_dim: int, path: Path, licence: str, table: AnyPath | None
) -> dict[str, Direction]:
    components = _components(arrays, w_dim, path)
    info = DirectionInfo(unit="one standard deviation of the component", source=path.name, licence=licence)
    if table is None:
        return {f"pca{i}": Direction(c[None], info) for i, c in enumerate(components)}
    found = {}
    for edit, component, layers, strength in _rows(user_path(table), len(components)):
        limits = (-abs(strength), abs(strength))
        found[edit] = Direction(components[component][None], replace(info, layers=layers, limits=limits))
    return found


def _sefa(vectors: Tensor, w_dim: int, path: Path, licence: str) -> dict[str, Direction]:
    """The columns of rosinality's ``eigvec`` [D, D], strongest first."""
    if vectors.shape != (w_dim, w_dim):
        raise _misfit(vectors, w_dim, path)
    info = DirectionInfo(limits=(-5.0, 5.0), source=path.name, licence=licence)
    return {f"sefa{i}": Direction(_finite(v[None], path), info) for i, v in enumerate(vectors.T[:FACTORS])}


def _direction(values: Tensor, w_dim: int, num_ws: int | None, path: Path, licence: str) -> Direction:
    vector = _vector(values, w_dim, path)
    if len(vector) > max(FINEST, num_ws or 0):
        raise ModelFileError(f"{path} has {len(vector)} rows: a table of style channels, and not w+ codes.", path=path)
    if num_ws is not None and 1 < len(vector) < num_ws:
        held = f"{counted(len(vector), 'code')} of {w_dim} numbers"
        raise ModelFileError(f"{path} is {list(values.shape)}: {held}. This generator has {num_ws} codes.", path=path)
    unit = f"the length in the file ({float(vector.norm(dim=1).mean()):.3g} a code)"
    info = DirectionInfo(codes=len(vector), unit=unit, limits=(-5.0, 5.0), source=path.name, licence=licence)
    return Direction(vector, info)


def _read(path: Path) -> Mapping[str, Tensor]:
    """The directions by name, "" where one has none; or the "comp" and "std" of GANSpace."""
    arrays = read_arrays(path)
    for kind in ("lat", "act"):  # components of w, else of the layer
        if f"{kind}_comp" in arrays and f"{kind}_stdev" in arrays:
            return {"comp": arrays[f"{kind}_comp"], "std": arrays[f"{kind}_stdev"]}
    return arrays


def _short_name(path: Path) -> str:
    """Read the name of the edit off the file's.

    stylegan_ffhq_smile_w_boundary.npy -> smile; Smiling_boundary.npy -> smiling; age.pt -> age.
    """
    stem = path.stem.lower().removesuffix("_boundary").removesuffix("_w")
    for prefix in ("stylegan2_ffhq_", "stylegan_ffhq_", "stylegan_celebahq_"):
        stem = stem.removeprefix(prefix)
    if not (short := _tidy(stem)):
        raise ModelFileError(f"The name of {path} does not say what it edits: give one (--name).")
    return short


def _tidy(name: str) -> str:
    """A name in letters that a direction may have: "eye glasses" -> "eye_glasses", "lächeln" -> "lacheln"."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9.-]+", "_", plain).strip("._-")[:64]


def _misfit(values: Tensor, w_dim: int, path: Path) -> ModelFileError:
    why = f"{path} is {list(values.shape)}: not codes of {w_dim} numbers, the width of w (w_dim)."
    return ModelFileError(f"{why}\nDirections of styles (StyleSpace) and of other generators do not fit.", path=path)


def _vector(values: Tensor, w_dim: int, path: Path) -> Tensor:
    """The numbers as finite codes, [1 or L, D]."""
    flat = values.dim() > 0 and values.shape[-1] == values.numel()
    rows = values.dim() > 0 and values.shape[-1] == w_dim and values.shape[:-2].numel() == 1
    if values.numel() == 0 or not (rows or (flat and values.numel() % w_dim == 0)):
        raise _misfit(values, w_dim, path)
    return _finite(values.reshape(-1, w_dim).float(), path)


def _finite(vector: Tensor, path: Path) -> Tensor:
    length = float(vector.norm())
    if not math.isfinite(length):
        raise ModelFileError(f"{path} has NaN, infinite or far too large values.", path=path)
    if not length:
        raise ModelFileError(f"{path} has a direction that is 0 everywhere.", path=path)
    return vector


def _components(content: Mapping[str, Tensor], w_dim: int, path: Path) -> Tensor:
    """Components times their standard deviations, [k, D]."""
    comp, std = content["comp"], content["std"]
    if not comp.dim() or comp.shape[-1] != w_dim or not len(comp):
        raise _misfit(comp, w_dim, path)
    vectors = _finite(comp.reshape(-1, w_dim).float(), path)
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
    rows: list[tuple[str, int, tuple[int, int], float]] = []
    for number, cells in enumerate(csv.reader(lines, delimiter="\t" if "\t" in "".join(lines) else ","), start=1):
        if not cells or (number == 1 and not cells[-1].strip().lstrip("+-").replace(".", "", 1).isdigit()):
            continue
        try:
            name, component, first, end, strength = (cell.strip() for cell in cells)
            row = (name, int(component), (int(first), int(end)), float(strength))
            if not math.isfinite(row[3]) or not row[3]:
                raise ValueError
        except ValueError:
            raise ModelFileError(f"{path}, line {number}: not name, component, first, end layer, strength.") from None
        if not 0 <= row[1] < components or not 0 <= row[2][0] < row[2][1]:
            raise ModelFileError(f"{path}, line {number}: no such component (there are {components}) or layers.")
        if name in (other for other, *_ in rows):
            raise ModelFileError(f"{path}, line {number}: {name!r} is there twice.", path=path)
        rows.append(row)
    if not rows:
        raise ModelFileError(
            f"{path} names no edit: a line is name, component, first, end layer, strength.", path=path
        )
    return rows
