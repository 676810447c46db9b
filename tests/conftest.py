"""Strict modes for every test, and fixtures for data that tests make themselves."""

import atexit
import os
import shutil
import tempfile

# Before JAX is imported: the workers of a run, which inherit this, share what they compile.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
  os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="dorefa_jax_tests_")
  atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import hypothesis
import jax
import pytest

hypothesis.settings.register_profile("default", deadline=None, max_examples=40, derandomize=True)
hypothesis.settings.load_profile("default")


@pytest.fixture(autouse=True)
def _strict(request):
  """No implicit promotion in the library; optax, which the study uses, promotes in places."""
  if {"study", "integration"} & set(request.path.parts[len(request.config.rootpath.parts) :]):
    yield
    return
  with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
    yield


@pytest.fixture
def key():
  return jax.random.key(0)
