"""``refinestyle generate``, ``invert`` and ``edit``."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from ..boundary.paths import user_path
from ..errors import ConfigError, MissingDependencyError
from . import console


if TYPE_CHECKING:
    from PIL import Image

    from ..pipeline import RefineStylePipeline
    from ..tokens.token_set import TokenSet


__all__ = ["edit", "generate", "invert"]

MAX_SEED = 2**32 - 1
MAX_SEEDS = 100_000  # of one command

Model: TypeAlias = Annotated[str, typer.Argument(help="Bundled name, folder or Hub id.", metavar="MODEL")]
Device: TypeAlias = Annotated[str, typer.Option(help="Such as cpu, cuda or mps.")]
EncoderPlace: TypeAlias = Annotated[
    str | None, typer.Option("--encoder", help="Folder or Hub id of an encoder, instead of the model's.")
]
Edits: TypeAlias = Annotated[
    list[str] | None, typer.Option("--set", help="NAME=STRENGTH of a direction; may be repeated: edits add.")
]
InDomains: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--domain", help="NAME, folder, file or Hub id, and =STRENGTH; may be repeated: domains add."),
]


def parse_seeds(text: str) -> list[int]:
    """``"0-3,7"`` -> [0, 1, 2, 3, 7]. Raises typer.BadParameter."""
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,10})\s*(?:-\s*(\d{1,10})\s*)?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last <= MAX_SEED or last - first >= MAX_SEEDS:
            raise typer.BadParameter(f"{part.strip()!r} is neither a seed (0 to {MAX_SEED}) nor a range such as 0-15.")
        seeds += range(first, last + 1)
    return list(dict.fromkeys(seeds))


def parse_edits(pairs: list[str]) -> dict[str, float]:
    """``["smile=1.5", ...]`` -> strength by name. Raises typer.BadParameter."""
    edits = {}
    for pair in pairs:
        name, _, strength = pair.partition("=")
        try:
            value = float(strength)
        except ValueError:
            value = math.nan
        if not name.strip() or not math.isfinite(value):
            raise typer.BadParameter(f"{pair!r} is not of the form NAME=STRENGTH, such as smile=1.5.")
        edits[name.strip()] = value
    return edits


def parse_domains(pairs: list[str]) -> dict[str, float]:
    """``["sketch", "my/folder=0.7"]`` -> strength by name, folder or Hub id.

    It is 1 where none is given, and the sum where one is given twice.

    Raises typer.BadParameter.
    """
    domains: dict[str, float] = {}
    for pair in pairs:
        name, given, strength = pair.rpartition("=")
        try:
            value = float(strength) if given else 1.0
        except ValueError:
            value = math.nan
        name = (name if given else pair).strip()
        if not name or not math.isfinite(value):
            raise typer.BadParameter(f"{pair!r} is not of the form DOMAIN or DOMAIN=STRENGTH, such as sketch=0.7.")
        domains[name] = domains.get(name, 0.0) + value
    return domains


def load_domains(pipe: RefineStylePipeline, wanted: dict[str, float]) -> dict[str | TokenSet, float]:
    """The model's own domains by name, others from a folder, file or Hub id."""
    from ..hub.search import is_own
    from ..tokens.token_set import TokenSet

    found: dict[str | TokenSet, float] = {}
    for name, strength in wanted.items():
        elsewhere = not is_own(name, pipe.domains) and ("/" in name or user_path(name).exists())
        found[TokenSet.from_pretrained(name) if elsewhere else name] = strength
    return found


def load(model: str, device: str) -> RefineStylePipeline:
    """The pipeline, ready to draw. Raises ConfigError where there is no such device."""
    import torch

    from ..pipeline import RefineStylePipeline

    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:  # no such name; no driver; torch without that device
        reason = re.split(r"\.?(?:\s*\n|\. )", str(error).strip())[0]  # PyTorch goes on for pages
        raise ConfigError(f"The device {device!r} cannot be used here: {reason}.") from error
    return RefineStylePipeline.from_pretrained(model, device=device)


