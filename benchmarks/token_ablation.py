"""What the open points of token sets do to an inversion: T, where residuals enter, their spatial part, the layers.

    python benchmarks/token_ablation.py mini-faces-128 --data portraits-128.zip --domains domains --out runs/ablation

One factor at a time. Every row starts at the encoder's w+ of the same pictures (portraits of the test split and
pictures of the few-shot sets) and takes the same number of steps on fresh tokens. No row is tuned for itself.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from refinestyle_hub.errors import ConfigError
from refinestyle_hub.evaluation.attributes import AttributeNet
from refinestyle_hub.evaluation.reconstruction import Method, distances, evaluate_inversion, table
from refinestyle_hub.images import from_uint8
from refinestyle_hub.inversion.optimise import invert
from refinestyle_hub.losses.perceptual import Perceptual
from refinestyle_hub.pipeline import RefineStylePipeline
from refinestyle_hub.storage.atomic import write_folder
from refinestyle_hub.storage.schema import dump_json
from refinestyle_hub.tokens.parameters import TokenParameters
from refinestyle_hub.train.dataset import open_pictures


DEFAULTS: dict[str, Any] = {"rank": 8, "residual": "post", "spatial": "scaled", "layers": "*.conv*"}
VARIANTS: dict[str, dict[str, Any]] = {
    "default: T = 8, post, scaled, all 3x3 layers": {},
    "T = 1": {"rank": 1},
    "T = 4": {"rank": 4},
    "T = 16": {"rank": 16},
    "pre": {"residual": "pre"},
    "broadcast": {"spatial": "broadcast"},
    "full": {"spatial": "full"},
    "3x3 and toRGB layers": {"layers": "*"},
    "3x3 layers from 16 px": {"layers": None},
}


def fine_layers(pipe: RefineStylePipeline, least: int = 16) -> tuple[str, ...]:
    """Names of the 3x3 layers of ``least`` pixels or more."""
    return tuple(x.name for x in pipe.generator.config.layers if x.role == "conv" and x.resolution >= least)


def method(pipe: RefineStylePipeline, name: str, options: Mapping[str, Any], steps: int) -> Method:
    """Steps on tokens of a kind, from the encoder's w+."""
    encoder, generator = pipe.encoder, pipe.generator
    if encoder is None:
        raise ConfigError("The model has no encoder to start from.")
    chosen = {**DEFAULTS, **options}
    chosen["layers"] = chosen["layers"] or fine_layers(pipe)

    def redraw(crop: Tensor) -> tuple[Tensor, int]:
        with torch.no_grad():
            w_plus = encoder.codes(crop)
        fresh = TokenParameters(generator.kernel_stats(), **chosen, rng=torch.Generator().manual_seed(0))
        start = [fresh.token_set(pipe.fingerprint).detach()]
        (found,) = invert(
            generator, crop, start=w_plus, start_tokens=start, token_steps=steps, perceptual=pipe.perceptual
        )
        with torch.no_grad():
            drawn = generator(found.w_plus[None], found.tokens)
        return drawn, found.tokens.num_values if found.tokens else 0

    return Method(name, redraw)


def pictures(args: argparse.Namespace, size: int) -> Tensor:
    """Half portraits, half of the few-shot sets where these are given: [N, 3, R, R]."""
    sets = [open_pictures(args.data, size, "test")]
    if args.domains:
        folders = sorted(path for path in args.domains.iterdir() if path.is_dir())
        sets += [open_pictures(folder, size, None) for folder in folders]
    found = []
    for n, some in zip([args.pictures, *[1] * (len(sets) - 1)], sets, strict=True):
        found.append(from_uint8(some.take(torch.linspace(0, len(some) - 1, n).long())))
    return torch.cat(found)


def main(argv: list[str] | None = None) -> None:
    """Read the arguments, measure, print the table, write ``ablation.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="bundled name or folder")
    parser.add_argument("--data", required=True, help="zip or folder of the portraits, with their splits")
    parser.add_argument("--domains", type=Path, help="folder of the few-shot sets: one picture of each is taken")
    parser.add_argument("--attributes", default="mini-faces-128", help="model with the attribute network")
    parser.add_argument("--pictures", type=int, default=4, help="portraits")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    args = parser.parse_args(argv)
    pipe = RefineStylePipeline.from_pretrained(args.model)
    size = pipe.generator.config.resolution
    by = distances(
        size, pipe.perceptual, Perceptual.load("st-lpips-vgg"), AttributeNet.from_pretrained(args.attributes)
    )
    crops = pictures(args, size)
    rows = evaluate_inversion([method(pipe, name, x, args.steps) for name, x in VARIANTS.items()], crops, by)
    write_folder(args.out, {"ablation.json": dump_json({"pictures": len(crops), "steps": args.steps, "rows": rows})})
    print(table(rows))


if __name__ == "__main__":
    main()
