"""Pictures of every kind become pixels of 8 bits."""

import io
import sys
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import dorefa_jax as dorefa
from dorefa_study import predict
from dorefa_study.errors import UsageError
from dorefa_study.predict import read_picture

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


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  layer = dorefa.linen.Dense(3, bits=dorefa.BitWidths(1, 2, 32))

  def classify(images):
    return layer.apply(variables, images.reshape(images.shape[0], -1))

  variables = layer.init(jax.random.key(0), jnp.zeros((1, 16)))
  path = tmp_path_factory.mktemp("model") / "model.dorefa"
  dorefa.freeze(classify, input_shape=(4, 4, 1)).save(path)
  return path


def fails(capsys, arguments, part):
  assert predict.main([str(argument) for argument in arguments]) == 2
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == 1
  assert lines[0].startswith("error: ")
  assert part in lines[0]


def test_names_that_are_too_long_are_one_line(capsys, model, tmp_path):
  picture = saved(tmp_path, Image.fromarray(GREY))
  fails(capsys, [model, "x" * 300], "File name too long")
  fails(capsys, ["x" * 300, picture], "File name too long")
  fails(capsys, [model, "a\0b"], "null character")


def test_home_directories_are_expanded(capsys, monkeypatch, model, tmp_path):
  monkeypatch.setenv("HOME", str(tmp_path))
  saved(tmp_path, Image.fromarray(GREY))
  (tmp_path / "model.dorefa").write_bytes(model.read_bytes())
  assert predict.main(["~/model.dorefa", "~/picture.png"]) == 0
  assert "~/picture.png: class" in capsys.readouterr().out
  fails(capsys, ["~nobody-of-this-name/x", "~/picture.png"], "home directory")


def test_other_formats_are_refused(tmp_path):
  for name in ("picture.eps", "picture.pcx", "picture.ico"):
    Image.fromarray(GREY).convert("RGB").save(tmp_path / name)
    with pytest.raises(UsageError, match="it is none of BMP, GIF, JPEG, PNG, PPM, TIFF, WEBP"):
      read_picture(tmp_path / name, 3)


@pytest.mark.parametrize("name", ["a.bmp", "a.gif", "a.jpg", "a.ppm", "a.tif", "a.webp"])
def test_formats_of_pictures_are_read(tmp_path, name):
  Image.fromarray(GREY).convert("RGB").save(tmp_path / name)
  assert read_picture(tmp_path / name, 3).shape == (16, 16, 3)


def test_pictures_of_many_pixels_are_refused_before_they_are_decoded(tmp_path):
  picture = saved(tmp_path, Image.fromarray(GREY))
  data = bytearray(picture.read_bytes())
  data[16:24] = (4001).to_bytes(4, "big") + (4000).to_bytes(4, "big")
  data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
  picture.write_bytes(data)
  with pytest.raises(UsageError, match="4001x4000 pixels are too many, at most 16,000,000"):
    read_picture(picture, 1)


@pytest.mark.parametrize("error", [MemoryError(), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")])
def test_too_little_memory_is_one_line(capsys, monkeypatch, model, tmp_path, error):
  def load(path):
    raise error

  monkeypatch.setattr(dorefa, "load", load)
  fails(capsys, [model, saved(tmp_path, Image.fromarray(GREY))], "not enough memory")


def test_names_that_standard_output_lacks_are_escaped(monkeypatch, model, tmp_path):
  picture = saved(tmp_path, Image.fromarray(GREY)).rename(tmp_path / "Zürich \udcff.png")
  out = io.BytesIO()
  monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding="ascii"))
  assert predict.main([str(model), str(picture)]) == 0
  sys.stdout.flush()
  assert rb"Z\xfcrich \udcff.png: class" in out.getvalue()
