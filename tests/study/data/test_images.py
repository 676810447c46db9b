import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from dorefa_study.data.images import jitter, resize, to_unit


def images(n=4, size=32, seed=0):
  return jnp.asarray(np.random.default_rng(seed).integers(0, 256, (n, size, size, 3)).astype(np.uint8))


def test_resize_is_bilinear_and_keeps_whole_numbers():
  x = images()
  resized = np.asarray(jax.jit(resize, static_argnums=1)(x, 40))
  np.testing.assert_array_equal(resized, np.round(resized))
  assert (resized.min() >= 0) & (resized.max() <= 255)
  expected = np.stack(
    [np.asarray(Image.fromarray(np.asarray(i)).resize((40, 40), Image.Resampling.BILINEAR)) for i in x]
  )
  assert np.abs(resized - expected).max() <= 1  # Pillow rounds after each direction


def test_resize_to_the_same_size_changes_nothing():
  np.testing.assert_array_equal(resize(images(size=40), 40), images(size=40).astype(jnp.float32))


def test_jitter_within_its_ranges(key):
  x = jnp.full((500, 4, 4, 3), 128.0).at[:, :2].set(100.0)
  out = np.asarray(jitter(x, key, 30.0, (0.5, 1.5)))
  np.testing.assert_array_equal(out, np.round(out))
  shift, spread = out.mean((1, 2, 3)) - 114, out.max((1, 2, 3)) - out.min((1, 2, 3))
  assert (np.abs(shift) <= 30.5).all()
  assert shift.std() == pytest.approx(60 / np.sqrt(12), rel=0.1)
  assert (spread >= 14 - 1).all()
  assert (spread <= 42 + 1).all()


def test_jitter_is_drawn_for_each_image_and_clips(key):
  x = jnp.concatenate([jnp.zeros((3, 4, 4, 1)), jnp.full((3, 4, 4, 1), 255.0)], 3)
  out = np.asarray(jitter(x, key, 200.0, (1.0, 1.0)))
  assert out.min() >= 0
  assert out.max() <= 255
  assert len(np.unique(out[:, 0, 0, :].sum(1))) > 1


def test_jitter_is_brighter_by_one_level_than_the_authors(key):
  """Theirs truncates to whole numbers after the brightness and after the contrast; see docs/method.md."""
  x = np.random.default_rng(0).integers(90, 166, (40, 32, 32, 3)).astype(np.float32)
  shift_key, factor_key = jax.random.split(key)
  shift = np.asarray(jax.random.uniform(shift_key, (40, 1, 1, 1), minval=-30, maxval=30))
  factor = np.asarray(jax.random.uniform(factor_key, (40, 1, 1, 1), minval=0.5, maxval=1.5))
  bright = np.floor(np.clip(x + shift, 0, 255))
  mean = bright.mean((1, 2), keepdims=True)
  authors = np.floor(np.clip((bright - mean) * factor + mean, 0, 255))
  difference = np.asarray(jitter(jnp.asarray(x), key, 30.0, (0.5, 1.5))) - authors
  assert difference.mean() == pytest.approx(1.0, abs=0.1)
  assert np.abs(difference).max() <= 3


def test_no_jitter_is_the_identity(key):
  x = images().astype(jnp.float32)
  np.testing.assert_allclose(jitter(x, key, 0.0, (1.0, 1.0)), x)


def test_pixels_become_fractions_of_256():
  assert to_unit(jnp.array([0.0, 64.0, 255.0])).tolist() == [0.0, 0.25, 255 / 256]
