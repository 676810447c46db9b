"""Pictures of every kind become pixels of 8 bits."""

import numpy as np
import pytest
from PIL import Image

from experiments.errors import UsageError
from experiments.predict import read_picture

GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)


def saved(tmp_path, image):
  path = tmp_path / "picture.png"
  image.save(path)
  return path


def test_sixteen_bits_keep_their_upper_half(tmp_path):
  wide = Image.fromarray(GREY.astype(np.uint16) * 256 + 7)
  np.testing.assert_array_equal(read_picture(saved(tmp_path, wide), 1)[..., 0], GREY)


def test_what_is_transparent_is_white(tmp_path):
  alpha = np.zeros((16, 16), np.uint8)
  alpha[:8] = 255
  picture = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(alpha)])
  pixels = read_picture(saved(tmp_path, picture), 3)
  np.testing.assert_array_equal(pixels[:8], np.repeat(GREY[:8, :, None], 3, 2))
  assert (pixels[8:] == 255).all()


def test_pixels_without_a_range_are_refused(tmp_path):
  path = tmp_path / "picture.tiff"
  Image.fromarray(np.ones((4, 4), np.float32)).save(path)
  with pytest.raises(UsageError, match="no known range"):
    read_picture(path, 1)
