"""``refinestyle adapt``."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import console
from .pictures import Device, Model, load


if TYPE_CHECKING:
    from ..adapt import Adaptation
    from ..images import PictureSource
    from ..tokens import TokenSet


__all__ = ["adapt"]

RUN = ".run"  # in the domain's folder: state, previews and report, which a push of the domain leaves out


class Align(str, Enum):
    """What is done with pictures before they are used."""

    auto = "auto"
    none = "none"


def adapt(
    model: Model,
    name: Annotated[str, typer.Option(help="What the domain is called.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the domain. A run found in it goes on.")],
    pictures: Annotated[
        list[Path] | None,
        typer.Argument(help="1 to 20 pictures of a style, or folders.", metavar="PICTURES..."),
    ] = None,
    text: Annotated[str | None, typer.Option(help="In place of pictures: what to draw, such as 'a sketch'.")] = None,
    source_text: Annotated[str, typer.Option(help="With --text: what the generator draws.")] = "a photo",
    clip: Annotated[
        list[str] | None,
        typer.Option(help="CLIP, a folder or Hub id, for --text, or as a further guide to pictures; may be repeated."),
    ] = None,
    codes: Annotated[
        int | None, typer.Option(min=1, help="With --text: refine only the layers of so many codes, chosen by it.")
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, max=64, help="T, tokens per layer.")] = 4,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of optimisation; by default 500, from a text 300.")
    ] = None,
    align: Annotated[
        Align, typer.Option(help="auto: cut faces out where they are found; none: use all pictures as they are.")
    ] = Align.auto,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same result.")] = 0,
    preview_every: Annotated[int, typer.Option(min=1, help="Steps between previews of fixed samples.")] = 50,
    rights: Annotated[
        str, typer.Option(help="What you state about your right to use the pictures; without it no push is possible.")
    ] = "",
    device: Device = "cpu",
    as_json: console.AsJson = False,
) -> None:
    """Make a domain from a few pictures of a style, or from a text.

    Ctrl-C keeps the best so far; the same command goes on.
    """
    if text is None and not pictures:
        raise typer.BadParameter("Give pictures of the style, or --text.", param_hint="PICTURES")
    if text is not None and (pictures or not clip):
        raise typer.BadParameter("A text takes the place of pictures, and needs --clip.", param_hint="--text")
    if text is None and codes is not None:
        raise typer.BadParameter("Layers are chosen by a text: give --text.", param_hint="--codes")
    from ..adapt import STEPS, TEXT_STEPS, AdaptState, load_clips, load_references, picture_term, text_adaptation

    pipe = load(model, device)
    state = out / RUN / "state.safetensors"
    saved = AdaptState.load(state) if state.exists() else None
    clips = load_clips(clip, pipe.device) if clip else []
    run: Adaptation
    if text is not None:
        run = text_adaptation(
            pipe.generator, source_text, text, clips, steps=steps or TEXT_STEPS, tokens=tokens, codes=codes, seed=seed,
            state=saved,
        )  # fmt: skip
    else:
        references = load_references(_files(pictures or []), pipe.generator.config.resolution, align.value)
        terms = [picture_term(pipe.generator, references, clips, seed=seed)] if clips else []
        run = pipe.adaptation(references, steps=steps or STEPS, tokens=tokens, seed=seed, terms=terms, state=saved)
    before = run.preview(plain=True)

    def show(file: Path) -> None:
        from ..images import contact_sheet, save_png, to_images

        rows = [*to_images(before), *to_images(run.preview())]
        save_png(contact_sheet(rows, columns=len(before)), file)

    began = time.monotonic()
    with console.progress("steps", run.steps) as tick, console.interruptible() as pressed:

        def on_step(step: int, total: int, figures: Mapping[str, float]) -> bool:
            tick(step, {key: figures[key] for key in ("distance",) if key in figures})
            if step % preview_every == 0:
                show(out / RUN / f"step{step:04d}.png")
            return pressed()

        finished = run.run(on_step, state)
    domain = run.token_set({"name": name, **({"rights": rights} if rights else {})})
    domain.save_pretrained(out)
    show(out / "preview.png")
    _write_facts(domain, out, model, f"{run.seconds:.0f} s on {device}")
    report = _report(run, model, name, time.monotonic() - began)
    console.write_json(out / RUN / "report.json", report)
    console.emit(report, _told(report, out, finished), as_json)
    if not finished:
        raise typer.Exit(130)


def _files(paths: list[Path]) -> list[PictureSource]:
    """The pictures, and those that lie in the folders."""
    from ..images import SUFFIXES

    found: list[PictureSource] = []
    for path in paths:
        inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
        if not inside:
            raise typer.BadParameter(f"There are no pictures in {path}.", param_hint="PICTURES")
        found += inside
    return found


def _report(run: Adaptation, model: str, name: str, seconds: float) -> dict[str, Any]:
    made = run.token_set()
    return {
        "model": model,
        "name": name,
        "steps": run.done,
        "planned_steps": run.steps,
        "best_step": made.metadata["steps"],
        "tokens": run.settings.tokens,
        "numbers": made.num_values,
        "bytes": made.nbytes,
        "seed": run.seed,
        "pictures": run.references.report,
        "left_out": run.left_out,
        "seconds": round(run.seconds, 1),
        "seconds_of_this_call": round(seconds, 1),
    }


def _write_facts(domain: TokenSet, out: Path, model: str, cost: str) -> None:
    """``card.json``: how the domain was made, and its preview. What else is in it, such as figures, stays."""
    from ..cards import FACTS, Picture, dump_card, read_card
    from ..files import write_folder
    from ..sources import Folder, bundled_models, is_repo_id

    told, known = domain.metadata, read_card(Folder(out))
    public = model in bundled_models() or (is_repo_id(model) and not Path(model).exists())
    if told["pictures"]:
        what = f"{told['pictures']} pictures of the style, which are not part of this repo"
        data = f"Made from {what}. Rights to them, as the maker states: {told.get('rights', 'nothing is stated')}."
    else:
        data = f'Made without pictures, from the text "{told["source_text"]}" to "{told["target_text"]}".'
    made_with = "PICTURES..." if told["pictures"] else f'--text "{told["target_text"]}" --clip CLIP'
    size = f"--tokens {told['settings']['tokens']} --steps {told['planned_steps']} --seed {told['seed']}"
    card = replace(
        known,
        base_model=model if public else known.base_model,
        data=data,
        training=f"refinestyle adapt MODEL {made_with} --name {told['name']} {size}",
        cost=cost,
        pictures=(Picture("preview.png", "Random seeds of the generator; below, the same in this domain."),),
    )
    write_folder(out, {FACTS: dump_card(card)})


def _told(report: dict[str, Any], out: Path, finished: bool) -> str:
    lines = [f"used as it is, no face was aligned: {name}" for name in report["pictures"]["as_they_are"]]
    if report["left_out"]:
        lines.append(f"the model has no discriminator; left out: {', '.join(report['left_out'])}")
    if not finished:
        lines.append(f"stopped after {report['steps']} of {report['planned_steps']} steps; the same command goes on")
    lines.append(
        f"{report['name']}: {report['numbers']:,} numbers, {report['bytes'] / 1024:.0f} KB, best at step "
        f"{report['best_step']}, {report['seconds']:.0f} s; refinestyle generate ... --domain {out} draws with it"
    )
    return "\n".join(lines)
