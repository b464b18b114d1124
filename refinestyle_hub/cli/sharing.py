"""``refinestyle push`` and ``domains``."""

from __future__ import annotations

import shlex
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import counted
from . import console
from .arguments import Model, check_no_model, load, load_domains, parse_domains
from .domain_card import PREVIEW, save_preview, shown, write_card


if TYPE_CHECKING:
    from ..config import Fingerprint


__all__ = ["domains", "push"]

domains = typer.Typer(no_args_is_help=True, help="Find domains on the Hub, read about one, keep a copy; mix several.")


def push(
    folder: Annotated[Path, typer.Argument(help="A saved model, part or domain.", metavar="DIR")],
    repo: Annotated[str, typer.Argument(help="ORG/NAME on the Hub; made if it does not exist.", metavar="REPO")],
    license_id: Annotated[str | None, typer.Option("--license", help="An id of the Hub's list, or 'other'.")] = None,
    license_name: Annotated[str | None, typer.Option(help="With --license other: what it is called.")] = None,
    license_link: Annotated[str | None, typer.Option(help="With --license other: where it can be read.")] = None,
    base_model: Annotated[str | None, typer.Option(help="The generator it is for: Hub id or bundled name.")] = None,
    private: Annotated[bool, typer.Option("--private", help="A new repo is seen by its owners only.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch to commit to; made if there is none.")] = None,
    create_pr: Annotated[bool, typer.Option("--pr", help="Open a pull request instead.")] = False,
    as_json: console.AsJson = False,
) -> None:
    """Upload a folder as one commit, with its model card, which is checked first.

    What is given here goes before what card.json says, the folder's or, if it has none, the repo's.
    """
    from ..hub.push import push_folder

    facts = {"license": license_id, "license_name": license_name, "license_link": license_link}
    facts = {key: value for key, value in {**facts, "base_model": base_model}.items() if value is not None}
    address = push_folder(folder, repo, facts=facts, private=private or None, revision=revision, create_pr=create_pr)
    console.emit({"commit": address}, address, as_json)


@domains.command("list")
def find(
    base: Annotated[str, typer.Option(help="Generator: bundled name, folder or Hub id.")],
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many at most.")] = 50,
    as_json: console.AsJson = False,
) -> None:
    """Domains on the Hub that were made for a generator, most downloaded first."""
    from ..hub.search import find_domains

    found = find_domains(_fingerprint(base), limit=limit)
    lines = [f"{d.repo_id}  {d.license or 'no licence stated'}  {counted(d.downloads, 'download')}" for d in found]
    console.emit({"domains": [asdict(d) for d in found]}, "\n".join(lines) or "none found", as_json)


@domains.command("info")
def info(
    domain: Annotated[str, typer.Argument(help="Hub id, folder or .safetensors file.", metavar="DOMAIN")],
    base: Annotated[str | None, typer.Option(help="Also say whether it fits this generator.")] = None,
    subfolder: Annotated[str, typer.Option(help="Of a model that holds several, such as domains/sketch.")] = "",
    revision: Annotated[str | None, typer.Option(help="Commit, tag or branch.")] = None,
    as_json: console.AsJson = False,
) -> None:
    """What a domain says of itself; its tokens are not read."""
    from ..hub.search import domain_info

    wanted = None if base is None else _fingerprint(base)
    found = domain_info(domain, subfolder=subfolder, base=wanted, revision=revision)
    lines = [
        f"{found.title}  ({found.source})" if found.title else found.source,
        f"licence  {found.license or 'not stated'}",
        f"made for {found.base.architecture if found.base else 'not stated'}"
        + ("" if found.fits is None else f", {'fits' if found.fits else 'does not fit'} {base}"),
        f"tokens   {found.tokens} in {counted(len(found.layers), 'layer')}",
    ]
    console.emit(asdict(found), "\n".join([*lines, *filter(None, [found.summary])]), as_json)


@domains.command("mix")
def mix(
    model: Model,
    parts: Annotated[
        list[str],
        typer.Argument(help="NAME, folder, file or Hub id, with =STRENGTH if it is not 1.", metavar="DOMAINS"),
    ],
    out: Annotated[Path, typer.Option("--out", file_okay=False, help="Folder of the new domain.")],
    name: Annotated[str, typer.Option(help="What the new domain is called.")] = "",
    rank: Annotated[
        int | None,
        typer.Option(min=1, help="T, tokens per layer, to which it is compressed; by default all are kept."),
    ] = None,
    as_json: console.AsJson = False,
) -> None:
    """Save a mix of domains as a new one. With --rank it is as small and as quick as one; the error is reported.

    A single domain can be scaled and compressed in the same way.
    """
    wanted = parse_domains(parts)
    check_no_model(out)
    pipe = load(model, "cpu")
    from ..tokens.token_set import TokenSet

    sets = [(pipe.domain(domain), strength) for domain, strength in load_domains(pipe, wanted).items()]
    mixed = TokenSet.mix(sets)
    if not mixed.layers:
        raise typer.BadParameter("These strengths leave nothing of the domains.", param_hint="DOMAINS")
    errors: dict[str, float] = {}
    if rank is not None:
        mixed, errors = mixed.compress(rank)
    if name:
        mixed = replace(mixed, metadata={**mixed.metadata, "name": name})
    mixed.save_pretrained(out)
    save_preview(pipe, mixed, out / PREVIEW)
    words = [
        "refinestyle",
        "domains",
        "mix",
        "MODEL",
        *(f"{shown(part) or 'DOMAIN'}={wanted[part]:g}" for part in wanted),
    ]
    words += ["--out", "FOLDER", *(["--name", name] if name else []), *(["--rank", str(rank)] if rank else [])]
    worst = max(errors.values(), default=0.0)
    tokens = max(layer.rank for layer in mixed.layers.values())
    limit = (
        f"Compressed to {counted(tokens, 'token')} a layer; the relative error of the kernels is {worst:.3f} at most."
    )
    write_card(out, mixed.metadata, model, shlex.join(words), limits=(limit,) if worst else ())
    report = {"folder": str(out), "parts": wanted, "tokens": tokens, "values": mixed.num_values, "errors": errors}
    told = f", relative error of the kernels {worst:.3f} at most" if errors else ""
    console.emit(report, f"{counted(tokens, 'token')} a layer, {mixed.num_values:,} numbers in {out}{told}", as_json)


@domains.command("download")
def download(
    domain: Annotated[str, typer.Argument(help="Hub id, folder or .safetensors file.", metavar="DOMAIN")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the copy.")],
    subfolder: Annotated[str, typer.Option(help="Of a model that holds several, such as domains/sketch.")] = "",
    revision: Annotated[str | None, typer.Option(help="Commit, tag or branch.")] = None,
    as_json: console.AsJson = False,
) -> None:
    """Keep a copy of a domain and its card. The file of a domain becomes a folder, as push takes it."""
    from ..hub.search import download as copy
    from ..tokens.token_set import TokenSet

    tokens = copy(TokenSet, domain, out, subfolder=subfolder, revision=revision)
    report = {"folder": str(out), "layers": list(tokens.layers), "values": tokens.num_values}
    console.emit(report, f"{tokens.num_values:,} numbers in {out}", as_json)


def _fingerprint(generator: str) -> Fingerprint:
    from ..generators.base import Generator

    return Generator.from_pretrained(generator).fingerprint()
