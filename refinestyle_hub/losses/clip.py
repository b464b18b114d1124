"""Directional CLIP loss: the change from source to adapted picture points where a text, or reference pictures, say.

Gal et al., "StyleGAN-NADA: CLIP-Guided Domain Adaptation of Image Generators", SIGGRAPH 2022 (arXiv 2108.00946).
CLIP: Radford et al. 2021 (arXiv 2103.00020), through ``transformers``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..boundary.paths import AnyPath, is_clearly_path, user_path
from ..errors import ConfigError, ModelFileError, ModelNotFoundError, UnsupportedModelError
from ..runtime.optional import optional


if TYPE_CHECKING:
    from ..generators.base import Generator


__all__ = [
    "TEMPLATES",
    "Clip",
    "ClipDirection",
    "Preprocessing",
    "choose_layers",
    "directional_loss",
    "fill_templates",
    "picture_direction",
    "text_direction",
]

# One phrase says more of its own wording than of what it names; the mean over many does not.
TEMPLATES = (
    "{a} {x}.",
    "the {x}.",
    "a picture of {a} {x}.",
    "a picture of the {x}.",
    "an image that shows {a} {x}.",
    "{a} {x} seen from nearby.",
    "{a} {x} seen from afar.",
    "a bright view of {a} {x}.",
    "a dim view of {a} {x}.",
    "a sharp picture of {a} {x}.",
    "a blurred picture of {a} {x}.",
    "a tiny picture of {a} {x}.",
    "a detail of {a} {x}.",
    "a fine example of {a} {x}.",
    "a poor example of {a} {x}.",
    "this is {a} {x}.",
)
SMOOTHING = 0.01  # length of a change, in unit embeddings, below which its direction counts for less and less


# --- The network ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Preprocessing:
    """What a CLIP's image processor does to a picture, differentiably: resize the short side, crop, normalise."""

    short_side: int
    crop: int
    mean: tuple[float, ...]  # of pictures in [0, 1]
    std: tuple[float, ...]
    filter: str = "bicubic"

    @classmethod
    def of(cls, processor: Any) -> Preprocessing:
        """Read the steps of a ``CLIPImageProcessor``.

        Raises:
            UnsupportedModelError: It does something else to pictures.
        """
        settings = processor.to_dict()
        size, crop = settings["size"], settings["crop_size"]
        filters = {2: "bilinear", 3: "bicubic"}
        side = size.get("shortest_edge") or (size["height"] if size.get("height") == size.get("width") else None)
        usual = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")
        if (
            side is None
            or not all(settings[step] for step in usual)
            or not side >= crop["height"] == crop["width"]
            or int(settings["resample"]) not in filters
            or abs(settings["rescale_factor"] * 255 - 1) > 1e-6
        ):
            raise UnsupportedModelError(
                "The image processor of this CLIP is not of the usual kind (resize, square centre crop, normalise)."
            )
        mean, std = tuple(settings["image_mean"]), tuple(settings["image_std"])
        return cls(side, crop["height"], mean, std, filters[int(settings["resample"])])

    def __call__(self, pictures: Tensor) -> Tensor:  # [N, 3, H, W] in [-1, 1] -> [N, 3, crop, crop]
        height, width = pictures.shape[2:]
        short = min(height, width)
        size = (self.short_side * height // short, self.short_side * width // short)
        x = (pictures + 1) / 2
        if size != (height, width):
            x = F.interpolate(x, size, mode=self.filter, antialias=True)
        x = x.clamp(0, 1)  # the processor's pixels are 8-bit: bicubic overshoot is cut off
        top, left = (size[0] - self.crop) // 2, (size[1] - self.crop) // 2
        x = x[:, :, top : top + self.crop, left : left + self.crop]
        return (x - x.new_tensor(self.mean)[:, None, None]) / x.new_tensor(self.std)[:, None, None]


class Clip(nn.Module):
    """A frozen CLIP: pictures and texts -> unit embeddings in one space. Gradients reach the pictures."""

    def __init__(self, model: nn.Module, tokenizer: Any, preprocessing: Preprocessing, name: str = "") -> None:
        super().__init__()
        self.model: Any = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.preprocessing = preprocessing
        self.name = name

    @classmethod
    def load(cls, name_or_path: AnyPath) -> Clip:
        """A CLIP of ``transformers``: a folder, or a Hub id such as ``openai/clip-vit-base-patch32``.

        Only safetensors are read, never a pickle.

        Raises:
            MissingDependencyError: transformers is not installed.
            ModelNotFoundError: There is no such model, none of its files at hand while offline, or no safetensors
                among them.
            UnsupportedModelError: It is another kind of model.
            ModelFileError: Weights are missing.
        """
        transformers = optional("transformers", "A text objective", "refinestyle-hub[text]")
        folder = user_path(name_or_path)
        if is_clearly_path(name_or_path) and not folder.is_dir():
            raise ModelNotFoundError(
                f"There is no folder {folder} (looked from {Path.cwd()}), which a CLIP would be in."
            )
        name = str(folder) if folder.is_dir() else os.fspath(name_or_path)
        try:
            kind = transformers.AutoConfig.from_pretrained(name).model_type
            if kind != "clip":
                raise UnsupportedModelError(f"{name} is a model of type {kind!r}; a CLIP is needed.")
            loaded: Any = transformers.CLIPModel.from_pretrained(name, use_safetensors=True, output_loading_info=True)
            processor = transformers.CLIPProcessor.from_pretrained(name)
        except UnsupportedModelError:
            raise
        except (OSError, ValueError) as error:  # transformers has these two for all that can go wrong
            raise ModelNotFoundError(
                f"No CLIP can be loaded from {name!r} ({' '.join(str(error).split())[:200]}).\n"
                "Give a Hub id or a folder with config, safetensors weights, tokenizer and image processor."
            ) from error
        model, report = loaded
        if report["missing_keys"] or report["mismatched_keys"]:
            odd = ", ".join(sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))[:3])
            raise ModelFileError(f"The weights of {name} are incomplete: {odd} ...\nDownload or copy them again.")
        shown = folder.name if folder.is_dir() else name  # a domain tells its name, and no folder of this machine
        return cls(model, processor.tokenizer, Preprocessing.of(processor.image_processor), shown)

    def pictures(self, pictures: Tensor) -> Tensor:
        """Pictures ``[N, 3, H, W]`` in [-1, 1] -> unit embeddings ``[N, E]``."""
        found = self.model.vision_model(pixel_values=self.preprocessing(pictures.float()))
        return F.normalize(self.model.visual_projection(found.pooler_output), dim=1)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Texts -> unit embeddings ``[K, E]``; what exceeds the model's context is cut off."""
        length = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(list(texts), padding=True, truncation=True, max_length=length, return_tensors="pt")
        device = self.model.text_projection.weight.device
        found = self.model.text_model(
            input_ids=tokens["input_ids"].to(device), attention_mask=tokens["attention_mask"].to(device)
        )
        return F.normalize(self.model.text_projection(found.pooler_output), dim=1)


