"""``refinestyle adapt``."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..errors import DivergedError, counted, printable
from . import console
from .arguments import Device, Model, Seed, check_no_model, load
from .domain_card import PREVIEW, shown, write_card


if TYPE_CHECKING:
    from PIL import Image

    from ..adapt import Adaptation
    from ..tokens.token_set import TokenSet


__all__ = ["adapt"]

RUN = ".run"  # in the domain's folder: state, previews and report, which a push of the domain leaves out


class Align(str, Enum):
    """What is done with pictures before they are used."""

    auto = "auto"
    none = "none"


def adapt(
    model: Model,
    name: Annotated[str, typer.Option(help="What the domain is called.")],
    out: Annotated[
        Path, typer.Option("--out", file_okay=False, help="Folder of the domain. A run found in it continues.")
    ],
    pictures: Annotated[
        list[Path] | None,
        typer.Argument(help="1 to 20 pictures of a style, or folders.", metavar="PICTURES"),
    ] = None,
    text: Annotated[str | None, typer.Option(help="In place of pictures: what to draw, such as 'a sketch'.")] = None,
    source_text: Annotated[str, typer.Option(help="With --text: what the generator draws.")] = "a photo",
    clip: Annotated[
        list[str] | None,
        typer.Option(help="CLIP, a folder or Hub id, for --text, or as a further guide to pictures; may be repeated."),
    ] = None,
    codes: Annotated[
        int | None, typer.Option(min=1, help="With --text: refine only this many codes' layers, which it chooses.")
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, max=64, help="T, tokens per layer.")] = 4,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1, help="Steps of optimisation; by default 500, without a discriminator 60, from a text 300."
        ),
    ] = None,
    align: Annotated[
        Align, typer.Option(help="auto: cut faces out where they are found; none: use all pictures as they are.")
    ] = Align.auto,
    seed: Seed = 0,
    preview_every: Annotated[int, typer.Option(min=1, help="Steps between previews of fixed samples.")] = 50,
    rights: Annotated[
        str, typer.Option(help="What you state about your right to use the pictures; without it no push is possible.")
    ] = "",
    device: Device = "cpu",
    as_json: console.AsJson = False,
) -> None:
    """Make a domain from a few pictures of a style, or from a text.

    Ctrl-C keeps the best so far. The same command continues the run.
    """
    if text is None and not pictures:
        raise typer.BadParameter("Give pictures of the style, or --text.", param_hint="PICTURES")
    if text is not None and (pictures or not clip):
        raise typer.BadParameter("A text takes the place of pictures, and needs --clip.", param_hint="--text")
    if text is None and codes is not None:
        raise typer.BadParameter("Layers are chosen by a text: give --text.", param_hint="--codes")
    if not name.strip():
        raise typer.BadParameter("The name is empty.", param_hint="--name")
    _check_place(out, pictures or [])
    from ..adapt import (
        STEPS,
        STEPS_WITHOUT_DISCRIMINATOR,
        TEXT_STEPS,
        AdaptState,
        lacks,
        load_clips,
        load_references,
        picture_term,
        text_adaptation,
    )
    from ..images import left_out_lines, to_images

    pipe = load(model, device)
    state = out / RUN / "state.safetensors"
    saved = AdaptState.at(state)
    stated = {} if saved is None else _stated(out)
    rights = rights.strip() or str(stated.get("rights", "")).strip()
    if stated.get("name", name) != name:
        kept = f"The run in {out} makes {printable(stated['name'])!r}. Keep its name, or name another folder."
        raise typer.BadParameter(kept, param_hint="--name")
    clips = load_clips(clip, pipe.device) if clip else []
    run: Adaptation
    if text is not None:
        run = text_adaptation(
            pipe.generator, source_text, text, clips, steps=steps or TEXT_STEPS, tokens=tokens, codes=codes, seed=seed,
            state=saved, with_discriminator=pipe.discriminator is not None,
        )  # fmt: skip
    else:
        steps = steps or (STEPS if pipe.discriminator is not None else STEPS_WITHOUT_DISCRIMINATOR)
        if saved is not None:
            saved.check_asked(steps, tokens, seed)
        references = load_references(pictures or [], pipe.generator.config.resolution, align.value)
        for line in left_out_lines(references.unreadable):
            console.note(line)
        terms = [picture_term(pipe.generator, references, clips, seed=seed)] if clips else []
        run = pipe.adaptation(references, steps=steps, tokens=tokens, seed=seed, terms=terms, state=saved)
    missing = lacks(run.references)
    for line in missing:
        console.note(line)
    console.note(f"{counted(run.steps - run.done, 'step')} to go: about {_duration(run.seconds_left())} here.")
    begun_at, began, before = run.done, time.monotonic(), to_images(run.preview(which="plain"))
    finished, trouble = _take_steps(run, before, out, state, preview_every)
    domain = run.token_set({"name": name, **({"rights": rights} if rights else {})})
    if trouble is not None and not domain.metadata["steps"]:  # nothing to keep
        raise trouble
    domain.save_pretrained(out)
    _show(run, before, out / PREVIEW, "best")
    chosen = {"clip": clip, "source_text": source_text, "codes": codes, "align": align.value, "text": text}
    cost, changed = f"{run.seconds:.0f} s on {device}", run.done > begun_at
    write_card(out, domain.metadata, model, _command(chosen, domain), cost=cost, changed=changed)
    report = _report(run, domain, model, missing, time.monotonic() - began)
    console.write_json(out / RUN / "report.json", report)
    console.emit(report, _text(report, out, finished or trouble is not None), as_json)
    if trouble is not None:
        raise trouble
    if not finished:
        raise typer.Exit(130)


def _take_steps(
    run: Adaptation, before: list[Image.Image], out: Path, state: Path, preview_every: int
) -> tuple[bool, DivergedError | None]:
    """Run with previews until it is finished, interrupted or diverged: whether it finished, and the error."""
    with console.progress("steps", run.steps) as tick, console.interruptible() as pressed:

        def on_step(step: int, total: int, metrics: Mapping[str, float]) -> bool:
            tick(step, {key: metrics[key] for key in ("distance",) if key in metrics})
            if step % preview_every == 0:
                _show(run, before, out / RUN / f"step{step:04d}.png", "now")
            return pressed()

        try:
            return run.run(on_step, state), None
        except DivergedError as error:
            return False, error


def _show(run: Adaptation, before: list[Image.Image], file: Path, which: Literal["now", "best"]) -> None:
    """Draw fixed samples: a row without the domain, and a row in it."""
    from ..images import contact_sheet, save_png, to_images

    save_png(contact_sheet([*before, *to_images(run.preview(which=which))], columns=len(before)), file)


def _check_place(out: Path, pictures: list[Path]) -> None:
    """Refuse a folder that holds the pictures, another model or part of one, or a domain made elsewhere, or that
    cannot be written.
    """
    from ..storage.atomic import check_place

    if any((path if path.is_dir() else path.parent).resolve() == out.resolve() for path in pictures):
        raise typer.BadParameter("The domain needs a folder of its own, not that of the pictures.", param_hint="--out")
    if not (out / RUN).is_dir():
        check_no_model(out)
    check_place(out)


def _stated(out: Path) -> Mapping[str, Any]:
    """What was stated when the run began. A damaged config.json gives nothing, and is written again."""
    from ..storage.index import CONFIG
    from ..storage.schema import read_json

    try:
        return dict(read_json(out / CONFIG)["metadata"])
    except (KeyError, TypeError, ValueError, OSError):
        return {}


def _command(chosen: Mapping[str, Any], domain: TokenSet) -> str:
    """The command that makes such a domain: options that differ from their defaults, without names of pictures."""
    made = domain.metadata
    words = ["refinestyle", "adapt", "MODEL"]
    if chosen["text"] is None:
        words += ["PICTURES...", *(["--align", chosen["align"]] if chosen["align"] != "auto" else [])]
    else:
        words += ["--text", made["target_text"], "--source-text", made["source_text"]]
        words += ["--codes", str(chosen["codes"])] if chosen["codes"] else []
    for place in chosen["clip"] or []:
        words += ["--clip", shown(place) or "CLIP"]
    words += ["--name", made["name"], "--out", "FOLDER", "--tokens", str(made["settings"]["tokens"])]
    return shlex.join([*words, "--steps", str(made["planned_steps"]), "--seed", str(made["seed"])])


def _report(run: Adaptation, domain: TokenSet, model: str, missing: list[str], seconds: float) -> dict[str, Any]:
    return {
        "model": model,
        "name": domain.metadata["name"],
        "steps": run.done,
        "planned_steps": run.steps,
        "best_step": domain.metadata["steps"],
        "tokens": run.settings.tokens,
        "numbers": domain.num_values,
        "bytes": domain.nbytes,
        "seed": run.seed,
        "pictures": {**run.references.report, "lacks": missing},
        "left_out": run.objective.left_out,
        "seconds": round(run.seconds, 1),
        "seconds_of_this_call": round(seconds, 1),
    }


def _text(report: dict[str, Any], out: Path, ended: bool) -> str:
    lines = [f"not used: {name}" for name in report["pictures"]["ignored"]]
    if not ended:
        planned = counted(report["planned_steps"], "step")
        lines.append(f"stopped after {report['steps']} of {planned}; the same command continues")
    lines.append(
        f"{report['name']}: {report['numbers']:,} numbers, {report['bytes'] / 1024:.0f} KB, best at step "
        f"{report['best_step']}, {report['seconds']:.0f} s; refinestyle generate ... --domain {_as_path(out)}"
        " draws with it"
    )
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _as_path(place: Path) -> str:
    """A path that cannot be read as the name of a domain, as a shell takes it."""
    return shlex.quote(str(place) if len(place.parts) > 1 else f"./{place}")
