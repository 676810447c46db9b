#include "batch/conv_block.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "batch/run.h"

namespace dorefa {
namespace {

// A part of an array that may be missing.
template <class T>
T* at(T* array, int64_t offset) {
  return array ? array + offset : nullptr;
}

// What each image has of two sums of each channel, added in the order of the images.
class ImageSums {
 public:
  ImageSums(int64_t images, int64_t channels) : channels_(channels), all_(images * 2 * channels) {}
  float* first(int64_t image) { return all_.data() + image * 2 * channels_; }
  float* second(int64_t image) { return first(image) + channels_; }
  double total(int64_t sum, int64_t channel) const {
    double total = 0;
    for (size_t at = sum * channels_ + channel; at < all_.size(); at += 2 * channels_) total += all_[at];
    return total;
  }

 private:
  int64_t channels_;
  std::vector<float> all_;
};

// Factor and offset of each channel, as the normalization of a batch is a line.
struct Line {
  Line(const BlockPass& block, const float* mean, const float* variance) {
    for (int64_t c = 0; c < block.channels(); ++c) {
      inverse.push_back(1 / std::sqrt(variance[c] + block.epsilon[c]));
      factor.push_back(block.scale[c] * inverse[c]);
      offset.push_back(block.bias[c] - mean[c] * factor[c]);
    }
    zeros.resize(block.channels());
  }
  AffinePool pool(const BlockPass& block) const {
    return {block.step().out_height, block.step().out_width, block.channels(), block.window,  block.bound,
            factor.data(),           offset.data(),          block.has_sum(),  zeros.data()};
  }
  std::vector<float> inverse, factor, offset, zeros;
};

// The convolution of all images, `count` at a time; `before` and `after` are called around each such block.
template <class Before, class After>
void convolve(const Path& path, const BlockPass& block, const uint32_t* planes, int64_t images, float* y,
              int64_t threads, const Schedule& schedule, Before before, After after) {
  const int64_t some = block_size(block.program, images, std::max<int64_t>(1, threads));
  for_each_part(ceil_div(images, some), threads, schedule, [&] {
    const Buffers buffers = lay_out(block.program, some);
    return [&, buffers](int64_t part) {
      const int64_t first = part * some, count = std::min(some, images - first);
      for (int64_t i = first; i < first + count; ++i) before(i);
      path.run_block(block.program, buffers, planes, first, count, y);
      for (int64_t i = first; block.offsets && i < first + count; ++i) {
        float* image = y + i * block.program.out_size;
        for (int64_t at = 0; at < block.program.out_size; ++at) image[at] += block.offsets[at];
      }
      for (int64_t i = first; i < first + count; ++i) after(i);
    };
  });
}

}  // namespace

int64_t BlockPass::plane_words() const {
  const Op& op = step().op;
  return op.height * int64_t{op.width} * program.planes * ceil_div(op.channels, 32);
}

std::string build_block(int64_t planes, BlockPass* block) {
  const Program& program = block->program;
  if (program.steps.size() != 1 || is_float(program.steps[0].op.format) ||
      program.steps[0].op.output != Output::kFloats || program.steps[0].op.gap_height != 1 ||
      program.steps[0].op.gap_width != 1) {
    return "a block is one convolution of codes, without gaps, to floats";
  }
  const int64_t codes = planes - block->keeps_inside;
  if (codes < block->step().op.activation_bits || codes > kMaxBits) {
    return "activations of fewer planes than they have bits, or of more than " + std::to_string(kMaxBits);
  }
  if (block->window < 1 || block->window > 2 || block->step().out_height % block->window ||
      block->step().out_width % block->window) {
    return "a pooling's window is 1 or 2, and divides the image";
  }
  block->program.input = Input::kPlanes;
  block->program.planes = planes;
  return "";
}

void block_forward(const Path& path, const BlockPass& block, const float* x, int64_t images, uint32_t* planes,
                   float* mean, float* variance, float* out, float* sum, int64_t threads, const Schedule& schedule) {
  const int64_t channels = block.channels(), size = block.program.out_size;
  const Op& op = block.step().op;
  const SharedScratch y(images * size * sizeof(float));
  ImageSums sums(images, channels);
  std::vector<char> has_nan(images);
  convolve(
      path, block, planes, images, y.floats(), threads, schedule,
      [&](int64_t i) {
        has_nan[i] = path.pack_activations(x + i * block.program.in_size, int64_t{op.height} * op.width, op.channels,
                                           op.activation_bits, block.program.planes, block.keeps_inside,
                                           planes + i * block.plane_words());
      },
      [&](int64_t i) {
        float* image = y.floats() + i * size;
        if (has_nan[i]) std::fill_n(image, size, std::numeric_limits<float>::quiet_NaN());
        path.add_moments(image, block.pixels(), channels, sums.first(i), sums.second(i));
      });
  const double count = static_cast<double>(images) * block.pixels();
  for (int64_t c = 0; c < channels; ++c) {
    const double average = sums.total(0, c) / count, spread = sums.total(1, c) / count - average * average;
    mean[c] = static_cast<float>(average);
    variance[c] = static_cast<float>(spread < 0 ? 0 : spread);
    // Where the square overflows, the emulation subtracts infinities.
    if (!std::isfinite(mean[c] * mean[c])) variance[c] = std::numeric_limits<float>::quiet_NaN();
  }
  const Line line(block, mean, variance);
  const AffinePool pool = line.pool(block);
  for_each_part(images, threads, schedule, [&] {
    return [&](int64_t i) {
      path.affine_pool(pool, y.floats() + i * size, out + i * block.out_size(), at(block.shortcut, i * size),
                       at(sum, i * size));
    };
  });
}

void block_gradient(const Path& path, const BlockPass& block, const uint32_t* planes, const float* mean,
                    const float* variance, const float* g, const float* gsum, int64_t images, const uint32_t* key,
                    int64_t bits, uint8_t* codes, float* scales, float* dscale, float* dbias, float* dshortcut,
                    int64_t threads, const Schedule& schedule) {
  const int64_t channels = block.channels(), size = block.program.out_size;
  const SharedScratch y(images * size * sizeof(float));
  const Line line(block, mean, variance);
  const AffinePool pool = line.pool(block);
  ImageSums sums(images, channels);
  convolve(
      path, block, planes, images, y.floats(), threads, schedule, [](int64_t) {},
      [&](int64_t i) {
        path.add_affine_pool_sums(pool, y.floats() + i * size, g + i * block.out_size(), at(block.shortcut, i * size),
                                  at(gsum, i * size), sums.first(i), sums.second(i));
      });
  // With dz the gradient of what is normalized: dy = factor (dz - mean(dz) - z mean(dz z)), z = (y - mean) / deviation.
  const double count = static_cast<double>(images) * block.pixels();
  std::vector<float> slope(channels), intercept(channels);
  for (int64_t c = 0; c < channels; ++c) {
    const double total = sums.total(1, c);
    const double product = line.inverse[c] * (sums.total(0, c) - mean[c] * total);
    dscale[c] = static_cast<float>(product);
    dbias[c] = static_cast<float>(total);
    const double rise = -line.factor[c] * line.inverse[c] * product / count;
    slope[c] = static_cast<float>(rise);
    intercept[c] = static_cast<float>(-line.factor[c] * total / count - rise * mean[c]);
  }
  const GradientLine rest{slope.data(), intercept.data()};
  for_each_part(images, threads, schedule, [&] {
    auto* dy = static_cast<float*>(thread_scratch(size * sizeof(float)));
    return [&, dy](int64_t i) {
      path.affine_pool_gradient(pool, y.floats() + i * size, g + i * block.out_size(), at(block.shortcut, i * size),
                                at(gsum, i * size), rest, dy, at(dshortcut, i * size));
      scales[i] = path.quantize_gradients(dy, size, i * size, key, bits, codes + i * size);
    };
  });
}

}  // namespace dorefa