# --- Directions -----------------------------------------------------------------------------------------------------


def fill_templates(text: str, templates: Sequence[str] = TEMPLATES) -> list[str]:
    """A noun phrase in each template: ``{x}`` the phrase without its article, ``{a}`` "a" or "an".

    Raises:
        ConfigError: There is no text.
    """
    noun = re.sub(r"^(an?|the)\s+", "", " ".join(text.split()).rstrip(".")) if text.strip(" .") else ""
    if not noun:
        raise ConfigError("A text is needed that names the domain, such as 'a pencil sketch'.")
    article = "an" if noun[0].lower() in "aeiou" else "a"
    return [template.format(a=article, x=noun) for template in templates]


def text_direction(clip: Clip, source: str, target: str, templates: Sequence[str] = TEMPLATES) -> Tensor:
    """Unit direction ``[E]`` from one text to another, mean over the templates (the paper's dT).

    Raises:
        ConfigError: A text is empty, or both mean the same to this CLIP.
    """
    found = clip.texts([*fill_templates(source, templates), *fill_templates(target, templates)])  # [2 K, E]
    before, after = found.chunk(2)
    return _unit_direction(after.mean(0) - before.mean(0), f"{source!r} and {target!r}")


@torch.no_grad()
def picture_direction(clip: Clip, sources: Tensor, references: Tensor) -> Tensor:
    """Unit direction ``[E]`` from the mean of pictures ``[M, 3, H, W]`` to that of references ``[K, 3, H, W]``.

    The paper's image-guided variant: a few pictures take the place of the texts.
    """
    change = clip.pictures(references).mean(0) - clip.pictures(sources).mean(0)
    return _unit_direction(change, "the samples and the references")


def _unit_direction(change: Tensor, what: str) -> Tensor:
    length = float(change.norm())
    if not length > 1e-6:
        raise ConfigError(f"There is no direction between {what}: they are the same to this CLIP.")
    return change / length


