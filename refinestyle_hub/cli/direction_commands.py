"""``refinestyle directions``."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from ..boundary.numbers import MAX_SEED
from ..boundary.paths import user_path
from ..errors import ConfigError, listed, printable
from . import console
from .arguments import Aligned, Device, EncoderPlace, Model, check_picture, load, parse_seeds, with_encoder


if TYPE_CHECKING:
    from ..editing.directions import Direction
    from ..pipeline import RefineStylePipeline


__all__ = ["directions"]

directions = typer.Typer(no_args_is_help=True, help="Editing directions of a model: list, show, find, import, add.")

SIDE = 512  # pixels of a picture of a direction, at most
LONGEST = 2000  # characters of a fact about a direction
SHOWN = 5  # pictures of a direction, from its lowest strength to its highest
Out: TypeAlias = Annotated[
    Path | None,
    typer.Option("--out", file_okay=False, help="New folder for a copy of the model; else MODEL itself is changed."),
]
Replace: TypeAlias = Annotated[bool, typer.Option("--replace", help="Directions of the same name give way.")]
Layers: TypeAlias = Annotated[
    str | None, typer.Option(help="Codes that the directions move, such as 0-3; by default all.")
]


class Way(str, Enum):
    """How directions are found without labels."""

    sefa = "sefa"
    pca = "pca"


class Fit(str, Enum):
    """How a direction is made from two folders."""

    means = "means"
    linear = "linear"


@directions.command("list")
def list_(model: Model, as_json: console.AsJson = False) -> None:
    """Name the directions that a model has."""
    pipe = load(model, "cpu")
    report = {name: asdict(direction.info) for name, direction in pipe.directions.items()}
    groups = sorted({info["group"] for info in report.values()}, key=lambda group: (group == "", group))
    lines = [_line(name, info) for group in groups for name, info in report.items() if info["group"] == group]
    console.emit({"model": model, "directions": report}, "\n".join(lines) or "none", as_json)


def _line(name: str, info: Mapping[str, Any]) -> str:
    """A direction in one line: its group, its name and range, what both ends say, what strength 1 means."""
    low, high = info["limits"]
    ends = f"{info['negative']} / {info['positive']}" if info["negative"] else ""
    said = (info["group"], name, f"{low:g} to {high:g}", ends, info["unit"])
    return "  ".join(printable(text) for text in said if text)


@directions.command("show")
def show(
    model: Model,
    name: Annotated[str, typer.Argument(help="The direction.", metavar="NAME")],
    out: Annotated[
        Path | None,
        typer.Option("--out", dir_okay=False, help="Picture to write, such as a.png: a row for each seed."),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds, such as 0-3 or 1,4,9.")] = "0-3",
    device: Device = "cpu",
    as_json: console.AsJson = False,
) -> None:
    """Say what is known about a direction, and draw it from its lowest strength to its highest."""
    numbers = parse_seeds(seeds)
    if out is not None:
        check_picture(out)
    pipe = load(model, device)
    direction = pipe.directions[name]
    report: dict[str, Any] = {"name": name, "length": float(direction.vector.norm()), **asdict(direction.info)}
    lines = [f"{key:8} {_said(key, value)}" for key, value in report.items() if value not in ("", None, {})]
    if out is not None:
        import torch

        from ..images import contact_sheet, save_picture

        strengths = torch.linspace(*direction.info.limits, SHOWN)
        repeated = [seed for seed in numbers for _ in range(SHOWN)]
        side = min(SIDE, pipe.generator.config.resolution)
        pictures = pipe.generate(repeated, edits={name: strengths.repeat(len(numbers))}, resolution=side)
        save_picture(contact_sheet(pictures, SHOWN), out)
        report["file"] = str(out)
        lines.append(f"{'file':8} {out}")
    console.emit(report, "\n".join(lines), as_json)


def _said(key: str, value: Any) -> str:
    """A fact about a direction in full, for people: layers as ``--layers`` takes them, numbers by name."""
    if key == "layers":
        return f"{value[0]}-{value[1] - 1}"
    if key == "limits":
        return f"{value[0]:g} to {value[1]:g}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        value = ", ".join(f"{name} {number:g}" for name, number in value.items())
    return printable(value, LONGEST)


@directions.command("find")
def find(
    model: Model,
    by: Annotated[Way, typer.Option(help="sefa: what changes the styles most; pca: how w varies most.")] = Way.pca,
    count: Annotated[int, typer.Option(min=1, max=100, help="How many directions.")] = 10,
    layers: Layers = None,
    name: Annotated[str | None, typer.Option(help="What their names begin with; by default sefa or pca.")] = None,
    samples: Annotated[int, typer.Option(min=2, max=1_000_000, help="With pca: how many w are drawn.")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="With pca: the same seed gives the same result.")] = 0,
    out: Out = None,
    replace_: Replace = False,
    device: Device = "cpu",
    as_json: console.AsJson = False,
) -> None:
    """Find directions without labels, by SeFa or by principal components (GANSpace)."""
    codes = _parse_layers(layers)
    _check_out(model, out)
    pipe = load(model, device)
    names = [f"{name or by.value}{i}" for i in range(count)]
    _check(pipe, names, codes, replace_)
    import torch

    from ..editing.discover import pca, sefa

    if by is Way.sefa:
        found = sefa(pipe.generator, codes, count)
    else:
        with torch.no_grad():
            w = pipe.generator.sample(samples, torch.Generator().manual_seed(seed))[:, 0]
        found = pca(w, count, codes)
    _save(pipe, model, dict(zip(names, found.values(), strict=True)), out, replace_, as_json)


@directions.command("import")
def import_(
    model: Model,
    file: Annotated[
        Path, typer.Argument(dir_okay=False, help="A .npy, .npz, .pt or .safetensors file.", metavar="FILE")
    ],
    name: Annotated[
        str | None,
        typer.Option(help="Of a single direction, by default the file's; of several, what their names begin with."),
    ] = None,
    table: Annotated[
        Path | None, typer.Option(dir_okay=False, help="StyleRes's ganspace_configs.csv, for GANSpace components.")
    ] = None,
    layers: Layers = None,
    licence: Annotated[str, typer.Option("--license", help="Of the file; kept with its directions.")] = "",
    out: Out = None,
    replace_: Replace = False,
    as_json: console.AsJson = False,
) -> None:
    """Add the directions of a public file: InterFaceGAN, e4e, ReStyle, HyperStyle, PTI, GANSpace, SeFa."""
    codes = _parse_layers(layers)
    _check_out(model, out)
    pipe = load(model, "cpu")
    _check(pipe, [], codes, replace_)
    from ..convert.direction_files import doubt, read_directions

    count, width = pipe.generator.num_ws, pipe.generator.config.w_dim
    found = read_directions(file, w_dim=width, num_ws=count, name=name, table=table, licence=licence)
    fitted = {n: d.fit(count) for n, d in found.items()}
    if told := doubt(file):
        console.note(told)
    if cut := [n for n, d in fitted.items() if d is not found[n]]:
        console.note(f"{listed(cut)}: this generator has {count} codes; what moves finer ones is left out.")
    if codes is not None:
        fitted = {n: replace(d, info=replace(d.info, layers=codes)) for n, d in fitted.items()}
    _save(pipe, model, fitted, out, replace_, as_json)


@directions.command("add")
def add(
    model: Model,
    name: Annotated[str, typer.Argument(help="What the direction is called.", metavar="NAME")],
    without: Annotated[Path, typer.Argument(help="Pictures without it.", metavar="WITHOUT")],
    with_: Annotated[Path, typer.Argument(help="Pictures with it.", metavar="WITH")],
    by: Annotated[
        Fit, typer.Option(help="means: the way between the means; linear: a linear fit, for many pictures.")
    ] = Fit.means,
    layers: Layers = None,
    aligned: Aligned = False,
    steps: Annotated[
        int | None,
        typer.Option(min=0, help="Steps of optimisation; by default 0 after an encoder, 270 without."),
    ] = None,
    encoder: EncoderPlace = None,
    out: Out = None,
    replace_: Replace = False,
    device: Device = "cpu",
    as_json: console.AsJson = False,
) -> None:
    """Make a direction from two folders of pictures, which are inverted: without something, and with it."""
    codes = _parse_layers(layers)
    _check_out(model, out)
    pipe = load(model, device)
    _check(pipe, [name], codes, replace_)
    pipe = with_encoder(pipe, encoder)
    import torch

    from ..editing.discover import difference_of_means, find_from_labels
    from ..faces.photo import read_crops
    from ..generators.drawing import batch_size

    size = pipe.generator.config.resolution
    (first, skipped), (second, others) = (read_crops([folder], size, aligned=aligned) for folder in (without, with_))
    skipped |= others
    if steps is None and pipe.encoder is not None:
        steps = 0
    found = []
    with console.progress("pictures", len(first) + len(second)) as tick:
        for crops in torch.cat([first, second]).split(batch_size(pipe.generator)):
            found += [one.w_plus for one in pipe.invert_crops(crops, steps=steps, tokens=False)]
            tick(len(found), {})
    w_plus = torch.stack(found)
    if by is Fit.means:
        direction = difference_of_means(w_plus[: len(first)], w_plus[len(first) :], layers=codes)
    else:
        labels = {name: torch.tensor([0.0] * len(first) + [1.0] * len(second))}
        direction = find_from_labels(w_plus.mean(dim=1).cpu(), labels, layers=codes)[name]
    _save(pipe, model, {name: direction}, out, replace_, as_json, skipped)


def _parse_layers(text: str | None) -> tuple[int, int] | None:
    """``"0-3"`` -> (0, 4): the first code and the end. Raises typer.BadParameter."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,2})(?:-(\d{1,2}))?", text)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
    if first > last:
        raise typer.BadParameter(f"{text!r} is not a range of codes such as 0-3.", param_hint="--layers")
    return first, last + 1


