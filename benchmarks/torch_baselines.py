"""The same products in PyTorch, where it is installed (`pip install '.[bench]'`): float32, bfloat16, int8."""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np


def is_installed() -> bool:
  """Whether PyTorch can be imported."""
  return importlib.util.find_spec("torch") is not None


def dense(x: np.ndarray, outputs: int) -> dict[str, Callable[[], Any]]:
  """Dense layers without bias, from float32 to float32."""
  torch, nn = _torch()
  given = torch.from_numpy(x)
  layer = nn.Linear(x.shape[1], outputs, bias=False)
  narrow = nn.Linear(x.shape[1], outputs, bias=False).bfloat16()
  quantized = torch.ao.quantization.quantize_dynamic(nn.Sequential(layer), {nn.Linear}, dtype=torch.qint8)
  return _without_gradients(
    {
      "torch float32": lambda: layer(given),
      "torch bfloat16": lambda: narrow(given.bfloat16()).float(),
      "torch int8": lambda: quantized(given),
    }
  )


def conv(x: np.ndarray, outputs: int, kernel: int) -> dict[str, Callable[[], Any]]:
  """Square convolutions, padded to the same size, without bias, from float32 to float32."""
  torch, nn = _torch()
  given = torch.from_numpy(x).permute(0, 3, 1, 2)
  options = {"padding": kernel // 2, "bias": False}
  layer = nn.Conv2d(x.shape[3], outputs, kernel, **options).to(memory_format=torch.channels_last)
  narrow = nn.Conv2d(x.shape[3], outputs, kernel, **options).to(memory_format=torch.channels_last).bfloat16()
  quantized = torch.ao.nn.quantized.Conv2d(x.shape[3], outputs, kernel, **options)
  quantized.scale = 0.1
  return _without_gradients(
    {
      "torch float32": lambda: layer(given),
      "torch bfloat16": lambda: narrow(given.bfloat16()).float(),
      "torch int8": lambda: quantized(torch.quantize_per_tensor(given, 1 / 255, 0, torch.quint8)).dequantize(),
    }
  )


def network(x: np.ndarray, layers: list[tuple[int, int, int, int, bool]]) -> dict[str, Callable[[], Any]]:
  """A chain of convolutions with ReLU, and a dense layer of 10 outputs, in evaluation.

  Args:
    x: float32 [batch, height, width, channels].
    layers: (inputs, outputs, kernel, padding, is_pooled) of each convolution.

  Returns:
    {name: forward pass}; int8 is static, the first layer included.
  """
  torch, nn = _torch()
  given = torch.from_numpy(x).permute(0, 3, 1, 2)

  def build() -> Any:
    modules = []
    for inputs, outputs, kernel, padding, is_pooled in layers:
      modules += [nn.Conv2d(inputs, outputs, kernel, padding=padding), nn.ReLU(inplace=True)]
      modules += [nn.MaxPool2d(2)] if is_pooled else []
    modules += [nn.Flatten(), nn.Linear(layers[-1][1], 10)]
    return nn.Sequential(*modules).eval().to(memory_format=torch.channels_last)

  plain, narrow = build(), build().bfloat16()
  quantized = []
  for inputs, outputs, kernel, padding, is_pooled in layers:
    layer = torch.ao.nn.intrinsic.quantized.ConvReLU2d(inputs, outputs, kernel, padding=padding)
    layer.scale, layer.zero_point = 0.02, 0
    quantized.append((layer, is_pooled))
  last = torch.ao.nn.quantized.Linear(layers[-1][1], 10)
  last.scale = 0.1

  def int8() -> Any:
    y = torch.quantize_per_tensor(given, 1 / 255, 0, torch.quint8)
    for layer, is_pooled in quantized:
      y = layer(y)
      y = torch.max_pool2d(y, 2) if is_pooled else y
    return last(y.flatten(1)).dequantize()

  return _without_gradients(
    {
      "torch float32": lambda: plain(given),
      "torch bfloat16": lambda: narrow(given.bfloat16()).float(),
      "torch int8": int8,
    }
  )


def training_step(
  x: np.ndarray, labels: np.ndarray, layers: list[tuple[int, int, int, int, bool]]
) -> dict[str, Callable[[], Any]]:
  """Training steps of the same network with batch norm behind all convolutions but the first, eager, by Adam.

  Args:
    x: float32 [batch, height, width, channels].
    labels: int [batch].
    layers: as in `network`.

  Returns:
    {name: a step}; bfloat16 is by autocast.
  """
  _, nn = _torch()

  def build() -> Any:
    modules = []
    for index, (inputs, outputs, kernel, padding, is_pooled) in enumerate(layers):
      modules += [nn.Dropout(0.5)] if index == len(layers) - 1 else []
      modules += [nn.Conv2d(inputs, outputs, kernel, padding=padding, bias=index == 0)]
      modules += [nn.BatchNorm2d(outputs, eps=1e-4)] if index else []
      modules += [nn.MaxPool2d(2)] if is_pooled else []
      modules += [nn.ReLU(inplace=True)]
    return nn.Sequential(*modules, nn.Flatten(), nn.Linear(layers[-1][1], 10))

  return _steps(build, x, labels)


def residual_step(
  x: np.ndarray, labels: np.ndarray, stages: tuple[tuple[int, int], ...]
) -> dict[str, Callable[[], Any]]:
  """Training steps of a residual network with ReLU, eager, by Adam.

  Args:
    x: float32 [batch, height, width, 3].
    labels: int [batch].
    stages: (channels, residual blocks) of each; all but the first halve the image.

  Returns:
    {name: a step}; bfloat16 is by autocast.
  """
  torch, nn = _torch()

  class Residual(nn.Module):  # type: ignore[name-defined]
    def __init__(self, inputs: int, outputs: int, stride: int):
      super().__init__()
      self.stride, self.more = stride, outputs - inputs
      self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
      self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
      self.norms = nn.ModuleList([nn.BatchNorm2d(outputs) for _ in range(2)])

    def forward(self, x: Any) -> Any:
      shortcut = nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))
      y = torch.relu(self.norms[0](self.first(x)))
      return torch.relu(self.norms[1](self.second(y)) + shortcut)

  def build() -> Any:
    channels = stages[0][0]
    modules = [nn.Conv2d(3, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
    for stage, (features, count) in enumerate(stages):
      for index in range(count):
        modules.append(Residual(channels, features, 2 if stage and not index else 1))
        channels = features
    return nn.Sequential(*modules, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))

  return _steps(build, x, labels)


def _steps(build: Callable[[], Any], x: np.ndarray, labels: np.ndarray) -> dict[str, Callable[[], Any]]:
  """Training steps of the model that `build` makes, in float32 and, by autocast, in bfloat16."""
  torch, nn = _torch()
  given, wanted = torch.from_numpy(x).permute(0, 3, 1, 2), torch.from_numpy(labels).long()

  def make(dtype: Any) -> Callable[[], None]:
    model = build().to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-5)

    def step() -> None:
      optimizer.zero_grad(set_to_none=True)
      with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
        loss = nn.functional.cross_entropy(model(given), wanted)
      loss.backward()
      optimizer.step()

    return step

  return {"torch float32": make(torch.float32), "torch bfloat16": make(torch.bfloat16)}


def _torch() -> tuple[Any, Any]:
  os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
  warnings.filterwarnings("ignore")
  import torch

  torch.set_num_threads(len(os.sched_getaffinity(0)))
  torch.backends.quantized.engine = "onednn"
  return torch, torch.nn


def _without_gradients(runs: dict[str, Callable[[], Any]]) -> dict[str, Callable[[], Any]]:
  torch, _ = _torch()

  def wrap(run: Callable[[], Any]) -> Callable[[], None]:
    def call() -> None:
      with torch.no_grad():
        run()

    return call

  return {name: wrap(run) for name, run in runs.items()}
