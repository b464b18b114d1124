"""``refinestyle convert`` and ``export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..errors import listed
from . import console
from .arguments import Model, parse_domains


__all__ = ["convert", "export"]


def convert(
    source: Annotated[Path, typer.Argument(help="A checkpoint: .pkl, .pt or .safetensors.", metavar="SRC")],
    out: Annotated[Path, typer.Argument(help="Folder to make.", metavar="OUT")],
    license_id: Annotated[
        str, typer.Option("--license", help="Of the weights: an id of the Hub's list, or 'other'. Ask their authors.")
    ] = "",
    license_name: Annotated[str | None, typer.Option(help="With --license other: what it is called.")] = None,
    license_link: Annotated[str | None, typer.Option(help="With --license other: where it can be read.")] = None,
    crop: Annotated[
        str, typer.Option(help="How the training pictures were framed: ffhq, by facial landmarks; none, as they came.")
    ] = "ffhq",
    discriminator: Annotated[bool, typer.Option(help="Convert the discriminator too, if SRC has one.")] = True,
    as_json: console.AsJson = False,
) -> None:
    """Make a model folder of a published StyleGAN2 checkpoint. Nothing in the file is executed."""
    from ..convert import convert as run

    done = run(
        source,
        out,
        license=license_id,
        license_name=license_name,
        license_link=license_link,
        crop=crop,
        discriminator=discriminator,
    )
    report = {
        "folder": str(done.folder),
        "layout": done.layout,
        "parts": list(done.parts),
        "fingerprint": done.fingerprint.digest,
        "notes": list(done.notes),
        "left_out": list(done.left_out),
    }
    notes = "".join(f"\nnote: {note}" for note in done.notes)
    notes += f"\nleft out of the file: {listed(list(done.left_out))}" if done.left_out else ""
    console.emit(report, f"{', '.join(done.parts)} from {done.layout} in {done.folder}{notes}", as_json)


def export(
    model: Model,
    out: Annotated[
        Path, typer.Argument(help="File to write: .pt, or .safetensors for NVIDIA's names.", metavar="OUT")
    ],
    layout: Annotated[
        Literal["rosinality", "nvidia"] | None, typer.Option(help="Whose names; by default OUT's ending decides.")
    ] = None,
    domain: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME, folder or Hub id of one to merge, with =STRENGTH if it is not 1; may be repeated.",
            metavar="DOMAIN",
        ),
    ] = None,
    discriminator: Annotated[
        bool, typer.Option("--discriminator", help="Into the file too; rosinality only.")
    ] = False,
    as_json: console.AsJson = False,
) -> None:
    """Write a generator, plain or with domains merged into its weights, for other tools."""
    from ..convert import export as run

    domains = parse_domains(domain or [])
    chosen = run(model, out, layout=layout, domains=domains, discriminator=discriminator)
    report = {"out": str(out), "layout": chosen, "domains": domains, "bytes": out.stat().st_size}
    console.emit(report, f"{out}: {out.stat().st_size / 1e6:.1f} MB, {chosen}'s names", as_json)
