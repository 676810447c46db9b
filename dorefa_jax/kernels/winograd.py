"""Convolutions of floats in fewer multiplications: Winograd's minimal filtering along rows.

A tile of `m = 7 - k` outputs of a kernel k wide depends on six inputs d. With the polynomials
through the points 0, 1, -1, 2, -2 and infinity,

`y = A' [(G g) * (B' d)]`

takes six multiplications where `y_i = sum_j d_(i+j) g_j` takes `m k`: 10 for k = 5, 12 for k = 4 and 3.
B' d is computed once for all output channels and A' once for all input channels and kernel rows, so
that a layer of 3 channels with a 5x5 kernel, the first of the paper's, needs 0.6 of its products.
The result differs from the plain sum in rounding only: G is rounded once, from float64.

References:
  A. Lavin, S. Gray: Fast Algorithms for Convolutional Neural Networks, arXiv 1509.09308.
"""

from __future__ import annotations

import numpy as np

POINTS = (0.0, 1.0, -1.0, 2.0, -2.0)
"""The finite ones."""
MIN_WIDTH, MAX_WIDTH = 3, 5
"""Kernel widths that have tiles."""


def tile_outputs(kernel_width: int) -> int:
  """Outputs of a tile, m.

  Example:
    >>> tile_outputs(5)
    2
  """
  return len(POINTS) + 2 - kernel_width


def fits(kernel_width: int, stride: int, dilation: int, groups: int, out_width: int) -> bool:
  """Whether the compiled kernels take a convolution in this form: rows of whole tiles.

  Example:
    >>> fits(5, 1, 1, 1, out_width=40), fits(5, 2, 1, 1, out_width=20)
    (True, False)
  """
  is_plain = stride == dilation == groups == 1
  return is_plain and MIN_WIDTH <= kernel_width <= MAX_WIDTH and out_width % tile_outputs(kernel_width) == 0


def transform_weights(weights: np.ndarray) -> np.ndarray:
  """G g: kernels at the six points.

  Args:
    weights: [height, width, channels, outputs], a width of 3 to 5.

  Returns:
    float32 [height, channels * 6, outputs], points innermost.

  Raises:
    ValueError: another width.

  Example:
    >>> import numpy as np
    >>> transform_weights(np.ones((5, 5, 3, 8))).shape
    (5, 18, 8)
  """
  height, width, channels, outputs = weights.shape
  if not MIN_WIDTH <= width <= MAX_WIDTH:
    raise ValueError(f"kernels must be {MIN_WIDTH} to {MAX_WIDTH} wide, got {width}")
  matrix = weight_matrix(width)
  transformed = np.einsum("pj,hjco->hcpo", matrix, weights.astype(np.float64))
  return transformed.reshape(height, channels * len(matrix), outputs).astype(np.float32)


def weight_matrix(width: int) -> np.ndarray:
  """G, float64 [6, width].

  Example:
    >>> weight_matrix(3)[0].tolist()
    [0.25, 0.0, 0.0]
  """
  points = np.array(POINTS)
  distances = points[:, None] - points + np.eye(len(points))
  return np.vstack([points[:, None] ** np.arange(width) / distances.prod(1)[:, None], np.eye(width)[-1]])
