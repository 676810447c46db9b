"""Strict modes for every test, and fixtures for data that tests make themselves."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import hypothesis
import jax
import pytest

hypothesis.settings.register_profile("default", deadline=None, max_examples=40, derandomize=True)
hypothesis.settings.load_profile("default")


@pytest.fixture(autouse=True)
def _strict(request):
  """No implicit promotion in the library; optax, which the experiments use, promotes in places."""
  if {"experiments", "integration"} & set(request.path.parts[len(request.config.rootpath.parts) :]):
    yield
    return
  with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
    yield


@pytest.fixture
def key():
  return jax.random.key(0)
