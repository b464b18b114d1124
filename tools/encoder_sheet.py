"""Draw the picture of an encoder's card: people, what the encoder makes of them, and what steps add.

    python tools/encoder_sheet.py ffhq-1024 --out model_cards/ffhq-1024-encoder.png

The first row has the demo's example and people that the generator drew, the second what the encoder's w+ draws, the
third the same with its tokens, the last after steps. Nobody else's photo is on it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F

from refinestyle_hub.faces.photo import read_photo
from refinestyle_hub.images import contact_sheet, save_png, to_images, to_tensor
from refinestyle_hub.pipeline import RefineStylePipeline


EXAMPLE = Path(__file__).parent.parent / "space" / "examples" / "astronaut.jpg"


@torch.no_grad()
def main() -> None:
    """Read the arguments, invert, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="bundled name or folder")
    parser.add_argument("--seeds", default="9300001,9300002,9300003", help="of the people that are drawn")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--side", type=int, default=256, help="pixels of each picture")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    pipe = RefineStylePipeline.from_pretrained(args.model)
    size = pipe.generator.config.resolution
    drawn = pipe.generate([int(seed) for seed in args.seeds.split(",")], truncation=0.8, output_type="pt")
    crops = torch.cat([to_tensor(read_photo(EXAMPLE).crop(size).image), drawn])
    rows = [crops]
    for steps, tokens in ((0, False), (0, True), (args.steps, True)):
        found = [pipe.invert_crops(crop, steps=steps, tokens=tokens)[0] for crop in crops.split(1)]
        rows.append(pipe.render(found, output_type="pt"))
    pictures = [to_images(F.interpolate(row, (args.side, args.side), mode="area")) for row in rows]
    save_png(contact_sheet([picture for row in pictures for picture in row], len(crops)), args.out)


if __name__ == "__main__":
    main()
