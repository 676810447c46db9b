#include "batch/image_block.h"

#include <memory>

#include "batch/examples.h"
#include "batch/run.h"

namespace dorefa {
namespace {

// Windows of 2x2 that are whole.
int64_t windows(const Step& step) { return step.out_height / 2 * (step.out_width / 2); }

int64_t winner_words(const Step& step) { return windows(step) * kWinnerPlanes * ceil_div(step.op.outputs, 32); }

}  // namespace

std::string check_image_block(const Step& step) {
  const Op& op = step.op;
  if (!is_float(op.format) || op.kind != Kind::kConv || op.output != Output::kFloats) {
    return "an image block is a convolution of floats";
  }
  if (op.dilation_height != 1 || op.dilation_width != 1 || op.groups != 1 || op.gap_height != 1 || op.gap_width != 1) {
    return "an image block's convolution is without dilation, groups and gaps";
  }
  return step.out_height < 2 || step.out_width < 2 ? "the image is smaller than a window of 2x2" : "";
}

void image_block(const Path& path, const Program& program, Bound bound, const float* x, int64_t images, float* out,
                 uint32_t* winners, int64_t threads, const Schedule& schedule) {
  const Step& step = program.steps[0];
  const AffinePool pool{step.out_height, step.out_width, step.op.outputs, 2, bound, nullptr, nullptr, false, nullptr};
  const int64_t size = program.out_size, pooled_size = windows(step) * step.op.outputs, words = winner_words(step);
  for_each_part(images, threads, schedule, [&] {
    const Buffers buffers = lay_out(program, 1);
    const auto y = std::make_shared<SharedScratch>(size * int64_t{sizeof(float)});
    return [&, buffers, y](int64_t i) {
      path.run_block(program, buffers, x + i * program.in_size, 0, 1, y->floats());
      path.pool_windows(pool, y->floats(), out + i * pooled_size, winners + i * words);
    };
  });
}

int64_t image_block_sums(const Step& step) {
  return step.op.outputs * (step.op.kernel_height * patch_row(step) + 1);
}

void image_block_gradient(const Path& path, const Step& step, const float* x, const uint32_t* winners, const float* g,
                          int64_t examples, float* sums, int64_t threads, const Schedule& schedule) {
  const int64_t image_size = int64_t{step.op.height} * step.op.width * step.op.channels, words = winner_words(step);
  const int64_t pooled_size = windows(step) * step.op.outputs, size = image_block_sums(step);
  const int64_t row_bytes = step.out_width / 2 * step.padded_outputs() * 4;
  const int64_t patch_bytes = patch_rows(step) * step.out_width * patch_row(step) * 4;
  const int64_t offset_bytes = step.op.kernel_height * patch_row(step) * int64_t{sizeof(int64_t)};  // enough for vectors of 1
  sum_examples(examples, size, sums, threads, schedule, [&] {
    const auto parts = scratch_parts({patch_bytes, row_bytes, row_bytes, offset_bytes});
    const WindowScratch scratch{reinterpret_cast<float*>(parts[0]), reinterpret_cast<float*>(parts[1]),
                                reinterpret_cast<uint32_t*>(parts[2]), reinterpret_cast<int64_t*>(parts[3])};
    return [&, scratch](int64_t i, float* out) {
      path.add_window_gradient(step, x + i * image_size, winners + i * words, g + i * pooled_size, scratch, out,
                               out + size - step.op.outputs);
    };
  });
}

}  // namespace dorefa
