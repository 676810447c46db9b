"""Larq Compute Engine in a Python of its own, whose NumPy is too old for JAX's: run by `benchmarks.larq_baseline`.

Arguments: batch, size, channels, outputs, kernel. For each line read, one batch of binary convolutions is
run, floats in and out, and a line with its seconds of process time written.
"""

import os
import sys
import time

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import larq
import larq_compute_engine
import numpy as np
import tensorflow
from larq_compute_engine.tflite.python.interpreter import Interpreter


def main() -> None:
  """Builds the model, writes a line when it is ready, then answers."""
  batch, size, channels, outputs, kernel = map(int, sys.argv[1:])
  image = tensorflow.keras.Input((size, size, channels))
  layer = larq.layers.QuantConv2D(
    outputs, kernel, padding="same", pad_values=1.0, input_quantizer="ste_sign", kernel_quantizer="ste_sign",
    kernel_constraint="weight_clip", use_bias=False,
  )  # fmt: skip
  model = tensorflow.keras.Model(image, layer(image))
  interpreter = Interpreter(larq_compute_engine.convert_keras_model(model), num_threads=1)
  x = np.random.default_rng(0).standard_normal((batch, size, size, channels), np.float32)
  interpreter.predict(x)
  print("ready", flush=True)
  for _ in sys.stdin:
    start = time.process_time()
    interpreter.predict(x)
    print(time.process_time() - start, flush=True)


if __name__ == "__main__":
  main()