def with_encoder(pipe: RefineStylePipeline, encoder: str | None) -> RefineStylePipeline:
    """The pipeline with another encoder, where one is named.

    Raises BaseMismatchError where that was made for another generator.
    """
    if encoder is None:
        return pipe
    from ..encoder.encoder import Encoder
    from ..pipeline import RefineStylePipeline

    network = Encoder.from_pretrained(encoder).to(pipe.device)
    return RefineStylePipeline(pipe.generator, pipe.discriminator, pipe.directions, pipe.domains, network)


def generate(
    model: Model,
    out: Annotated[Path, typer.Option("--out", file_okay=False, help="Folder for seed0000.png and so on.")],
    seeds: Annotated[str, typer.Option(help="Seeds, such as 0-15 or 1,4,9.")] = "0-15",
    trunc: Annotated[float, typer.Option(help="Truncation: 1 as drawn, 0 the mean face.")] = 0.7,
    set_: Edits = None,
    domain: InDomains = None,
    device: Device = "cpu",
    as_json: console.AsJson = False,
) -> None:
    """Draw one picture for each seed."""
    numbers, edits, wanted = parse_seeds(seeds), parse_edits(set_ or []), parse_domains(domain or [])
    pipe = load(model, device)
    domains = load_domains(pipe, wanted)
    from ..images import save_png

    files = []
    with console.progress("pictures", len(numbers)) as tick:
        for done, seed in enumerate(numbers, 1):
            files.append(out / f"seed{seed:04d}.png")
            save_png(pipe.generate([seed], truncation=trunc, edits=edits, domains=domains)[0], files[-1])
            tick(done, {})
    report = {
        "model": model,
        "truncation": trunc,
        "edits": edits,
        "domains": wanted,
        "seeds": numbers,
        "files": [str(file) for file in files],
    }
    console.emit(report, f"{len(files)} pictures in {out}", as_json)


def invert(
    model: Model,
    photo: Annotated[Path, typer.Argument(help="Picture of a face, or a folder of them.", metavar="PHOTO")],
    out: Annotated[
        Path, typer.Option("--out", file_okay=False, help="Folder for crop, reconstruction, inversion and report.")
    ],
    steps: Annotated[
        int | None, typer.Option(min=0, help="Steps of optimisation; by default 50 after an encoder, 270 without.")
    ] = None,
    w_steps: Annotated[
        int | None, typer.Option(min=0, help="How many of them move w+; by default 0 after an encoder, 40 % without.")
    ] = None,
    aligned: Annotated[bool, typer.Option("--aligned", help="The picture is an aligned crop already.")] = False,
    face: Annotated[int, typer.Option(min=0, help="Which face of the photo; 0 is the largest.")] = 0,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="The same seed gives the same result.")] = 0,
    w_only: Annotated[bool, typer.Option("--w-only", help="Find w+ alone: a likeness, no tokens.")] = False,
    batch: Annotated[int, typer.Option(min=1, help="Pictures of a folder that are inverted at once.")] = 8,
    encoder: EncoderPlace = None,
    device: Device = "cpu",
    as_json: console.AsJson = False,
) -> None:
    """Find the w+ codes and tokens with which the model draws the face of a photo, or of each photo in a folder.

    A folder by several processes: accelerate launch -m refinestyle_hub invert ...
    """
    if aligned and face:
        raise typer.BadParameter("An aligned crop has one face.", param_hint="--face")
    if photo.is_dir() and face:
        raise typer.BadParameter("Of each photo in a folder the largest face is taken.", param_hint="--face")
    if w_only and w_steps is not None:
        raise typer.BadParameter("With --w-only all steps move w+: give --steps.", param_hint="--w-steps")
    pipe = with_encoder(load(model, device), encoder)
    how: dict[str, Any] = {"w_steps": w_steps, "tokens": not w_only, "aligned": aligned, "seed": seed}
    if photo.is_dir():
        _invert_folder(pipe, photo, out, as_json, steps=steps, batch=batch, **how)
        return
    from PIL import Image

    from ..images import save_png

    with console.progress("steps", None) as tick:
        inversion = pipe.invert(
            photo,
            steps=steps,
            face=face,
            **how,
            on_step=lambda step, total, metrics: tick(step, metrics, total),
        )
    assert inversion.crop is not None
    crop, reconstruction = Image.fromarray(inversion.crop.numpy()), pipe.render(inversion)
    metrics = dict(inversion.report)
    report: dict[str, Any] = {
        "model": model,
        "photo": photo.name,
        "mse": metrics.pop("mse"),
        "lpips": metrics.pop("perceptual"),
        "lpips_backbone": metrics.pop("perceptual_backbone"),
        "w_plus_mse": metrics.pop("w_plus_mse"),
        "w_plus_lpips": metrics.pop("w_plus_perceptual"),
        "identity_distance": _identity_distance(crop, reconstruction),
        **metrics,
    }
    save_png(crop, out / "crop.png")
    save_png(reconstruction, out / "reconstruction.png")
    inversion.save(out / "inversion.safetensors")
    console.write_json(out / "report.json", report)
    distance = f"{report['lpips_backbone']} {report['lpips']:.3f} (w+ alone {report['w_plus_lpips']:.3f})"
    text = f"mse {report['mse']:.4f}, {distance}, {report['seconds']:.1f} s; everything is in {out}"
    console.emit(report, text, as_json)


