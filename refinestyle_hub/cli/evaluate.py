"""``refinestyle evaluate``: how good a result is, measured against pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..boundary.paths import user_path
from ..errors import counted
from . import console
from .arguments import Aligned, Device, EncoderPlace, Model, Seed, load, with_encoder


if TYPE_CHECKING:
    from ..pipeline import RefineStylePipeline
    from ..tokens.token_set import TokenSet


__all__ = ["evaluate"]

Attributes = Annotated[str, typer.Option(help="Model with an attribute network: bundled name, folder or Hub id.")]
evaluate = typer.Typer(no_args_is_help=True, help="Measure what was made against pictures.")


@evaluate.command("domain")
def domain(
    model: Model,
    domain: Annotated[
        str, typer.Argument(help="One of the model's domains, a folder, file or Hub id.", metavar="DOMAIN")
    ],
    true: Annotated[str, typer.Option("--true", help="Pictures of the style, framed as the samples: folder or zip.")],
    references: Annotated[
        str | None, typer.Option(help="The pictures it was made from: diversity is measured around them.")
    ] = None,
    samples: Annotated[int, typer.Option(min=2, help="How many to draw.")] = 500,
    faces: Annotated[int, typer.Option(min=0, help="Of how many to compare landmarks.")] = 100,
    seed: Seed = 0,
    trunc: Annotated[float, typer.Option(help="Truncation: 1 as drawn, 0 the mean face.")] = 1.0,
    attributes: Attributes = "mini-faces-128",
    card: Annotated[bool, typer.Option("--card", help="Also write the metrics into the folder's card.json.")] = False,
    device: Device = "cpu",
    as_json: console.AsJson = False,
) -> None:
    """Say how near the samples of a domain come to true pictures, how diverse they stay, and what drifted."""
    if card and not user_path(domain).is_dir():
        raise typer.BadParameter("The card is in the folder of a domain: name that folder.", param_hint="--card")
    pipe = load(model, device)
    tokens = find_domain(pipe, domain, elsewhere=card)
    from ..evaluation.attributes import AttributeNet
    from ..evaluation.domain import CLUSTERS, MetricNets, evaluate_domain
    from ..images import from_uint8
    from ..train.dataset import open_pictures

    trunk = None if pipe.encoder is None else pipe.encoder.first.backbone
    nets = MetricNets(AttributeNet.from_pretrained(attributes).to(device), pipe.discriminator, pipe.perceptual, trunk)
    size = pipe.generator.config.resolution
    pictures = open_pictures(true, size, None)
    around = None
    if references is not None:
        known = open_pictures(references, size, None)
        around = from_uint8(known.take(range(min(len(known), CLUSTERS)))).to(device)
    with console.progress("samples", samples) as tick:
        report = evaluate_domain(
            pipe.generator,
            tokens,
            [from_uint8(pictures[i]) for i in range(len(pictures))],
            nets,
            samples=samples,
            truncation=trunc,
            seed=seed,
            references=around,
            faces=faces,
            on_batch=lambda done, total: tick(done, {}),
        )
    if card:
        _write_card(user_path(domain), report, f"{user_path(true).stem}, {counted(len(pictures), 'picture')}")
    console.emit({"model": model, "domain": domain, **report}, _table(report), as_json)


@evaluate.command("inversion")
def inversion(
    model: Model,
    pictures: Annotated[list[Path], typer.Argument(help="Pictures of faces, or folders of them.", metavar="PICTURES")],
    out: Annotated[
        Path, typer.Option("--out", file_okay=False, help="Folder for the figures. Those found in it are kept.")
    ],
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of optimisation; by default 50 after an encoder, 270 without.")
    ] = None,
    compare: Annotated[
        bool, typer.Option("--baselines/--no-baselines", help="Also w+ optimisation and PTI, minutes a picture.")
    ] = True,
    aligned: Aligned = False,
    encoder: EncoderPlace = None,
    attributes: Annotated[
        str | None, typer.Option(help="Compare what this model's attribute network reads, and not the identity.")
    ] = None,
    device: Device = "cpu",
    as_json: console.AsJson = False,
) -> None:
    """Measure how near a model's inversions come to pictures, and compare them with published optimisations.

    The row of each method is printed as it is measured. Ctrl-C keeps what is measured; the same command continues.
    """
    from ..evaluation.attributes import AttributeNet
    from ..evaluation.reconstruction import (
        LEGEND,
        baselines,
        by_content,
        distances,
        evaluate_kept,
        head,
        line,
        our_methods,
        setup,
    )
    from ..evaluation.record import Record
    from ..faces.photo import read_crops
    from ..losses.perceptual import Perceptual

    pipe = with_encoder(load(model, device), encoder)
    net = None if attributes is None else AttributeNet.from_pretrained(attributes).to(device)
    unseen = Perceptual.load("st-lpips-vgg").to(device)
    by = distances(pipe.generator.config.resolution, pipe.perceptual, unseen, net, identity=net is None)
    record = Record(out / "inversion.json", setup(pipe, by, net))
    crops, skipped = read_crops(pictures, pipe.generator.config.resolution, aligned=aligned)
    named = {name: crop.to(device) for name, crop in by_content(crops).items()}
    methods = our_methods(pipe, None if steps is None else [steps]) + (baselines(pipe) if compare else [])
    for name, why in skipped.items():
        console.say(f"skipped {name}: {why.splitlines()[0]}", as_json)
    if known := sum(len(record.rows(method.name).keys() & named.keys()) for method in methods):
        console.note(f"{known} of {counted(len(methods) * len(named), 'inversion')} were measured before")
    columns, rows = [*by, "seconds"], []
    console.say(head(columns), as_json)
    try:
        for method in methods:
            with console.progress(method.name, len(named)) as tick:
                rows.append(evaluate_kept(method, named, by, record, lambda done: tick(done, {})))
            console.say(line(rows[-1], columns), as_json)
    except KeyboardInterrupt:
        console.note(f"stopped; what is measured is in {out}; the same command continues")
        raise
    report = {"model": model, "pictures": len(named), "skipped": skipped, "rows": rows}
    console.emit(report, f"\n{LEGEND}", as_json)


def find_domain(pipe: RefineStylePipeline, name: str, elsewhere: bool) -> TokenSet:
    """The domain of that name. ``elsewhere``: it is a folder, whatever domains and bundled models are called."""
    from ..hub.search import is_own
    from ..storage.fingerprint import check_base
    from ..tokens.token_set import TokenSet

    if not elsewhere and is_own(name, pipe.domains):
        return pipe.domains[name]
    tokens = TokenSet.from_pretrained(user_path(name) if elsewhere else name)
    if tokens.base is not None:
        check_base(tokens.base, pipe.fingerprint, what=f"The domain {name!r}")
    return tokens


def _write_card(folder: Path, report: dict[str, Any], dataset: str) -> None:
    from ..cards.facts import FACTS, dump_card, read_card
    from ..evaluation.domain import card_metrics
    from ..storage.atomic import write_folder
    from ..storage.model_folder import Folder

    measured = card_metrics(report, dataset, "refinestyle evaluate domain")
    names = {metric.name for metric in measured}
    known = read_card(Folder(folder))
    kept = tuple(metric for metric in known.metrics if metric.name not in names)
    write_folder(folder, {FACTS: dump_card(replace(known, metrics=(*kept, *measured)))})


def _table(report: dict[str, Any]) -> str:
    """The report for people."""
    from ..evaluation.domain import FEATURES

    lines = []
    for name in FEATURES:
        if (part := report[name]) is not None:
            kernel = f"kernel x1000 {part['kernel_x1000']:.1f} +- {part['kernel_x1000_std']:.1f}"
            closed = "" if part["gap_closed"] is None else f", {part['gap_closed']:.0%} of the gap closed"
            before = f"before {part['before_kernel_x1000']:.1f}{closed}"
            lines.append(f"{name.replace('_', ' ')}: {kernel} ({before}); Frechet {part['frechet']:.2f}")
    if (part := report["diversity"]) is not None:
        clusters = counted(sum(count > 1 for count in part["clusters"]), "cluster")
        lines.append(
            f"diversity: {part['intra_perceptual']:.3f} {part['perceptual']} within {clusters} around {part['around']}"
        )
    if (part := report["landmarks"]) is not None:
        drift = "none measured" if part["drift"] is None else f"{part['drift']:.3f} distances between the eyes"
        lines.append(f"landmark drift: {drift}, in {part['share']:.0%} of {counted(part['pictures'], 'picture')}")
        if part["identity"] is not None:
            lines.append(f"identity distance: {part['identity']:.3f} (dlib; under 0.6 likely one person)")
    if (part := report["attributes"]) is not None and part["content_deviations"] is not None:
        drift = f"{part['content_deviations']:.2f} standard deviations"
        lines.append(f"drift of pose and expression: {drift}, in {part['share']:.0%} of the readings")
    seconds = report["seconds"]
    lines.append(
        f"{report['bytes'] / 1e3:.1f} KB, {report['values']:,} numbers ({report['share_of_generator']:.2%} of the "
        f"generator), {report['training_bytes'] / 1e3:.0f} KB of gradients and moments to learn them; "
        f"{1e3 * seconds['picture']:.1f} ms a picture, {1e3 * seconds['plain_picture']:.1f} without"
    )
    return "\n".join([*lines, *(f"note: {note}" for note in report["notes"])])
