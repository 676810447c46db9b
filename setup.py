"""The optional C++ extension; everything else is in pyproject.toml."""

import importlib.util
import os
import pathlib
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCES = pathlib.Path("dorefa_jax", "kernels", "src")


def jaxlib_headers() -> list[str]:
  """The folder of XLA's headers, which jaxlib brings."""
  found = importlib.util.find_spec("jaxlib")
  return [str(pathlib.Path(folder, "include")) for folder in (found.submodule_search_locations if found else [])]


class ParallelBuild(build_ext):
  """Compiles the sources of the extension on all cores, the largest first."""

  def build_extension(self, ext: Extension) -> None:
    """Compiles and links, and says how long it takes."""
    one_after_the_other = self.compiler.compile
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    def compile(sources: list[str], *args: object, **options: object) -> list[str]:
      print(f"compiling the integer kernels on {workers} cores: about {100 // workers} s", file=sys.stderr, flush=True)
      begin = time.monotonic()
      # The instruction sets' sources take longest, of those the widest first.
      ordered = sorted(sources, key=lambda source: pathlib.Path(source).parent.name != "paths")
      with ThreadPoolExecutor(workers) as pool:
        compiled = pool.map(lambda source: one_after_the_other([source], *args, **options), ordered)
        objects = dict(zip(ordered, (names for [*names] in compiled)))
      print(f"compiled in {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
      return [name for source in sources for name in objects[source]]

    self.compiler.compile = compile
    try:
      super().build_extension(ext)
    finally:
      self.compiler.compile = one_after_the_other


setup(
  cmdclass={"build_ext": ParallelBuild},
  ext_modules=[
    # No module of Python: a library of plain functions, which ctypes opens. Paths for instruction
    # sets are chosen at run time, so no -march here.
    Extension(
      "dorefa_jax.kernels._native",
      sources=sorted(str(path) for path in SOURCES.rglob("*.cc")),
      depends=sorted(str(path) for pattern in ("*.h", "*.inc") for path in SOURCES.rglob(pattern)),
      include_dirs=[str(SOURCES)],
      extra_compile_args=["-O3", "-std=c++17", "-ffp-contract=off", "-g0"]
      + [flag for folder in jaxlib_headers() for flag in ("-isystem", folder)],
      extra_link_args=["-pthread"],
      optional=True,
    )
  ],
)
