"""What a face shows, in numbers: the labels that directions are fitted to, and the measure of edits.

Pictures are FFHQ-aligned, 256 px. Networks read age, gender and expression, a mesh of 468 points gives pose and shape,
and colours come from regions that the mesh and a mask of the person bound. Features of an ImageNet network are there
for heads that are trained on labels by eye (``heads.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np
import timm
import torch
import torch.nn.functional as F
from face_api import EXPRESSIONS, AgeGender, Expression
from graph_model import GraphModel
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from torch import Tensor


__all__ = ["SIZE", "Readings"]

Floats: TypeAlias = NDArray[np.float64]

SIZE = 256
MESH_CROP = (26, 41, 205)  # left, top, side of what the mesh network looks at, in pixels of 256
FACE_CROP = (54, 84, 149)  # of what the networks of age, gender and expression look at
MAPS = 128  # pixels of the masks
OVAL = (10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152, 148, 176, 149,
        150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109)  # fmt: skip
CHEEKS = ((117, 118, 101, 36, 205, 187, 123), (346, 347, 330, 266, 425, 411, 352))  # image left, image right
LIPS = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146)
FOREHEAD = (67, 109, 10, 338, 297, 299, 9, 69)


class Readings:
    """Reads pictures. Holds the networks; ``names`` are what it reads."""

    def __init__(self, face_api: Path, human: Path, backbone: Path) -> None:
        """Folders ``model`` of face-api and ``models`` of human-models, and EfficientNet-Lite0 in timm's names."""
        self.age_gender = AgeGender(face_api)
        self.expression = Expression(face_api)
        self.mesh = GraphModel(human / "facemesh.json")
        self.person = GraphModel(human / "selfie.json")
        self.backbone = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(3, 4)).eval()
        self.backbone.load_state_dict(load_file(backbone), strict=False)
        self.backbone.requires_grad_(False)

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> tuple[dict[str, Floats], NDArray[np.float16]]:
        """Pictures [N, 3, 256, 256], 0..255 -> readings by name, each [N], and features [N, F]."""
        found, mesh, features = self.smooth(pictures)
        readings = {name: values.double().numpy() for name, values in found.items()}
        person = self.mask(pictures)
        rows = [_colours(*one) for one in zip(pictures, mesh.numpy(), person, strict=True)]
        readings |= {name: np.array([row[name] for row in rows]) for name in rows[0]}
        return readings, features.half().numpy()

    def smooth(self, pictures: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """What has gradients: readings but those of colours, each [N], the mesh [N, 468, 3] and features [N, F]."""
        face = _cut(pictures, FACE_CROP)
        age, gender = self.age_gender(face)
        expressions = self.expression(face)
        found = {"age": age, "gender": gender}
        found |= {f"expression_{name}": expressions[:, i] for i, name in enumerate(EXPRESSIONS)}
        mesh = self.points(pictures)
        return found | _shape(mesh), mesh, self.features(pictures)

    def points(self, pictures: Tensor) -> Tensor:
        """The mesh [N, 468, 3] in pixels of the picture, depth in the same unit."""
        left, top, side = MESH_CROP
        crop = F.interpolate(_cut(pictures, MESH_CROP), (192, 192), mode="bilinear", antialias=True)
        outputs = self.mesh(crop.permute(0, 2, 3, 1) / 255)
        mesh = next(value for value in outputs.values() if value.numel() == len(pictures) * 1404)
        points = mesh.reshape(len(pictures), 468, 3).double() * (side / 192)
        return points + points.new_tensor([left, top, 0.0])

    def mask(self, pictures: Tensor) -> Floats:
        """How much each pixel belongs to the person, [N, 128, 128]."""
        (mask,) = self.person(pictures.permute(0, 2, 3, 1) / 255).values()
        return F.interpolate(mask.permute(0, 3, 1, 2), (MAPS, MAPS), mode="area")[:, 0].double().numpy()

    def features(self, pictures: Tensor) -> Tensor:
        """Two maps of the backbone, each pooled to 4 x 4 cells, [N, 16 * (112 + 320)]."""
        x = F.interpolate(pictures, (192, 192), mode="bilinear", antialias=True)
        maps = self.backbone((x - 127.5) / 127.5)
        return torch.cat([F.adaptive_avg_pool2d(one, 4).flatten(1) for one in maps], dim=1)


def _cut(pictures: Tensor, crop: tuple[int, int, int]) -> Tensor:
    left, top, side = crop
    return pictures[..., top : top + side, left : left + side]


def _shape(points: Tensor) -> dict[str, Tensor]:
    """Pose in degrees, and shapes of the face brought upright and frontal, in its widths, of meshes [N, 468, 3]."""
    across, down = points[:, 454] - points[:, 234], points[:, 152] - points[:, 10]
    eye_line = points[:, 263] - points[:, 33]
    width = across.norm(dim=1)[:, None]
    x = across / width
    y = down - (down * x).sum(dim=1, keepdim=True) * x
    y = y / y.norm(dim=1, keepdim=True)
    p = (points - points[:, 168:169]) @ torch.stack([x, y, torch.linalg.cross(x, y)], dim=2) / width[:, None]

    def far(a: int, b: int) -> Tensor:
        return (p[:, a, :2] - p[:, b, :2]).norm(dim=1)

    def height(places: tuple[int, ...]) -> Tensor:
        return p[:, list(places), 1].mean(dim=1)

    eyes = (far(159, 145) / far(33, 133) + far(386, 374) / far(263, 362)) / 2
    brows = (height((70, 63, 105, 66, 107)) + height((300, 293, 334, 296, 336))) / 2
    inner, outer = height((107, 336)), height((70, 300))
    corners = height((61, 291))
    return {
        "yaw": torch.atan2(across[:, 2], across[:, 0]).rad2deg(),
        "pitch": torch.atan2(down[:, 2], down[:, 1]).rad2deg(),
        "roll": torch.atan2(eye_line[:, 1], eye_line[:, 0]).rad2deg(),
        "mouth_open": far(13, 14),
        "mouth_width": far(61, 291),
        "mouth_corners": height((0, 17)) - corners,
        "eyes_open": eyes,
        "eye_size": (far(33, 133) + far(263, 362)) / 2,
        "brow_height": height((33, 133, 263, 362)) - brows,
        "brow_slant": outer - inner,
        "lips": far(0, 13) + far(14, 17),
        "face_length": far(10, 152),
        "jaw_width": (far(172, 397) + far(136, 365)) / 2,
        "cheek_width": far(123, 352),
        "chin": far(17, 152),
        "nose_width": far(129, 358),
        "nose_length": far(168, 2),
    }


def _region(points: Floats, indices: tuple[int, ...], grow: float = 1.0) -> NDArray[np.bool_]:
    """A polygon of the mesh as a mask [128, 128], grown around its middle."""
    corners = points[list(indices), :2] * (MAPS / SIZE)
    corners = corners.mean(0) + grow * (corners - corners.mean(0))
    image = Image.new("1", (MAPS, MAPS))
    ImageDraw.Draw(image).polygon([tuple(corner) for corner in corners], fill=1)
    return np.asarray(image)


def _colours(picture: Tensor, points: Floats, person: Floats) -> dict[str, float]:
    """Lightness, warmth and evenness of skin, hair, lips and background; from which side the light comes."""
    rgb = F.interpolate(picture[None], (MAPS, MAPS), mode="area")[0].double().numpy() / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    oval = _region(points, OVAL)
    left, right = (_region(points, cheek) for cheek in CHEEKS)
    scale = MAPS / SIZE
    eyes = points[[33, 263], 1].mean() * scale
    above = np.arange(MAPS)[:, None] < eyes
    hair = (person > 0.6) & ~_region(points, OVAL, 1.12) & above
    background = person < 0.2
    skin, lips = _lab(linear, left | right), _lab(linear, _region(points, LIPS))
    crown, far = _lab(linear, hair), _lab(linear, background)
    sides = [float(np.log(linear[:, side].mean() + 1e-3)) if side.any() else 0.0 for side in (left, right)]
    top = _lab(linear, _region(points, FOREHEAD))
    return {
        "skin_lightness": skin[0],
        "skin_red": skin[1],
        "skin_yellow": skin[2],
        "hair_lightness": crown[0],
        "hair_red": crown[1],
        "hair_yellow": crown[2],
        "hair_share": float(hair.mean()),
        "lips_red": lips[1] - skin[1],
        "lips_dark": skin[0] - lips[0],
        "forehead": top[0] - skin[0],
        "light": sides[1] - sides[0],
        "background": far[0],
        "background_red": far[1],
        "background_yellow": far[2],
        "person_share": float((person > 0.5).mean()),
        "face_share": float(oval.mean()),
    }


def _lab(linear: Floats, mask: NDArray[np.bool_]) -> tuple[float, float, float]:
    """CIELAB of the mean colour of a region of linear RGB [3, H, W]; not a number where there is no region."""
    if mask.sum() < 12:
        return (float("nan"),) * 3
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(np.maximum(matrix @ linear[:, mask].mean(1) / (0.9505, 1.0, 1.089), 1e-6))
    return float(116 * y - 16), float(500 * (x - y)), float(200 * (y - z))


def merged(parts: list[Mapping[str, Floats]]) -> dict[str, Floats]:
    """Readings of several batches, joined."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
