"""Make the encoder folder of ffhq-1024 from the parts of a training run on an accelerator.

    python tools/ffhq_encoder.py runs/encoder --model ffhq-1024 --out refinestyle_hub/pretrained/ffhq-1024/encoder

The run is the first one, whose code named some tensors otherwise. Its second stage worked on kernels with the
demodulation d folded in, and on wavelet bands in the published order: ``--tokens`` keeps it, with P in our terms.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from refinestyle_hub.config import EncoderConfig, EncoderNetwork
from refinestyle_hub.encoder.encoder import Encoder
from refinestyle_hub.generators.base import Generator


RENAMED = {
    ".tokens.": ".token_heads.",
    ".codes.": ".code_heads.",
    ".memory.": ".memory_norm.",
    ".own.": ".self_attn.",
    ".cross.": ".cross_attn.",
    ".feed.": ".mlp.",
}
NETWORK = EncoderNetwork(
    stages="one",
    size=256,
    backbone="tf_efficientnet_lite0",
    strides=(8, 16, 32),
    width=256,
    depth=2,
    heads=4,
    rank=8,
    layers=(),
)
TOKEN_LAYERS = ("b16.*", "b32.*", "b64.*", "b128.*", "b256.*")


def read_parts(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint in fp32, under our names."""
    state: dict[str, Tensor] = {}
    for part in sorted(folder.glob("part-*.safetensors")):
        for name, tensor in load_file(part).items():
            for before, after in RENAMED.items():
                name = name.replace(before, after)  # noqa: PLW2901
            state[name] = tensor.float() if tensor.is_floating_point() else tensor
    return state


def published_bands(channels: int) -> Tensor:
    """Where our order of wavelet bands (LL, HL, LH, HH) finds its channels in theirs: LL, then [C, (LH, HL, HH)]."""
    own = torch.arange(channels // 4)
    return torch.cat([own, len(own) + 3 * own + 1, len(own) + 3 * own, len(own) + 3 * own + 2])


def in_our_terms(state: dict[str, Tensor], encoder: Encoder, generator: Generator) -> dict[str, Tensor]:
    """The second stage, whose P was in units of d W s, with P divided by d of each output channel."""
    state, last = dict(state), max(spec.resolution for spec in generator.config.layers)
    for name, module in encoder.named_modules():
        if not name.startswith("second.") or not hasattr(module, "unit"):
            continue
        spec = module.spec
        demodulation = generator.layer(spec.name).demodulation
        assert isinstance(demodulation, Tensor)
        order = torch.arange(spec.outputs)
        if spec.name.endswith("conv1") and spec.resolution < last:  # an inverse wavelet follows
            order = published_bands(spec.outputs)
        for part in (f"{name}.p.weight", f"{name}.p.bias"):
            rows = state[part][order]
            state[part] = rows / demodulation.detach().view(-1, *[1] * (rows.ndim - 1))
    return state


def build(parts: Path, generator: Generator, tokens: bool) -> Encoder:
    """The encoder of a checkpoint: w+ alone, or both stages."""
    network = NETWORK
    if tokens:
        network = EncoderNetwork(**(vars(NETWORK) | {"stages": "two", "layers": TOKEN_LAYERS}))
    config = EncoderConfig(generator.config.shape, network, generator.fingerprint())
    state = read_parts(parts)
    state.pop("inverse")  # that of the basis
    if not tokens:
        state = {name: tensor for name, tensor in state.items() if not name.startswith("second.")}
    encoder = Encoder(config)
    if tokens:
        state = in_our_terms(state, encoder, generator)
    encoder.load_state_dict(state)
    return encoder.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", type=Path, help="folder of part-*.safetensors")
    parser.add_argument("--model", default="ffhq-1024", help="that has the generator")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokens", action="store_true", help="keep the second stage")
    args = parser.parse_args()
    encoder = build(args.parts, Generator.from_pretrained(args.model), args.tokens)
    encoder.save_pretrained(args.out, "fp16")
    size = sum(path.stat().st_size for path in args.out.glob("*.safetensors")) / 1e6
    print(f"{args.out}: {sum(p.numel() for p in encoder.parameters()) / 1e6:.1f} M parameters, {size:.1f} MB")


if __name__ == "__main__":
    main()
