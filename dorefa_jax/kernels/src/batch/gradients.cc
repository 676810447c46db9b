#include "batch/gradients.h"

#include <algorithm>
#include <vector>

#include "batch/examples.h"

namespace dorefa {
namespace {

constexpr double kMaxBytes = 1 << 30;  // of a spread example
constexpr int64_t kPixels = 1 << 12;   // of a part

}  // namespace

void quantize_gradients(const Path& path, const float* g, int64_t examples, int64_t size, const uint32_t* key,
                        int64_t bits, uint8_t* codes, float* scales, int64_t threads, const Schedule& schedule) {
  const int64_t some = std::max<int64_t>(1, kPixels / std::max<int64_t>(1, size));
  for_each_part(ceil_div(examples, some), threads, schedule, [&] {
    return [&, some](int64_t part) {
      for (int64_t i = part * some; i < std::min(examples, (part + 1) * some); ++i) {
        scales[i] = path.quantize_gradients(g + i * size, size, i * size, key, bits, codes + i * size);
      }
    };
  });
}

void pack_activations(const Path& path, const float* x, int64_t pixels, int64_t channels, int64_t bits,
                      int64_t planes, uint32_t* out, int64_t threads, const Schedule& schedule) {
  const int64_t words = planes * ceil_div(channels, 32);
  for_each_part(ceil_div(pixels, kPixels), threads, schedule, [&] {
    return [&](int64_t part) {
      const int64_t first = part * kPixels, count = std::min(kPixels, pixels - first);
      path.pack_activations(x + first * channels, count, channels, bits, planes, true, out + first * words);
    };
  });
}

std::string build_weight_gradient(const Op& op, int64_t gradient_bits, int64_t planes, WeightGradient* w) {
  const std::string error = build_step(op, &w->step);
  if (!error.empty()) return error;
  if (op.kind != Kind::kConv || op.format != Format::kBytes || op.gap_height != 1 || op.gap_width != 1 || op.input_zero) {
    return "a weight gradient is of a convolution of codes, in bytes, without gaps";
  }
  if (gradient_bits < 1 || gradient_bits > kMaxBits) {
    return "bits of gradients must be 1 to 8, got " + std::to_string(gradient_bits);
  }
  if (planes < op.activation_bits || planes > kMaxBits + 1) {
    return "activations of fewer planes than they have bits, or of more than " + std::to_string(kMaxBits + 1);
  }
  const Step& step = w->step;
  const int64_t largest = step.levels(op.activation_bits) * step.levels(gradient_bits);
  if (2 * step.out_height * step.out_width * largest >= int64_t{1} << 31) {
    return "sums of " + std::to_string(step.out_height * step.out_width) + " positions do not fit 32 bits";
  }
  w->gradient_bits = gradient_bits;
  w->plane_words = ceil_div(op.channels, 32);
  w->pixel_words = planes * w->plane_words;
  w->phases = int64_t{op.stride_height} * op.stride_width;
  w->pitch = ceil_div(step.padded_width, op.stride_width);
  w->quads = ceil_div((step.out_height - 1) * w->pitch + step.out_width, 4);
  w->padded_quads = round_up(w->quads, 16);
  // The last quad of the tap that lies furthest may read behind the last row, and 32 pixels are written at a time.
  w->plane_bytes = round_up(ceil_div(step.padded_height, op.stride_height) * w->pitch + 32, 4);
  if (1.0 * op.channels * w->phases * w->plane_bytes > kMaxBytes ||
      4.0 * op.groups * w->padded_quads * step.padded_outputs() > kMaxBytes) {
    return "an example is too large for a weight gradient";
  }
  w->is_position.assign(4 * w->quads, 0);
  for (int64_t y = 0; y < step.out_height; ++y) {
    std::fill_n(w->is_position.begin() + y * w->pitch, step.out_width, uint8_t{255});
  }
  w->activation_bytes = op.groups * w->phases * step.group_channels * w->plane_bytes;
  w->gradient_bytes = op.groups * w->padded_quads * step.padded_outputs() * 4;
  return "";
}

void weight_gradient(const Path& path, const WeightGradient& w, const uint32_t* activations, const uint8_t* gradients,
                     const float* scales, int64_t examples, float* sums, int64_t threads, const Schedule& schedule) {
  const Step& step = w.step;
  const int64_t rows = step.taps() * step.group_channels, pointers = rows * int64_t{sizeof(void*)};
  const int64_t image_words = int64_t{step.op.height} * step.op.width * w.pixel_words;
  const int64_t gradient_size = step.out_height * step.out_width * step.op.outputs;
  sum_examples(examples, step.op.groups * rows * step.padded_outputs(), sums, threads, schedule, [&] {
    const auto parts = scratch_parts({w.activation_bytes, w.gradient_bytes, pointers, pointers, rows * 4});
    const GradientScratch scratch{parts[0], parts[1], reinterpret_cast<const uint8_t**>(parts[2]),
                                  reinterpret_cast<float**>(parts[3]), reinterpret_cast<int32_t*>(parts[4])};
    return [&, scratch](int64_t i, float* out) {
      path.add_weight_gradient(w, activations + i * image_words, gradients + i * gradient_size, scales[i], scratch, out);
    };
  });
}

void sum_gradient_codes(const Path& path, const uint8_t* codes, const float* scales, int64_t examples, int64_t size,
                        int64_t levels, float* sums, int64_t threads, const Schedule& schedule) {
  const int64_t some = kPixels;  // elements of a part, whose sums stay in a cache
  for_each_part(ceil_div(size, some), threads, schedule, [&] {
    return [&, some](int64_t part) {
      const int64_t first = part * some, count = std::min(some, size - first);
      std::fill_n(sums + first, count, 0.0f);
      for (int64_t i = 0; i < examples; ++i) {
        path.add_gradient_codes(codes + i * size + first, count, scales[i], levels, sums + first);
      }
    };
  });
}

std::string build_float_gradient(const Op& op, Step* step) {
  const std::string error = build_step(op, step);
  if (!error.empty()) return error;
  if (op.kind != Kind::kConv || op.format != Format::kFloats || op.groups != 1 || op.gap_height != 1 ||
      op.gap_width != 1) {
    return "a float gradient is of a convolution of floats, of one group and without gaps";
  }
  return "";
}

void float_gradient(const Path& path, const Step& step, const float* images, const float* gradients, int64_t examples,
                    float* sums, int64_t threads, const Schedule& schedule) {
  const int64_t rows = step.taps() * step.op.channels, pointers = rows * int64_t{sizeof(void*)};
  const int64_t image_size = int64_t{step.op.height} * step.op.width * step.op.channels;
  const int64_t gradient_size = step.out_height * step.out_width * step.op.outputs;
  const int64_t padded_bytes = step.image_words * 4, row_bytes = step.out_width * step.padded_outputs() * 4;
  sum_examples(examples, rows * step.padded_outputs(), sums, threads, schedule, [&] {
    const auto parts = scratch_parts({padded_bytes, row_bytes, pointers, pointers});
    return [&, parts](int64_t i, float* out) {
      path.add_float_gradient(step, images + i * image_size, gradients + i * gradient_size,
                              reinterpret_cast<float*>(parts[0]), reinterpret_cast<float*>(parts[1]),
                              reinterpret_cast<const float**>(parts[2]), reinterpret_cast<float**>(parts[3]), out);
    };
  });
}

}  // namespace dorefa
