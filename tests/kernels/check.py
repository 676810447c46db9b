"""Run by `make other-jaxlib` beside a copy of the package: JAX works, and `kernels.available()` tells the truth."""

import pathlib
import re
import sys

import jax
import jax.numpy as jnp
import jaxlib

import dorefa_jax as dorefa


def ffi_version(include):
  header = pathlib.Path(include, "xla", "ffi", "api", "c_api.h").read_text()
  return [int(re.search(rf"#define XLA_FFI_API_{part} (\d+)", header)[1]) for part in ("MAJOR", "MINOR")]


def main(compiled_with):
  built, running = ffi_version(compiled_with), ffi_version(jaxlib.__path__[0] + "/include")
  found = dorefa.kernels.available()
  print(f"compiled for {built}, running {running} of jaxlib {jaxlib.__version__}: {found}")
  assert float(jnp.ones(3).sum()) == 3.0
  assert found.is_compiled == (built <= running), found
  assert found.is_compiled or "Install dorefa-jax again" in found.reason
  layer = dorefa.linen.Dense(32, bits=dorefa.BitWidths(1, 2, 4), backend="integer")
  x = jax.random.uniform(jax.random.key(0), (4, 32))
  variables = layer.init(jax.random.key(1), x)
  results = {
    backend: jax.jit(layer.clone(backend=backend, bits=dorefa.BitWidths(1, 1, 32)).apply)(variables, x)
    for backend in ("integer", "emulated")
  }
  assert jnp.allclose(results["integer"], results["emulated"], atol=1e-5), results
  jax.grad(lambda v: layer.apply(v, x, rngs={"gradients": jax.random.key(2)}).sum())(variables)


if __name__ == "__main__":
  main(sys.argv[1])