# --- Losses ---------------------------------------------------------------------------------------------------------


def directional_loss(change: Tensor, direction: Tensor) -> Tensor:
    """``1 - cos(dI, dT)`` of each change of embeddings ``[N, E]`` against a unit direction ``[E]`` -> ``[N]``.

    Equation 3 of the paper. Adaptation begins without any change, where a cosine has no gradient to speak of and next
    to it a huge one; below a length of ``SMOOTHING`` a change therefore counts in proportion. Above, the loss is the
    paper's.
    """
    length = (change.square().sum(dim=1) + SMOOTHING**2).sqrt()
    return 1 - change @ direction / length


class ClipDirection(nn.Module):
    """The loss of one or several CLIPs, summed, on pairs of source and adapted pictures.

    Args:
        models: Each ``Clip`` with its unit direction ``[E]``.
        targets: For each, the unit embedding ``[E]`` of the text, for ``to_target``.
    """

    def __init__(self, models: Sequence[tuple[Clip, Tensor]], targets: Sequence[Tensor] = ()) -> None:
        super().__init__()
        if not models:
            raise ConfigError("A CLIP loss needs at least one CLIP.")
        self.clips = nn.ModuleList(clip for clip, _ in models)
        self.directions = nn.ParameterList(direction for _, direction in models).requires_grad_(False)
        self.targets = nn.ParameterList(targets).requires_grad_(False)

    @classmethod
    def from_text(
        cls, clips: Sequence[Clip], source: str, target: str, templates: Sequence[str] = TEMPLATES
    ) -> ClipDirection:
        """The loss from a text that names what the generator draws to one that names the domain."""
        pairs = [(clip, text_direction(clip, source, target, templates)) for clip in clips]
        targets = [F.normalize(clip.texts(fill_templates(target, templates)).mean(0), dim=0) for clip in clips]
        return cls(pairs, targets)

    @classmethod
    def from_pictures(cls, clips: Sequence[Clip], sources: Tensor, references: Tensor) -> ClipDirection:
        """The loss from samples of the generator ``[M, 3, H, W]`` to reference pictures ``[K, 3, H, W]``."""
        return cls([(clip, picture_direction(clip, sources, references)) for clip in clips])

    def forward(self, source: Tensor, adapted: Tensor) -> Tensor:
        """Pairs of pictures ``[N, 3, H, W]`` in [-1, 1] -> loss ``[N]``; gradients reach ``adapted`` alone."""
        total = adapted.new_zeros(len(adapted))
        for clip, direction in zip(self.clips, self.directions, strict=True):
            assert isinstance(clip, Clip)
            with torch.no_grad():
                before = clip.pictures(source)
            total = total + directional_loss(clip.pictures(adapted) - before, direction)
        return total

    def to_target(self, pictures: Tensor) -> Tensor:
        """Distance ``[N]`` of pictures ``[N, 3, H, W]`` to the text of ``from_text``: the paper's global loss."""
        pairs = zip(self.clips, self.targets, strict=True)
        return torch.stack([1 - clip.pictures(pictures) @ target for clip, target in pairs]).sum(dim=0)  # type: ignore[operator]


# --- Layers ---------------------------------------------------------------------------------------------------------


def choose_layers(
    generator: Generator, loss: Callable[[Tensor], Tensor], w_plus: Tensor, codes: int
) -> tuple[str, ...]:
    """The layers that a domain should change: those whose w+ codes a loss moves most (section 4).

    The published setting takes one step of gradient descent on the codes of some samples and keeps those that went
    furthest; one step goes in proportion to the gradient, so that is what ranks them here.

    Args:
        loss: Takes pictures ``[N, 3, R, R]`` and returns ``[N]``, such as ``ClipDirection.to_target``.
        w_plus: The codes of some samples, ``[N, L, D]``.
        codes: How many of the L codes to keep: all for styles of colour and texture, about two thirds for shape.

    Returns:
        Names of the layers that read one of these codes, coarse to fine.
    """
    if not 1 <= codes <= w_plus.shape[1]:
        raise ConfigError(f"The generator has {w_plus.shape[1]} codes: {codes} of them cannot be chosen.")
    w_plus = w_plus.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(generator(w_plus)).sum(), w_plus)
    moved = gradient.abs().mean(dim=(0, 2))  # [L]
    kept = set(moved.topk(codes).indices.tolist())
    return tuple(name for name, spec in generator.layers.items() if spec.code in kept)
