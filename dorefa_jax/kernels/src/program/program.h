// A program: a chain of convolutions and poolings that runs image by image.
#ifndef DOREFA_PROGRAM_H_
#define DOREFA_PROGRAM_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "program/layout.h"

namespace dorefa {

// A maximum over windows is taken of codes, or of the sums of the convolution before it.
enum class Kind : int32_t { kConv = 0, kPool = 1, kPoolSums = 2 };

// What becomes of a convolution's sums.
enum class Output : int32_t {
  kFloats = 0,      // factor * sum + offset, the program's result
  kAffine = 1,      // the code trunc(clamp(factor * sum + offset, 0, levels))
  kThresholds = 2,  // the code that counts the thresholds not above the sum
  kValley = 3,      // as many thresholds, and the code counts those of a second set that are above it, too
  kGradient = 4,    // factor * the image's scale * sum, a program's result of codes
};

// One record of a program, as ../../program.py writes it: int32 fields in this order.
struct Op {
  Kind kind;
  Format format;            // of the input and the weights
  int32_t weight_bits;      // 1 to 8
  int32_t activation_bits;  // of the input, 1 to 8
  int32_t height, width, channels;
  int32_t kernel_height, kernel_width;
  int32_t stride_height, stride_width;
  int32_t dilation_height, dilation_width;
  int32_t pad_top, pad_bottom, pad_left, pad_right;
  int32_t groups;
  int32_t outputs;  // channels
  Output output;
  int32_t gap_height, gap_width;  // steps between the pixels of the input, zeros between them; 1 or more
  int32_t weight_zero;  // the weight of code c is 2 c - weight_zero; kMiddle for the middle of the codes' range
  int32_t input_zero;   // 0: a product is of codes a; else of 2 a - input_zero, and padding and gaps are zeros
};
constexpr int32_t kMiddle = -1;
constexpr int64_t kOpWords = 24;
static_assert(sizeof(Op) == kOpWords * sizeof(int32_t), "an Op is int32 fields and nothing else");

// An array that a program refers to: a convolution's weights, parameters or sums of weights.
struct Array {
  const void* data = nullptr;
  int64_t size = 0;  // elements of 4 bytes
};

// An op with all that follows from it.
struct Step {
  Op op;
  Array weights, params;
  Array tap_sums;  // of a group's weights, [group][tap][padded outputs], where the input has a zero
  int64_t padded_height, padded_width, out_height, out_width;
  int64_t group_channels, group_outputs;
  int64_t pixel_words, row_words, plane_words, group_words, image_words;  // strides of the input
  bool doubles;        // an integer product is (doubles ? 2 : 1) * sum + row_factor * (sum of the window's codes)
  int64_t row_factor;
  std::vector<int64_t> segments;   // word offsets, from a window's first pixel, of contiguous runs
  int64_t segment_words;
  // Where the input has a zero: a class for each set of taps that lie on pixels, and what is subtracted from twice the
  // sums, [group][class][padded outputs].
  std::vector<int32_t> classes;  // of each pixel of the result
  int64_t class_count;
  std::vector<int32_t> class_offsets;
  int64_t tile;         // outputs of a Winograd tile, or 1
  int64_t point_words;  // a row of tiles at one point
  int64_t line_words;   // room to take a row of input apart
  int64_t tables;           // of a pixel, where weights are indices
  int64_t table_row_bytes;  // of the tables of a padded row of input
  int64_t table_rows;       // that a row of windows covers, and those between them

  int64_t padded_outputs() const { return round_up(group_outputs, kChannelMultiple); }
  bool is_pool() const { return op.kind != Kind::kConv; }
  bool is_corrected() const { return doubles || row_factor; }
  int64_t levels(int64_t bits) const { return (int64_t{1} << bits) - 1; }
  int64_t weight_zero() const { return op.weight_zero == kMiddle ? levels(op.weight_bits) : op.weight_zero; }
  int64_t taps() const {
    return op.kernel_height * int64_t{op.format == Format::kWinograd ? kPoints : op.kernel_width};
  }
};

// What a program's input holds: floats, to be quantized where the first op multiplies codes; codes, a byte each; or
// bit planes of codes, [pixel][plane][word of 32 channels].
enum class Input { kFloats, kCodes, kPlanes };

struct Program {
  std::vector<Step> steps;
  int64_t in_size, out_size;  // elements of an image and of its result
  Input input = Input::kFloats;
  int64_t planes = 0;  // of a pixel, where the input is planes
  const float* scales = nullptr;  // of each image, where the result is gradients
  // Bit planes of the result's images, [pixel][plane][word of 32 channels]; what the last plane has no bit for is zero.
  const uint32_t* kept = nullptr;
  int64_t kept_planes = 0;
};

// Checks one op, and derives what follows from it. Returns an empty string, or what is wrong.
std::string build_step(const Op& op, Step* step);

// Checks records and array sizes, so that running cannot leave any buffer. Returns an
// empty string, or what is wrong.
std::string build_program(const int32_t* words, int64_t count, const std::vector<Array>& arrays, Program* program);

}  // namespace dorefa

#endif  // DOREFA_PROGRAM_H_
