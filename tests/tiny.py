"""Small real models and tokens for tests."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from refinestyle_hub.config import StyleGAN2Config
from refinestyle_hub.encoder.encoder import Encoder
from refinestyle_hub.evaluation.attributes import AttributeConfig, AttributeNet
from refinestyle_hub.generators.base import Generator
from refinestyle_hub.generators.stylegan2 import StyleGAN2Generator
from refinestyle_hub.tokens.layer_tokens import LayerTokens
from refinestyle_hub.tokens.modulated_conv import Residual, residual_kernel
from refinestyle_hub.tokens.token_set import TokenSet


TINY = StyleGAN2Config(resolution=32, z_dim=16, w_dim=16, mapping_layers=2, channels={4: 12, 8: 12, 16: 10, 32: 8})


def randomise(module: nn.Module, seed: int = 0) -> None:
    """Give every parameter and buffer that starts at a constant a value of its own."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, x in [*module.named_parameters(), *module.named_buffers()]:
            if name.endswith(("bias", "noise_strength", "w_avg")):
                x.add_(torch.randn(x.shape, generator=rng) * 0.3)


def tiny_generator(seed: int = 0, config: StyleGAN2Config = TINY) -> Generator:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        generator = StyleGAN2Generator(config).eval().requires_grad_(False)
    randomise(generator, seed)
    return generator


def tiny_encoder(generator: Generator) -> Encoder:
    """An encoder whose answers depend on the image."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = Encoder.for_generator(generator, widths=(8, 8, 8, 16), width=16, heads=2, depth=1, rank=2).eval()
        with torch.no_grad():
            for p in encoder.parameters():
                p.add_(0.1 * torch.randn(p.shape))
    return encoder


def layer_tokens(
    rng: torch.Generator, rank: int, inputs: int, outputs: int, kernel: int, spatial: str = "scaled",
    residual: str = "post", bias: bool = False,
) -> LayerTokens:  # fmt: skip
    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng)

    flags = {"post": torch.zeros(rank), "pre": torch.ones(rank), "mixed": torch.arange(rank) % 2}[residual]
    return LayerTokens(
        p=0.4 * randn(rank, outputs),
        q=randn(rank, inputs, *((kernel, kernel) if spatial == "full" else ())) / inputs**0.5,
        a=randn(rank, kernel, kernel) if spatial == "scaled" else None,
        pre=flags.bool(),
        bias=0.2 * randn(outputs) if bias else None,
    )


def token_set(
    seed: int = 0, rank: int = 3, spatial: str = "scaled", residual: str = "post", bias: bool = False,
    config: StyleGAN2Config = TINY, layers: str = "",
) -> TokenSet:  # fmt: skip
    """Random tokens for the layers whose names contain ``layers``."""
    rng = torch.Generator().manual_seed(seed)
    return TokenSet(
        {
            spec.name: layer_tokens(rng, rank, spec.inputs, spec.outputs, spec.kernel, spatial, residual, bias)
            for spec in config.layers
            if layers in spec.name
        }
    )


def dense(tokens: TokenSet, layer: str) -> Tensor:
    """Kernel residual dW [O, I, k, k] of a layer, before any modulation."""
    return residual_kernel(tokens.layers[layer].shared(), 1 if layer.endswith("torgb") else 3)[0]


def stacked(parts: list[LayerTokens], strength: Tensor | None = None) -> Residual:
    """Tokens of the samples of a batch, all of one shape."""

    def stack(name: str) -> Tensor | None:
        values = [getattr(part, name) for part in parts]
        return None if values[0] is None else torch.stack(values)

    return Residual(*(stack(name) for name in ("p", "q", "a", "pre", "bias")), strength)  # type: ignore[arg-type]


def attribute_net() -> AttributeNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = AttributeConfig(
            names=("yaw", "smile", "glasses", "jawOpen"),
            num_attributes=3,
            mean=(3.0, 0.5, 0.1, 0.5),
            std=(10.0, 0.3, 0.3, 0.2),
            hair_styles=("afro", "bob"),
            resolution=32,
            widths=(16, 16, 16, 16),
            features=16,
        )
        return AttributeNet(config).eval().requires_grad_(False)


MILD = {4: 8, 8: 8, 16: 8}  # channels of a generator of 16 px


def mild_generator(resolution: int = 16) -> Generator:
    """A generator whose pictures lie within [-1, 1], as those of a trained one do."""
    channels = MILD if resolution == 16 else {**MILD, 32: 4}
    generator = tiny_generator(config=StyleGAN2Config(resolution, 8, 8, 2, channels))
    with torch.no_grad():
        for r in channels:
            generator.layer(f"b{r}.torgb").weight *= 0.15
        z = torch.randn(500, 8, generator=torch.Generator().manual_seed(0))
        generator.mean_latent.copy_(generator.mapping(z).mean(dim=0))
    return generator


def faces(n: int = 4) -> Tensor:
    """Pictures [n, 3, 16, 16] that the mild generator draws."""
    generator = mild_generator()
    with torch.no_grad():
        return generator(generator.map(torch.randn(n, 8, generator=torch.Generator().manual_seed(1)))).clamp(-1, 1)


def latent(n: int, seed: int = 0, config: StyleGAN2Config = TINY) -> Tensor:
    """w+ with codes that all differ."""
    return torch.randn(n, config.num_ws, config.w_dim, generator=torch.Generator().manual_seed(seed))


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())
