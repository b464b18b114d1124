"""``refinestyle generate``, ``invert``, ``edit`` and ``faces``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ConfigError, RefineStyleHubError, counted
from . import console
from .arguments import (
    Aligned,
    Compile,
    Device,
    Edits,
    EncoderPlace,
    InDomains,
    Model,
    Seed,
    check_apart,
    check_picture,
    load,
    load_domains,
    note_far,
    parse_domains,
    parse_edits,
    parse_seeds,
    with_encoder,
)


if TYPE_CHECKING:
    from PIL import Image

    from ..inversion.inversion import Inversion
    from ..pipeline import RefineStylePipeline


__all__ = ["edit", "faces", "generate", "invert"]

REPORT = "report.json"  # on one photo, or on a folder of them


def generate(
    model: Model,
    out: Annotated[Path, typer.Option("--out", file_okay=False, help="Folder for seed0000.png and so on.")],
    seeds: Annotated[str, typer.Option(help="Seeds, such as 0-15 or 1,4,9.")] = "0-15",
    trunc: Annotated[float, typer.Option(help="Truncation: 1 as drawn, 0 the mean face.")] = 0.7,
    set_: Edits = None,
    domain: InDomains = None,
    device: Device = "cpu",
    compile: Compile = False,
    as_json: console.AsJson = False,
) -> None:
    """Draw one picture for each seed."""
    numbers, edits, wanted = parse_seeds(seeds), parse_edits(set_ or []), parse_domains(domain or [])
    pipe = load(model, device, compile)
    domains = load_domains(pipe, wanted)
    note_far(pipe, edits)
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
    console.emit(report, f"{counted(len(files), 'picture')} in {out}", as_json)


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
    aligned: Aligned = False,
    face: Annotated[int, typer.Option(min=0, help="Which face of the photo; 0 is the largest.")] = 0,
    seed: Seed = 0,
    w_only: Annotated[bool, typer.Option("--w-only", help="Find w+ alone: a likeness, no tokens.")] = False,
    batch: Annotated[
        int | None,
        typer.Option(
            min=1, help="Pictures of a folder inverted at once; by default 8, or fewer on a CPU if they are large."
        ),
    ] = None,
    encoder: EncoderPlace = None,
    device: Device = "cpu",
    compile: Compile = False,
    as_json: console.AsJson = False,
) -> None:
    """Find the w+ codes and tokens with which the model draws the face of a photo, or of each photo in a folder.

    Ctrl-C keeps the best so far; of a folder, the photos that are done, and the same command continues.

    A folder by several processes: accelerate launch -m refinestyle_hub invert ...
    """
    if aligned and face:
        raise typer.BadParameter("An aligned crop has one face.", param_hint="--face")
    if photo.is_dir() and face:
        raise typer.BadParameter("Of each photo in a folder the largest face is taken.", param_hint="--face")
    if w_only and w_steps is not None:
        raise typer.BadParameter("With --w-only all steps move w+: give --steps.", param_hint="--w-steps")
    from ..storage.atomic import check_place

    check_place(out)
    pipe = with_encoder(load(model, device, compile), encoder)
    how: dict[str, Any] = {"steps": steps, "w_steps": w_steps, "tokens": not w_only, "seed": seed}
    if photo.is_dir():
        _invert_folder(pipe, photo, out, as_json, aligned=aligned, batch=batch, **how)
        return
    from PIL import Image

    from ..faces.detect import SURE
    from ..faces.photo import read_photo, search_for
    from ..images import save_png, to_tensor
    from ..inversion.folder import NAME, picture_digest
    from ..inversion.inversion import Inversion
    from ..storage.schema import read_json

    check_apart(photo, out / "crop.png", out / "reconstruction.png")
    seen = read_photo(photo, search_for(aligned))
    whose, before = {"picture": picture_digest(photo), "face": face}, (out / NAME).exists()
    if (out / REPORT).exists() and "inverted" in read_json(out / REPORT):
        why = f"{out} holds the report on a folder of photos. Name another folder."
        raise typer.BadParameter(why, param_hint="--out")
    if before and Inversion.from_pretrained(out / NAME).report.get("how") != whose:
        why = f"{out} holds an inversion that is not known to be of this face. Name another folder, or remove it."
        raise typer.BadParameter(why, param_hint="--out")
    found = seen.crop(pipe.generator.config.resolution, face)
    if len(seen.faces) > 1:
        console.note(f"{len(seen.faces)} faces; {face} is taken. --face chooses, refinestyle faces lists them.")
    if seen.faces and seen.faces[face].score < SURE:
        console.note(f"the face is seen faintly, and may be none: {out / 'crop.png'} shows what is taken")
    with console.progress("steps", None) as tick, console.interruptible() as pressed:

        def on_step(step: int, total: int, metrics: Mapping[str, float]) -> bool:
            tick(step, metrics, total)
            return pressed()

        (inversion,) = pipe.invert_crops(to_tensor(found.image), **how, on_step=on_step)
    stopped = inversion.report["stopped"] == "cancelled"
    if stopped and before:
        console.note(f"stopped; what was in {out} before is kept")
        raise typer.Exit(130)
    inversion = inversion.in_photo(found)
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
    replace(inversion, report={**inversion.report, "how": whose}).save(out / NAME)
    console.write_json(out / REPORT, report)
    distance = f"{report['lpips_backbone']} {report['lpips']:.3f} (w+ alone {report['w_plus_lpips']:.3f})"
    text = f"mse {report['mse']:.4f}, {distance}, {report['seconds']:.1f} s; everything is in {out}"
    console.emit(report, f"stopped, with the best so far: {text}" if stopped else text, as_json)
    if stopped:
        raise typer.Exit(130)


def _identity_distance(crop: Image.Image, reconstruction: Image.Image) -> float | None:
    """The identity distance; None where a face is not found, or dlib or its models cannot be had."""
    from ..faces.identity import identity_distance

    try:
        return identity_distance(crop, reconstruction)
    except RefineStyleHubError as error:  # of your own models: what was inverted is worth more than this number
        console.note(f"the identity is not compared: {str(error).splitlines()[0]}")
        return None


def _invert_folder(pipe: RefineStylePipeline, folder: Path, out: Path, as_json: bool, **how: Any) -> None:
    """One inversion for each picture; under ``accelerate launch`` by several processes."""
    from ..images import left_out_lines
    from ..inversion.folder import NAME, invert_folder

    if (out / NAME).exists():
        why = f"{out} holds the inversion of a photo, and its report. Name another folder."
        raise typer.BadParameter(why, param_hint="--out")
    speaks = os.environ.get("RANK", "0") == "0"
    try:
        with console.progress("pictures", None) as tick:
            made = invert_folder(
                pipe.generator,
                folder,
                out,
                encoder=pipe.encoder,
                perceptual=pipe.perceptual,
                settings=pipe.inversion,
                on_picture=lambda done, total: tick(done, {}, total),
                **how,
            )
    except KeyboardInterrupt:
        if speaks:
            done = sum(1 for _ in out.rglob(NAME))
            console.note(f"stopped; {counted(done, 'inversion')} in {out}; the same command continues")
        raise
    if speaks:
        report = {
            "inverted": made.inverted,
            "kept": made.kept,
            "skipped": made.skipped,
            "left_out": made.left_out,
        }
        console.write_json(out / REPORT, report)
        lines = [
            *left_out_lines(made.left_out),
            *(f"{name}: {why.splitlines()[0]}" for name, why in made.skipped.items()),
        ]
        counts = f"{len(made.inverted)} inverted, {len(made.kept)} kept, {len(made.skipped)} skipped"
        console.emit(report, "\n".join([*lines, f"{counts}; everything is in {out}"]), as_json)
    if not made.inverted and not made.kept:
        raise typer.Exit(1)


def edit(
    model: Model,
    inversion: Annotated[
        Path,
        typer.Argument(
            dir_okay=False,
            help="The inversion.safetensors of a face, or latents of other tools: .npz, .npy or .pt.",
            metavar="INVERSION",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", dir_okay=False, help="Picture to write: .png, .jpg, .webp, .tif, .bmp.")
    ],
    set_: Edits = None,
    domain: InDomains = None,
    paste: Annotated[Path | None, typer.Option(help="The photo: the edited face is laid back into it.")] = None,
    number: Annotated[int, typer.Option(min=0, help="Of a file with several latents: which one.")] = 0,
    device: Device = "cpu",
    compile: Compile = False,
    as_json: console.AsJson = False,
) -> None:
    """Draw an inverted face with attributes changed, or in another domain."""
    edits, wanted = parse_edits(set_ or []), parse_domains(domain or [])
    from ..images import save_picture

    check_picture(out)
    if paste is not None:
        check_apart(paste, out)
    pipe = load(model, device, compile)
    note_far(pipe, edits)
    face = _face(inversion, pipe, number)
    picture = pipe.render(face, edits=edits, domains=load_domains(pipe, wanted))
    if paste is not None:
        picture = face.paste_back(paste, picture)
    save_picture(picture, out)
    report = {"model": model, "edits": edits, "domains": wanted, "file": str(out), "size": list(picture.size)}
    console.emit(report, f"{out}, {picture.width} x {picture.height} pixels", as_json)


def _face(path: Path, pipe: RefineStylePipeline, number: int) -> Inversion:
    """The inversion in a file of ours, or around the latent of another tool; what a file is, its contents say."""
    from ..boundary.contents import contents_of, is_safetensors, start_of
    from ..convert.latent_files import read_latents
    from ..inversion.inversion import Inversion
    from ..storage.tensors import read_header

    contents = contents_of(start_of(path))
    if contents is not None and contents.kind == "picture":
        raise ConfigError(f"{path} is a picture: refinestyle invert finds the face that edit takes.")
    if path.suffix.lower() == ".safetensors" and not is_safetensors(start_of(path)):
        return Inversion.from_pretrained(path)  # which says what it is instead
    if is_safetensors(start_of(path)) and read_header(path).config is not None:
        found = [Inversion.from_pretrained(path)]
    else:
        found = list(map(Inversion, read_latents(path, pipe.generator.num_ws, pipe.generator.config.w_dim)))
    if number >= len(found):
        held = counted(len(found), "latent")
        raise ConfigError(f"{path} has {held}, counted from 0; there is no number {number}.")
    return found[number]


def faces(
    photo: Annotated[Path, typer.Argument(help="Picture with faces.", metavar="PHOTO")],
    as_json: console.AsJson = False,
) -> None:
    """List the faces of a photo by the numbers that invert --face takes."""
    from ..faces.photo import read_photo

    found = read_photo(photo).faces
    report = [
        {"face": number, "box": list(face.box), "width": face.width, "score": round(face.score, 3)}
        for number, face in enumerate(found)
    ]
    lines = [
        f"{number}  {face.width} pixels wide, at {face.box[0]}, {face.box[1]}, score {face.score:.2f}"
        for number, face in enumerate(found)
    ]
    console.emit({"photo": str(photo), "faces": report}, "\n".join(lines), as_json)
