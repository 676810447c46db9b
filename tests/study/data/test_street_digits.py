import numpy as np

from dorefa_study.data.glyphs import glyph_atlas
from dorefa_study.data.street_digits import load_street_digits


def test_is_a_pure_function_of_the_seed():
  first, second = (load_street_digits(train_size=40, test_size=20, seed=3) for _ in range(2))
  assert first.digest() == second.digest()
  assert first.digest() != load_street_digits(train_size=40, test_size=20, seed=4).digest()


def test_fewer_images_are_the_first_of_more():
  few, many = (load_street_digits(train_size=size, test_size=10) for size in (30, 1200))
  np.testing.assert_array_equal(few.train.images, many.train.images[:30])


def test_train_and_test_share_no_image():
  dataset = load_street_digits(train_size=300, test_size=300)
  train = {image.tobytes() for image in dataset.train.images}
  assert not train & {image.tobytes() for image in dataset.test.images}


def test_labels_are_balanced_and_images_have_contrast():
  split = load_street_digits(train_size=3000, test_size=10).train
  assert split.images.shape == (3000, 32, 32, 3)
  assert np.bincount(split.labels, minlength=10).min() > 220
  contrast = split.images[:, 6:26, 8:24].astype(float).std((1, 2)).mean(1)
  assert np.quantile(contrast, 0.02) > 2


def test_every_glyph_has_ink_and_differs_from_the_others():
  atlas = glyph_atlas()
  ink = (atlas < 0).mean((2, 3))
  assert ink.min() > 0.02
  assert ink.max() < 0.5
  for style in atlas:
    flat = (style < 0).reshape(10, -1).astype(float)
    shared = flat @ flat.T
    overlap = shared / (np.add.outer(flat.sum(1), flat.sum(1)) - shared)
    assert (overlap[~np.eye(10, dtype=bool)] < 0.9).all()