def _identity_distance(crop: Image.Image, reconstruction: Image.Image) -> float | None:
    """The identity distance, or None, also where dlib or its models are missing: --aligned works without."""
    from ..faces.identity import identity_distance

    try:
        return identity_distance(crop, reconstruction)
    except MissingDependencyError:
        return None


def _invert_folder(pipe: RefineStylePipeline, folder: Path, out: Path, as_json: bool, **how: Any) -> None:
    """One inversion for each picture; under ``accelerate launch`` by several processes."""
    from ..images import told
    from ..inversion.folder import invert_folder

    with console.progress("pictures", None) as tick:
        made = invert_folder(
            pipe.generator,
            folder,
            out,
            encoder=pipe.encoder,
            perceptual=pipe.perceptual,
            on_picture=lambda done, total: tick(done, {}, total),
            **how,
        )
    if os.environ.get("RANK", "0") == "0":
        report = {
            "inverted": made.inverted,
            "kept": made.kept,
            "skipped": made.skipped,
            "left_out": made.left_out,
        }
        console.write_json(out / "report.json", report)
        lines = [*told(made.left_out), *(f"{name}: {why.splitlines()[0]}" for name, why in made.skipped.items())]
        counts = f"{len(made.inverted)} inverted, {len(made.kept)} kept, {len(made.skipped)} skipped"
        console.emit(report, "\n".join([*lines, f"{counts}; everything is in {out}"]), as_json)


def edit(
    model: Model,
    inversion: Annotated[
        Path, typer.Argument(dir_okay=False, help="The inversion.safetensors of a face.", metavar="INVERSION")
    ],
    out: Annotated[Path, typer.Option("--out", dir_okay=False, help="Picture to write.")],
    set_: Edits = None,
    domain: InDomains = None,
    paste: Annotated[Path | None, typer.Option(help="The photo: the edited face is laid back into it.")] = None,
    device: Device = "cpu",
    as_json: console.AsJson = False,
) -> None:
    """Draw an inverted face with attributes changed, or in another domain."""
    edits, wanted = parse_edits(set_ or []), parse_domains(domain or [])
    if out.suffix.lower() != ".png":
        raise typer.BadParameter("The picture is written as PNG: give a name that ends in .png.", param_hint="--out")
    pipe = load(model, device)
    from ..images import save_png
    from ..inversion.inversion import Inversion

    face = Inversion.from_pretrained(inversion)
    picture = pipe.render(face, edits=edits, domains=load_domains(pipe, wanted))
    if paste is not None:
        picture = face.paste_back(paste, picture)
    save_png(picture, out)
    report = {"model": model, "edits": edits, "domains": wanted, "file": str(out), "size": list(picture.size)}
    console.emit(report, f"{out}, {picture.width} x {picture.height} pixels", as_json)