def _check_out(model: str, out: Path | None) -> None:
    """Check before anything is computed that there is a folder for what is found."""
    from ..storage.model_folder import INDEX

    if out is None and not (user_path(model) / INDEX).is_file():
        raise ConfigError(f"{model} is not a folder that can be changed: name one for a changed copy, with --out.")
    if out is not None and out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty: the copy of the model needs a folder of its own.")


def _check(pipe: RefineStylePipeline, names: Collection[str], codes: tuple[int, int] | None, replace_: bool) -> None:
    """Check before anything is computed that the names are free and the codes there."""
    pipe.directions.check_names(names, replace=replace_)
    if codes is not None and codes[1] > pipe.generator.num_ws:
        last = pipe.generator.num_ws - 1
        raise typer.BadParameter(
            f"{codes[0]}-{codes[1] - 1} goes beyond the codes 0-{last} of this model.", param_hint="--layers"
        )


def _save(
    pipe: RefineStylePipeline,
    model: str,
    found: Mapping[str, Direction],
    out: Path | None,
    replace_: bool,
    as_json: bool,
    skipped: Mapping[str, str] | None = None,
) -> None:
    """Write the directions into the model's own part, or the whole model with them into another folder."""
    from ..storage.index import read_index, save_index
    from ..storage.model_folder import Folder

    pipe.directions = pipe.directions.joined(found, pipe.fingerprint, replace=replace_)
    if out is not None:
        pipe.save_pretrained(out)
    else:
        index = read_index(Folder(user_path(model)))
        pipe.directions.save_pretrained(user_path(model) / "directions")
        if "directions" not in index.parts:
            save_index(model, replace(index, parts=(*index.parts, "directions")))
    folder, first = str(out or model), next(iter(found))
    skipped = dict(skipped or {})
    report = {"folder": folder, "directions": list(found), "skipped": skipped}
    lines = [f"{path}: {why.splitlines()[0]}" for path, why in skipped.items()]
    shown = shlex.join(["refinestyle", "generate", folder, "--set", f"{first}=1"])
    lines.append(f"{', '.join(found)} in {folder}; {shown} shows it")
    console.emit(report, "\n".join(lines), as_json)
