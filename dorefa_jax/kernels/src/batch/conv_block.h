// A quantized convolution with what follows it in training: batch norm, a shortcut, max pooling, h. Forward, and backward
// to the codes of the convolution's gradient.
#ifndef DOREFA_BLOCK_PASS_H_
#define DOREFA_BLOCK_PASS_H_

#include <cstdint>
#include <string>

#include "batch/parallel.h"
#include "paths/paths.h"
#include "program/program.h"

namespace dorefa {

// One convolution, from bit planes to floats, and its normalization.
struct BlockPass {
  Program program;
  int64_t window;  // of the pooling, 1 or 2; divides the convolution's images
  Bound bound;
  const float *epsilon, *scale, *bias;  // of each channel
  bool keeps_inside = false;       // a plane more tells which activations lie in [0, 1]
  const float* offsets = nullptr;  // [pixel][channel], added to each image's convolution
  const float* shortcut = nullptr;  // of the convolution's images, added to what is normalized
  bool gives_sum = false;           // of normalized image and shortcut, before the pooling

  const Step& step() const { return program.steps[0]; }
  int64_t channels() const { return step().op.outputs; }
  int64_t pixels() const { return step().out_height * step().out_width; }
  int64_t plane_words() const;  // of an image's activations
  int64_t out_size() const { return program.out_size / (window * window); }
  bool has_sum() const { return shortcut || gives_sum; }
};

// Checks a block whose program is built but for its input: bit planes, `planes` of a pixel. Returns an empty string, or
// what is wrong.
std::string build_block(int64_t planes, BlockPass* block);

// x: floats, the activations of `images` images. Gives their bit planes, the mean and the variance of each channel of
// the convolution, the result and, where it is asked for, the sum. A NaN among the activations makes all of it NaN.
void block_forward(const Path& path, const BlockPass& block, const float* x, int64_t images, uint32_t* planes,
                   float* mean, float* variance, float* out, float* sum, int64_t threads, const Schedule& schedule);

// From the gradients of the result, g, and of the sum, null where there is none: the codes of the convolution's gradient
// and each example's scale, with noise from a key, and the gradients of scales, biases and the shortcut, which is null
// where there is none. The convolution is computed anew from its bit planes.
void block_gradient(const Path& path, const BlockPass& block, const uint32_t* planes, const float* mean,
                    const float* variance, const float* g, const float* gsum, int64_t images, const uint32_t* key,
                    int64_t bits, uint8_t* codes, float* scales, float* dscale, float* dbias, float* dshortcut,
                    int64_t threads, const Schedule& schedule);

}  // namespace dorefa

#endif  // DOREFA_BLOCK_PASS_H_
