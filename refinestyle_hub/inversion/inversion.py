"""What an inversion finds: w+ and tokens of one picture, as a value and as one file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..boundary.paths import AnyPath, user_path
from ..config import Fingerprint, TokenSetConfig
from ..errors import ConfigError, ModelFileError, ShapeError
from ..faces.align import Crop
from ..faces.paste import paste_back
from ..hub.pretrained import Pretrained
from ..images import PictureSource, load_picture
from ..storage.atomic import write_folder
from ..storage.schema import config_to_json
from ..storage.tensors import encode_tensors, under
from ..tokens.token_set import TokenSet


__all__ = ["Inversion", "InversionConfig", "inversions"]


@dataclass(frozen=True)
class InversionConfig:
    """What the file says of itself."""

    codes: int  # L
    w_dim: int  # D
    base: Fingerprint | None = None  # the generator it was made for
    tokens: TokenSetConfig | None = None
    source_size: tuple[int, int] | None = None  # width and height of the photo; None: the picture was the crop
    crop_size: tuple[int, int] | None = None  # width and height of the crop, where the file holds it
    report: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.codes < 1 or self.w_dim < 1 or min(self.crop_size or (1, 1)) < 1:
            raise ConfigError("codes, w_dim and crop_size of an inversion must be at least 1.")


@dataclass(frozen=True, eq=False)
class Inversion(Pretrained):
    """A picture as a generator can draw it: ``generator(w_plus[None], tokens)``. An immutable value.

    Raises:
        ShapeError: A tensor has another shape than below.
    """

    w_plus: Tensor  # [L, D]
    tokens: TokenSet | None = None  # None: w+ alone
    crop: Tensor | None = None  # [H, W, 3] uint8, what was inverted
    quad: Tensor | None = None  # [4, 2], its corners in the photo, see ``align.Crop``; None: the picture was the crop
    source_size: tuple[int, int] | None = None  # width and height of the photo
    base: Fingerprint | None = None
    report: Mapping[str, Any] = field(default_factory=dict)  # metrics and how they were reached, see ``invert``

    stem = "inversion"
    config_class = InversionConfig

    def __post_init__(self) -> None:
        if not isinstance(self.w_plus, Tensor) or self.w_plus.dim() != 2:
            found = list(self.w_plus.shape) if isinstance(self.w_plus, Tensor) else type(self.w_plus).__name__
            raise ShapeError(f"w+ of an inversion is a tensor [L, D], not {found}.")
        if self.crop is not None and (self.crop.dim() != 3 or self.crop.shape[2] != 3):
            raise ShapeError(f"The crop of an inversion is [H, W, 3], not {list(self.crop.shape)}.")
        if self.quad is not None and self.quad.shape != (4, 2):
            raise ShapeError(f"The quad of an inversion is [4, 2], not {list(self.quad.shape)}.")
        if (self.quad is None) != (self.source_size is None):
            raise ShapeError("An inversion has both a quad and the size of its photo, or neither.")

    def save(self, path: AnyPath, *, crop: bool = False) -> None:
        """Write one ``.safetensors`` file, atomically and the same bytes every time.

        Args:
            path: The file, by custom ``inversion.safetensors``. Its folder is made when it does not exist.
            crop: Whether the file also holds the crop. Without it, a file holds no pixels of the photo.

        Raises:
            ModelFileError: The file has another suffix, or a value is not finite.
            SaveError: It cannot be written.
        """
        path = user_path(path)
        if path.suffix.lower() != ".safetensors":
            raise ModelFileError(f"An inversion is saved as a .safetensors file, not {path.name}.")
        kept = self if crop else replace(self, crop=None)
        content = encode_tensors(kept.state_dict(), config_to_json("Inversion", kept.config), torch.float32)
        write_folder(path.parent, {path.name: content})

    # --- The photo that it came from ---

    def in_photo(self, crop: Crop) -> Inversion:
        """Return the same inversion with the corners of its crop in the photo that the crop was cut from."""
        quad = None if crop.quad is None else torch.from_numpy(crop.quad).float()
        return replace(self, quad=quad, source_size=crop.source_size)

    def paste_back(self, picture: PictureSource, edited: Image.Image) -> Image.Image:
        """Lay an edited picture of the face back into the photo that it was found in; its transparency stays.

        Raises:
            PictureError: The photo cannot be read.
            ShapeError: The inversion is of an aligned crop, or of another photo.
        """
        photo = load_picture(picture, alpha=True)
        if self.quad is None or self.source_size is None:
            raise ShapeError(
                "This inversion is of an aligned crop: there is no photo to paste it back into.\n"
                "Draw it without pasting, or invert the whole photo."
            )
        if photo.size != self.source_size:
            found, given = (f"{width} x {height}" for width, height in (self.source_size, photo.size))
            raise ShapeError(
                f"The face was found in a photo of {found} pixels, this one has {given}.\n"
                "Name the photo that was inverted."
            )
        pasted = paste_back(photo.convert("RGB"), edited, self.quad.double().numpy())
        if photo.mode == "RGBA":
            pasted.putalpha(photo.getchannel("A"))
        return pasted

    # --- For ``from_pretrained``, which reads such a file ---

    @property
    def config(self) -> InversionConfig:
        """What the file says of itself."""
        codes, w_dim = self.w_plus.shape
        tokens = None if self.tokens is None else self.tokens.config
        crop_size = None if self.crop is None else (self.crop.shape[1], self.crop.shape[0])
        return InversionConfig(codes, w_dim, self.base, tokens, self.source_size, crop_size, dict(self.report))

    def state_dict(self) -> dict[str, Tensor]:
        """The tensors there are; those of the tokens as ``tokens.<layer>.<name>``."""
        named = {"w_plus": self.w_plus, "crop": self.crop, "quad": self.quad}
        if self.tokens is not None:
            named |= {f"tokens.{name}": tensor for name, tensor in self.tokens.state_dict().items()}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    @classmethod
    def template(cls, config: InversionConfig) -> dict[str, Tensor]:
        """Shapes of the tensors that belong to ``config``."""
        shapes = {"w_plus": torch.empty(config.codes, config.w_dim, device="meta")}
        if config.source_size is not None:
            shapes["quad"] = torch.empty(4, 2, device="meta")
        if config.crop_size is not None:
            width, height = config.crop_size
            shapes["crop"] = torch.empty(height, width, 3, dtype=torch.uint8, device="meta")
        if config.tokens is not None:
            shapes |= {f"tokens.{name}": shape for name, shape in TokenSet.template(config.tokens).items()}
        return shapes

    @classmethod
    def from_state(cls, config: InversionConfig, tensors: Mapping[str, Tensor]) -> Inversion:
        """Make an inversion from a checked config and its tensors."""
        return cls(
            tensors["w_plus"],
            None if config.tokens is None else TokenSet.from_state(config.tokens, under(tensors, "tokens.")),
            tensors.get("crop"),
            tensors.get("quad"),
            config.source_size,
            config.base,
            config.report,
        )


def inversions(faces: Inversion | Iterable[Inversion]) -> list[Inversion]:
    """One inversion or several as a list. Raises ShapeError for none, ConfigError for anything else."""
    found = [faces] if isinstance(faces, Inversion) or not isinstance(faces, Iterable) else list(faces)
    if not found:
        raise ShapeError("There is no face to draw: give one inversion or several.")
    if not all(isinstance(one, Inversion) for one in found):
        raise ConfigError("A face is an Inversion, which invert() finds and Inversion.from_pretrained() reads.")
    return found
