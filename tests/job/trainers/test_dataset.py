"""Images and captions as sd-scripts reads them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from job.contract.reasons import Reason
from job.trainers.embedded.dataset import fit, read_dataset
from job.trainers.embedded.errors import TrainingError
from tests.job.trainers.recipes import small

NEAREST = Image.Resampling.NEAREST


def picture(folder: Path, name: str, image: Image.Image, caption: str | None = "red hat, Blue Eyes") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    image.save(folder / f"{name}.png")
    if caption is not None:
        (folder / f"{name}.txt").write_text(caption)


def numbered(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.arange(width * height, dtype=np.uint8).reshape(height, width))


def test_nearest_enlarges_and_shrinks_by_whole_pixels() -> None:
    small_image = numbered(3, 3)
    large = fit(small_image, (9, 9), NEAREST)
    assert np.array_equal(np.asarray(large), np.asarray(small_image).repeat(3, 0).repeat(3, 1))
    assert np.array_equal(np.asarray(fit(large, (3, 3), NEAREST)), np.asarray(small_image))


def test_nearest_picks_the_centre() -> None:
    # 15 pixels in blocks of 5 whose centres alone are lit.
    image = Image.new("L", (15, 15))
    for x in (2, 7, 12):
        for y in (2, 7, 12):
            image.putpixel((x, y), 255)
    assert np.asarray(fit(image, (3, 3), NEAREST)).min() == 255


@pytest.mark.parametrize("size", [(40, 20), (20, 40), (7, 61), (24, 24)])
def test_other_proportions_are_cropped_to_the_centre(size: tuple[int, int]) -> None:
    image = fit(Image.new("RGB", size, "red"), (24, 16), NEAREST)
    assert image.size == (24, 16)
    assert np.asarray(image)[..., 0].min() == 255  # no border was added


def test_pixels_reach_from_minus_one_to_one(tmp_path: Path) -> None:
    image = Image.new("RGBA", (24, 24), (255, 0, 255, 0))
    picture(tmp_path / "10_punk", "a", image)
    pixels = read_dataset(tmp_path, small()).pixels(0)
    assert pixels.shape == (3, 24, 24)
    assert pixels[:, 0, 0].tolist() == [1, -1, 1]  # alpha is dropped, as sd-scripts does


def test_captions_are_first_lines(tmp_path: Path) -> None:
    picture(tmp_path / "10_punk", "a", Image.new("RGB", (8, 8)), "red hat, Blue Eyes\nnot read\n")
    dataset = read_dataset(tmp_path, small())
    assert dataset.captions == ("red hat, Blue Eyes",)
    assert dataset.phrase_counts() == {"red hat": 1, "blue eyes": 1}


@pytest.mark.parametrize("caption", [None, "", "\n \n"])
def test_an_image_without_a_caption_is_refused(tmp_path: Path, caption: str | None) -> None:
    picture(tmp_path / "10_punk", "a", Image.new("RGB", (8, 8)), caption)
    with pytest.raises(TrainingError, match=r"a\.txt") as caught:
        read_dataset(tmp_path, small())
    assert caught.value.reason is Reason.BAD_DATASET


def test_no_images_and_no_folder_are_refused(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(TrainingError) as caught:
            read_dataset(tmp_path, small())
        assert caught.value.reason is Reason.BAD_DATASET
        (tmp_path / "10_punk").mkdir(exist_ok=True)


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    picture(tmp_path / "10_punk", "a", Image.new("RGB", (8, 8)))
    (tmp_path / "10_punk/a.png").write_bytes(b"\x89PNG no more")
    with pytest.raises(TrainingError, match=r"a\.png"):
        read_dataset(tmp_path, small()).pixels(0)
