"""Images and captions in kohya's layout, as sd-scripts reads and sizes them (no buckets, no augmentation).

Knows Pillow and numpy; torch comes later.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from job.contract.reasons import Reason
from job.contract.recipe import Recipe
from job.trainers.embedded.errors import TrainingError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "area": Image.Resampling.BOX,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class Dataset:
    """What is trained on. Pixels are read when asked for: with cached latents, once."""

    folder: Path
    images: tuple[Path, ...]
    captions: tuple[str, ...]
    resolution: tuple[int, int]
    """Width and height in pixels."""
    interpolation: str

    def pixels(self, number: int) -> NDArray[np.float32]:
        """Return one image as channels × height × width, from -1 to 1."""
        path = self.images[number]
        try:
            with Image.open(path) as image:
                rgb = fit(image.convert("RGB"), self.resolution, FILTERS[self.interpolation])
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError) as error:
            raise TrainingError(Reason.BAD_DATASET, f"{path.name} cannot be read as an image") from error
        return np.asarray(rgb, dtype=np.float32).transpose(2, 0, 1) / 127.5 - 1

    def phrase_counts(self) -> dict[str, int]:
        """Return how many captions hold each comma-separated phrase (sd-scripts' tag frequency)."""
        phrases = (phrase.strip().lower() for caption in self.captions for phrase in caption.split(","))
        return dict(Counter(phrase for phrase in phrases if phrase))


def fit(image: Image.Image, size: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    """Scale `image` until it covers `size`, keeping its proportions, and crop the centre."""
    width, height = size
    scale = height / image.height if image.width / image.height > width / height else width / image.width
    scaled = (int(image.width * scale + 0.5), int(image.height * scale + 0.5))
    if image.size != scaled:
        image = image.resize(scaled, resample)
    left, top = (scaled[0] - width) // 2, (scaled[1] - height) // 2
    return image.crop((left, top, left + width, top + height))


def read_dataset(data_dir: Path, recipe: Recipe) -> Dataset:
    """Read captions and find images under `data_dir`, which holds one folder `NN_name`.

    Raises TrainingError(BAD_DATASET) for no folder, no image, or an image whose caption is missing or empty.
    """
    folders = [path for path in sorted(data_dir.iterdir()) if path.is_dir() and path.name[:1].isdigit()]
    if len(folders) != 1:
        raise TrainingError(Reason.BAD_DATASET, f"expected one folder NN_name, found {len(folders)}")
    folder = folders[0]
    images = tuple(path for path in sorted(folder.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES)
    if not images:
        raise TrainingError(Reason.BAD_DATASET, f"no image in {folder.name}")
    captions = tuple(_caption(path.with_suffix(recipe.caption_extension)) for path in images)
    return Dataset(folder, images, captions, recipe.resolution, recipe.resize_interpolation)


def _caption(path: Path) -> str:
    """Return the first line of a caption file: sd-scripts reads no further."""
    try:
        lines = path.read_text(encoding="utf-8").strip().splitlines()
    except FileNotFoundError:
        raise TrainingError(Reason.BAD_DATASET, f"no caption {path.name}") from None
    except UnicodeDecodeError:
        raise TrainingError(Reason.BAD_DATASET, f"caption {path.name} is not UTF-8") from None
    if not lines:
        raise TrainingError(Reason.BAD_DATASET, f"caption {path.name} is empty")
    return lines[0].strip()
