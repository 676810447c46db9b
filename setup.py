"""The optional C++ extension; everything else is in pyproject.toml."""

import importlib.util
import pathlib

from setuptools import Extension, setup

SOURCES = pathlib.Path("dorefa_jax", "kernels", "src")


def jaxlib_headers() -> list[str]:
  """The folder of XLA's headers, which jaxlib brings."""
  found = importlib.util.find_spec("jaxlib")
  return [str(pathlib.Path(folder, "include")) for folder in (found.submodule_search_locations if found else [])]


setup(
  ext_modules=[
    # No module of Python: a library of plain functions, which ctypes opens. Paths for instruction
    # sets are chosen at run time, so no -march here.
    Extension(
      "dorefa_jax.kernels._native",
      sources=sorted(str(path) for path in SOURCES.glob("*.cc")),
      depends=sorted(str(path) for pattern in ("*.h", "*.inc") for path in SOURCES.glob(pattern)),
      extra_compile_args=["-O3", "-std=c++17", "-ffp-contract=off", "-g0"]
      + [flag for folder in jaxlib_headers() for flag in ("-isystem", folder)],
      extra_link_args=["-pthread"],
      optional=True,
    )
  ]
)
