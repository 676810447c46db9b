#include "program/program.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <numeric>
#include <utility>

namespace dorefa {
namespace {

constexpr int64_t kMaxElements = int64_t{1} << 30;  // of one image of one operand, in words
constexpr int64_t kMaxExtent = 1 << 24;             // of any field

std::string describe(const Op& op, size_t index) {
  return "op " + std::to_string(index) + " (" + (op.kind == Kind::kConv ? "convolution" : "pooling") + " of [" +
         std::to_string(op.height) + ", " + std::to_string(op.width) + ", " + std::to_string(op.channels) +
         "], kernel [" + std::to_string(op.kernel_height) + ", " + std::to_string(op.kernel_width) + "], " +
         std::to_string(op.outputs) + " outputs, " + std::to_string(op.groups) + " groups): ";
}

bool in_range(int64_t value, int64_t low, int64_t high) { return low <= value && value <= high; }

std::string check_fields(const Op& op) {
  if (!in_range(static_cast<int64_t>(op.kind), 0, 2)) return "unknown kind";
  if (!in_range(static_cast<int64_t>(op.format), 0, 4)) return "unknown format";
  if (!in_range(static_cast<int64_t>(op.output), 0, 4)) return "unknown output";
  if (!in_range(op.weight_bits, 1, kMaxBits)) {
    return "bits of weights must be 1 to 8, got " + std::to_string(op.weight_bits);
  }
  if (!in_range(op.activation_bits, 1, kMaxBits)) {
    return "bits of activations must be 1 to 8, got " + std::to_string(op.activation_bits);
  }
  for (int64_t extent : {op.height, op.width, op.channels, op.kernel_height, op.kernel_width, op.stride_height,
                         op.stride_width, op.dilation_height, op.dilation_width, op.groups, op.outputs, op.gap_height,
                         op.gap_width}) {
    if (!in_range(extent, 1, kMaxExtent)) return "an extent is out of range: " + std::to_string(extent);
  }
  for (int64_t pad : {op.pad_top, op.pad_bottom, op.pad_left, op.pad_right}) {
    if (!in_range(pad, 0, kMaxExtent)) return "a padding is out of range: " + std::to_string(pad);
  }
  if (!in_range(op.weight_zero, kMiddle, 2 * ((1 << op.weight_bits) - 1))) {
    return "the zero of weights is out of range: " + std::to_string(op.weight_zero);
  }
  if (!in_range(op.input_zero, 0, 2 * ((1 << op.activation_bits) - 1))) {
    return "the zero of the input is out of range: " + std::to_string(op.input_zero);
  }
  if (op.input_zero && (op.kind != Kind::kConv || is_float(op.format))) return "only codes of a convolution have a zero";
  if (op.channels % op.groups || op.outputs % op.groups) return "groups do not divide the channels";
  if (op.kind != Kind::kConv && (op.outputs != op.channels || is_float(op.format))) {
    return "a pooling keeps its channels, which are codes";
  }
  return "";
}

// Fills the derived fields of a step.
std::string derive(Step* step) {
  const Op& op = step->op;
  const int64_t reach_height = int64_t{op.kernel_height - 1} * op.dilation_height + 1;
  const int64_t reach_width = int64_t{op.kernel_width - 1} * op.dilation_width + 1;
  step->padded_height = int64_t{op.height - 1} * op.gap_height + 1 + op.pad_top + op.pad_bottom;
  step->padded_width = int64_t{op.width - 1} * op.gap_width + 1 + op.pad_left + op.pad_right;
  if (step->padded_height > kMaxElements || step->padded_width > kMaxElements) return "the input is too large";
  if (reach_height > step->padded_height || reach_width > step->padded_width) return "the kernel exceeds the input";
  step->out_height = (step->padded_height - reach_height) / op.stride_height + 1;
  step->out_width = (step->padded_width - reach_width) / op.stride_width + 1;
  step->group_channels = op.channels / op.groups;
  step->group_outputs = op.outputs / op.groups;

  step->pixel_words = pixel_words(op.format, step->group_channels);
  step->row_words = step->padded_width * step->pixel_words;
  step->tile = 1;
  if (op.format == Format::kWinograd) {
    step->tile = kPoints + 1 - op.kernel_width;
    if (!in_range(step->tile, 2, 4) || op.stride_width != 1 || op.dilation_width != 1 || op.groups != 1 ||
        op.gap_width != 1 || op.gap_height != 1 || step->out_width % step->tile) {
      return "a Winograd product needs a kernel 3 to 5 wide without steps or groups, and rows of whole tiles";
    }
    const int64_t tiles = step->out_width / step->tile;
    step->point_words = tiles * step->pixel_words;
    step->row_words = kPoints * step->point_words;
    step->line_words = (step->tile * (tiles + 2)) * step->pixel_words;
  }
  if (step->padded_height > kMaxElements / step->row_words) return "the input is too large";
  step->plane_words = step->padded_height * step->row_words;
  step->group_words = planes(op.format, op.activation_bits) * step->plane_words;
  if (step->group_words > kMaxElements / op.groups) return "the input is too large";
  step->image_words = op.groups * step->group_words;
  if (step->out_height * step->out_width > kMaxElements / op.outputs) return "the output is too large";
  if (op.format == Format::kTables && !step->is_pool()) {
    step->tables = ceil_div(step->group_channels, kTableChannels);
    const int64_t spare = 3;  // tables are built in fours
    step->table_row_bytes = (step->padded_width * step->tables + spare) * kTableSize;
    step->table_rows = reach_height;
    if (reach_height > kMaxElements / step->table_row_bytes) return "the input is too large for tables";
  }
  const int64_t taps = int64_t{op.kernel_height} * op.kernel_width;
  if (taps > kMaxExtent) return "the kernel is too large";
  for (int64_t y = 0; y < op.kernel_height; ++y) {
    const int64_t row = y * op.dilation_height * step->row_words;
    if (op.dilation_width == 1) {  // always, of a Winograd product
      step->segments.push_back(row);
      continue;
    }
    for (int64_t x = 0; x < op.kernel_width; ++x) {
      step->segments.push_back(row + x * op.dilation_width * step->pixel_words);
    }
  }
  const bool is_run = op.dilation_width == 1 && op.format != Format::kWinograd;
  step->segment_words = (is_run ? op.kernel_width : 1) * step->pixel_words;
  if (step->is_pool()) return "";

  const int64_t weight_levels = step->levels(op.weight_bits), zero = step->weight_zero();
  const int64_t length = taps * step->group_channels;
  if (op.format == Format::kTables) {
    if (op.weight_bits != 1 || op.activation_bits > 5 || length * step->levels(op.activation_bits) >= 1 << 16) {
      return "tables need weights of 1 bit, codes of at most 5, and sums below 2^16";
    }
  }
  if (op.format == Format::kBits || op.format == Format::kTables) {
    step->doubles = true;
    step->row_factor = -zero;  // sums are of a c
  } else if (op.format == Format::kBytes && op.weight_bits == kMaxBits) {
    step->doubles = true;
    step->row_factor = 256 - zero;  // sums are of a (c - 128), since 2 c - 255 does not fit a signed byte
  } else if (op.format == Format::kBytes) {
    step->row_factor = weight_levels - zero;  // sums are of a (2 c - levels)
  }
  const int64_t largest = std::max(zero, 2 * weight_levels - zero);
  const int64_t levels = step->levels(op.activation_bits), input_zero = op.input_zero;
  const int64_t largest_input = input_zero ? std::max(input_zero, 2 * levels - input_zero) : levels;
  if (!is_float(op.format) && length * largest_input > (int64_t{1} << 31) / largest - 1) {
    return "sums of " + std::to_string(length) + " products do not fit 32 bits";
  }
  return "";
}

// Checks the arrays of a convolution, whose codes go to `next` where there is one.
std::string check_arrays(const Step& step, const Step* next) {
  const Op& op = step.op;
  const int64_t bits = op.format == Format::kBits ? op.weight_bits : 1;
  const int64_t words = op.groups * group_words(op.format, bits, step.taps(), step.group_channels, step.group_outputs);
  // An array for the widest weights serves narrower ones: bit widths are run-time data.
  if (step.weights.size < words) {
    return "weights need " + std::to_string(words) + " words, got " + std::to_string(step.weights.size);
  }
  const bool is_counted = op.output == Output::kThresholds || op.output == Output::kValley;
  const int64_t sets = op.output == Output::kThresholds || op.output == Output::kGradient ? 1 : 2;
  const int64_t rows = sets * (is_counted ? step.levels(next->op.activation_bits) : 1);
  const int64_t params = rows * op.groups * step.padded_outputs();
  if (step.params.size != params) {
    return "parameters need " + std::to_string(params) + " elements, got " + std::to_string(step.params.size);
  }
  const int64_t sums = op.input_zero ? op.groups * step.taps() * step.padded_outputs() : 0;
  if (step.tap_sums.size != sums) {
    return "sums of weights need " + std::to_string(sums) + " elements, got " + std::to_string(step.tap_sums.size);
  }
  return "";
}

// Checks that `next` takes what `step` gives.
std::string check_link(const Step& step, const Step& next) {
  if (next.op.gap_height != 1 || next.op.gap_width != 1) return "only a program's input has gaps";
  if (is_float(next.op.format)) return "only the first convolution takes floats";
  if (next.op.height != step.out_height || next.op.width != step.out_width || next.op.channels != step.op.outputs) {
    return "gives [" + std::to_string(step.out_height) + ", " + std::to_string(step.out_width) + ", " +
           std::to_string(step.op.outputs) + "], which the next op does not take";
  }
  const bool is_pool = step.is_pool();
  if (next.op.kind == Kind::kPoolSums) {
    const Op& window = next.op;
    const bool is_tiled = window.kernel_height == window.stride_height && window.kernel_width == window.stride_width &&
                          window.dilation_height == 1 && window.dilation_width == 1 &&
                          next.padded_height == window.height && next.padded_width == window.width;
    if (is_pool || !is_tiled) return "sums are pooled behind a convolution, in windows side by side";
  }
  if (is_pool && (step.op.format != next.op.format || step.op.activation_bits != next.op.activation_bits ||
                  step.op.groups != next.op.groups)) {
    return "a pooling gives what it takes, which the next op does not";
  }
  if (!is_pool && (step.op.groups > 1 || next.op.groups > 1) &&
      (step.group_outputs % 32 || next.group_channels % 32)) {
    return "groups inside a chain must have a multiple of 32 channels";
  }
  return "";
}

// Some taps along one axis: `count` of them, from `first` on.
struct Taps {
  int64_t first, count;
};

// The taps, along one axis, that lie on pixels of the input, from each pixel of the result: sets, each once, and the
// number of each pixel's. All sets have every `step`-th tap, as gaps between pixels have it.
struct TapSets {
  int64_t step;
  std::vector<Taps> sets;
  std::vector<int64_t> numbers;
};

TapSets find_taps(int64_t out, int64_t kernel, int64_t stride, int64_t dilation, int64_t pad, int64_t gap, int64_t size) {
  TapSets found{gap / std::gcd(dilation, gap), {}, {}};
  std::map<std::pair<int64_t, int64_t>, int64_t> numbers;
  for (int64_t y = 0; y < out; ++y) {
    const auto place = [&](int64_t tap) { return y * stride + tap * dilation - pad; };
    int64_t first = place(0) < 0 ? ceil_div(-place(0), dilation) : 0, candidates = 0;
    while (candidates < found.step && place(first) % gap != 0) {
      ++first;
      ++candidates;
    }
    const int64_t room = std::min(kernel - 1 - first, ((size - 1) * gap - place(first)) / dilation);
    const bool is_any = candidates < found.step && first < kernel && place(first) <= (size - 1) * gap;
    const Taps taps = is_any ? Taps{first, room / found.step + 1} : Taps{0, 0};
    const auto [entry, is_new] =
        numbers.emplace(std::make_pair(taps.first, taps.count), static_cast<int64_t>(found.sets.size()));
    if (is_new) found.sets.push_back(taps);
    found.numbers.push_back(entry->second);
  }
  return found;
}

// sum (2 a - z) w = 2 sum a w - z sum w, and the second sum is over the taps that lie on pixels: the same for all inner
// pixels. Modulo 2^32, as the sums themselves.
void subtract_zero(Step* step) {
  const Op& op = step->op;
  const TapSets rows = find_taps(step->out_height, op.kernel_height, op.stride_height, op.dilation_height, op.pad_top,
                                 op.gap_height, op.height);
  const TapSets columns = find_taps(step->out_width, op.kernel_width, op.stride_width, op.dilation_width, op.pad_left,
                                    op.gap_width, op.width);
  const int64_t lanes = step->padded_outputs(), width = static_cast<int64_t>(columns.sets.size());
  step->class_count = static_cast<int64_t>(rows.sets.size()) * width;
  step->classes.clear();
  for (const int64_t row : rows.numbers) {
    for (const int64_t column : columns.numbers) step->classes.push_back(static_cast<int32_t>(row * width + column));
  }
  step->class_offsets.assign(op.groups * step->class_count * lanes, 0);
  int32_t* out = step->class_offsets.data();
  const auto* sums = static_cast<const int32_t*>(step->tap_sums.data);
  const auto zero = static_cast<uint32_t>(op.input_zero);
  for (int64_t group = 0; group < op.groups; ++group, sums += step->taps() * lanes) {
    for (const auto& row : rows.sets) {
      for (const auto& column : columns.sets) {
        for (int64_t i = 0; i < row.count; ++i) {
          for (int64_t j = 0; j < column.count; ++j) {
            const int64_t v = row.first + i * rows.step, u = column.first + j * columns.step;
            const int32_t* from = sums + (v * op.kernel_width + u) * lanes;
            for (int64_t lane = 0; lane < lanes; ++lane) {
              const uint32_t sum = static_cast<uint32_t>(out[lane]) + zero * static_cast<uint32_t>(from[lane]);
              out[lane] = static_cast<int32_t>(sum);
            }
          }
        }
        out += lanes;
      }
    }
  }
}

}  // namespace

std::string build_step(const Op& op, Step* step) {
  step->op = op;
  std::string error = check_fields(op);
  if (error.empty()) error = derive(step);
  return error.empty() ? error : describe(op, 0) + error;
}

std::string build_program(const int32_t* words, int64_t count, const std::vector<Array>& arrays, Program* program) {
  if (count <= 0 || count % kOpWords) return "a program is records of " + std::to_string(kOpWords) + " words";
  size_t used = 0;
  for (int64_t start = 0; start < count; start += kOpWords) {
    Step step{};
    std::memcpy(&step.op, words + start, sizeof(Op));
    const size_t index = program->steps.size();
    std::string error = check_fields(step.op);
    if (error.empty()) error = derive(&step);
    if (error.empty() && step.op.kind == Kind::kConv) {
      if (used + (step.op.input_zero ? 3 : 2) > arrays.size()) {
        return "a program with fewer arrays than its convolutions need";
      }
      step.weights = arrays[used++];
      step.params = arrays[used++];
      if (step.op.input_zero) step.tap_sums = arrays[used++];
    }
    if (!error.empty()) return describe(step.op, index) + error;
    program->steps.push_back(step);
  }
  if (used != arrays.size()) return "a program with more arrays than its convolutions need";
  for (size_t i = 0; i < program->steps.size(); ++i) {
    const Step& step = program->steps[i];
    const Step* next = i + 1 < program->steps.size() ? &program->steps[i + 1] : nullptr;
    std::string error;
    const bool gives_floats = step.op.output == Output::kFloats || step.op.output == Output::kGradient;
    if (next == nullptr && (step.is_pool() || !gives_floats)) {
      error = "a program ends in a convolution that gives floats";
    } else if (next != nullptr && step.op.kind == Kind::kConv && gives_floats) {
      error = "only the last convolution gives floats";
    } else if (next != nullptr) {
      error = check_link(step, *next);
    }
    if (error.empty() && step.op.kind == Kind::kConv) error = check_arrays(step, next);
    if (error.empty() && step.op.input_zero) subtract_zero(&program->steps[i]);
    if (!error.empty()) return describe(step.op, i) + error;
  }
  // Scales are of a program of codes alone.
  const bool gives_gradients = program->steps.back().op.output == Output::kGradient;
  if (gives_gradients != (program->scales != nullptr) || (gives_gradients && program->steps.size() > 1)) {
    return "gradients are what one convolution of codes gives";
  }
  if (gives_gradients && is_float(program->steps[0].op.format)) return "gradients are of codes, not of floats";
  const Step& first = program->steps.front();
  const Step& last = program->steps.back();
  if (first.is_pool()) return describe(first.op, 0) + "a program begins with a convolution";
  if ((first.op.gap_height != 1 || first.op.gap_width != 1) && program->input != Input::kCodes) {
    return describe(first.op, 0) + "only codes have gaps between their pixels";
  }
  program->in_size = int64_t{first.op.height} * first.op.width * first.op.channels;
  program->out_size = last.out_height * last.out_width * last.op.outputs;
  return "";
}

}  // namespace dorefa
