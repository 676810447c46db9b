// What the kernels take besides programs: buffers, and descriptions of one piece of work.
#ifndef DOREFA_OPERANDS_H_
#define DOREFA_OPERANDS_H_

#include <cstdint>
#include <vector>

#include "program/program.h"

namespace dorefa {

// Where one thread keeps the operands of a block of images.
struct Buffers {
  std::vector<uint32_t*> inputs;  // of each step; padding is zero
  float* line;            // a row of input taken apart
  uint8_t* tables;        // of the input rows under a row of windows
  uint16_t* table_sums;   // of a row of windows, 4 panels
  int32_t* word_sums;     // of one plane
  int32_t* column_sums;   // of one row
  uint32_t* pooled_rows;  // a row of each plane
  uint32_t* pooled_sums;  // the rows of a pooling's window, of one group
  int32_t* row_sums;
  int32_t* row_offsets;
  int32_t* row_classes;
  int32_t* code_offsets;
  uint8_t* nan;  // of each image: its input has one, and so will its result
};

// A weight gradient: the convolution that it is of, and how its operands are spread.
struct WeightGradient {
  Step step;
  int64_t gradient_bits;
  int64_t plane_words;  // of a pixel's packed activations
  int64_t pixel_words;  // of all its planes
  int64_t phases;       // pixels of the input under one stride
  int64_t pitch;        // positions from a row to the next
  int64_t quads;        // of positions
  int64_t padded_quads;  // with zeros behind them, for matrices of 16
  std::vector<uint8_t> is_position;  // 255 where a byte of the quads has a gradient, else 0
  int64_t plane_bytes;  // of a channel's activations of one phase
  int64_t activation_bytes, gradient_bytes;  // of an example
};

// Where one thread spreads an example.
struct GradientScratch {
  uint8_t* activations;
  uint8_t* gradients;
  const uint8_t** rows;
  float** out;
  int32_t* rests;  // of each row, for gradients of 8 bits
};

// The bounding functions h.
enum class Bound : int32_t { kClip = 0, kAbsClip = 1, kRelu = 2, kNone = 3 };

constexpr int kWinnerPlanes = 5;  // of pool_winners-inl.h

// Floats in a row of a patch of the image, zeros behind it, as the sums of winner_gradient-inl.h have them.
constexpr int64_t kPatchMultiple = 16;
inline int64_t patch_row(const Step& step) {
  return round_up(int64_t{step.op.kernel_width} * step.op.channels, kPatchMultiple);
}

// Rows of an image under a row of windows.
inline int64_t patch_rows(const Step& step) { return int64_t{step.op.kernel_height} + step.op.stride_height; }

// Where one thread keeps the patches of a row of windows, and the share and the winner of each output; see
// winner_gradient-inl.h.
struct WindowScratch {
  float *patches, *shares;
  uint32_t* winners;
  int64_t* offsets;  // of a patch's vectors
};

// A normalization with known factors, a shortcut, a max pooling in windows side by side, and h, of one image.
struct AffinePool {
  int64_t height, width, channels;
  int64_t window;  // 1 or 2, in both directions; what is left of height and width is dropped
  Bound bound;
  const float *factor, *offset;  // of each channel
  bool has_sum = false;          // there is a shortcut, or the sum before the pooling is a result, too
  const float* zeros = nullptr;  // of each channel, where there is a sum
};

// What the gradient of a batch's statistics adds to that of an element y, slope y + intercept, of each channel.
struct GradientLine {
  const float *slope, *intercept;
};

}  // namespace dorefa

#endif  // DOREFA_OPERANDS_H_
