"""Random changes of images: what they may give, and that nothing changes without them."""

import jax.numpy as jnp
import numpy as np
import pytest

from dorefa_study.config import TrainConfig
from dorefa_study.data.augment import augment, flip, pad_crop, resized_crop
from dorefa_study.data.images import jitter, resize

IMAGES = jnp.asarray(np.random.default_rng(0).integers(0, 256, (64, 12, 16, 3)), jnp.uint8)


def test_without_them_it_is_the_papers(key):
  expected = jitter(resize(IMAGES, 40), key, 30.0, (0.5, 1.5))
  np.testing.assert_array_equal(augment(IMAGES, key, (40, 40), TrainConfig()), expected)


def test_flips_mirror_about_half(key):
  flipped = np.asarray(flip(IMAGES, key))
  same = (flipped == np.asarray(IMAGES)).all((1, 2, 3))
  mirrored = (flipped == np.asarray(IMAGES)[:, :, ::-1]).all((1, 2, 3))
  assert (same | mirrored).all()
  assert 16 < same.sum() < 48


def test_crops_are_windows_of_the_padded_image(key):
  padded = np.pad(np.asarray(IMAGES), ((0, 0), (2, 2), (2, 2), (0, 0)))
  offsets = set()
  for image, whole in zip(np.asarray(pad_crop(IMAGES, key, 2)), padded):
    found = [(y, x) for y in range(5) for x in range(5) if (whole[y : y + 12, x : x + 16] == image).all()]
    assert len(found) == 1
    offsets.add(found[0])
  assert len(offsets) > 15


def test_a_crop_of_everything_is_a_resize(key):
  square = IMAGES[:, :, :12]
  found = resized_crop(square, key, (12, 12), (1.0, 1.0))
  # A whole area with another ratio of sides than the image's is cut to what is there.
  assert float(jnp.abs(found - square.astype(jnp.float32)).mean()) < 40
  assert found.shape == (64, 12, 12, 3)


@pytest.mark.parametrize("area", [(0.08, 1.0), (0.3, 0.3)])
def test_crops_stay_inside(key, area):
  flat = jnp.full((64, 30, 20, 3), 100, jnp.uint8)
  np.testing.assert_array_equal(resized_crop(flat, key, (16, 16), area), np.full((64, 16, 16, 3), 100.0))


def test_each_image_is_changed_for_itself_and_the_same_key_changes_alike(key):
  train = TrainConfig(flip=True, pad_crop=2, brightness=0.0, contrast=(1.0, 1.0))
  one = augment(jnp.repeat(IMAGES[:1], 64, 0), key, (12, 16), train)
  assert len(np.unique(np.asarray(one).reshape(64, -1), axis=0)) > 20
  np.testing.assert_array_equal(one, augment(jnp.repeat(IMAGES[:1], 64, 0), key, (12, 16), train))
