#include "batch/run.h"

#include <algorithm>
#include <cstring>

namespace dorefa {
namespace {

constexpr int64_t kBlockBytes = 256 << 10;  // of the operands of a block: a fraction of a core's second cache
constexpr int64_t kMaxBlock = 4096;         // images
constexpr int64_t kAlignment = 64;          // of each operand, for vectors
constexpr int64_t kTail = 256;              // readable bytes behind an operand: vectors may overrun it

// Bytes of the operands of one image.
int64_t operand_bytes(const Program& program) {
  int64_t words = 0;
  for (const Step& step : program.steps) words += step.image_words;
  return words * 4;
}

}  // namespace

int64_t block_size(const Program& program, int64_t images, int64_t threads) {
  const int64_t fit = std::max<int64_t>(1, kBlockBytes / operand_bytes(program));
  const int64_t share = ceil_div(images, threads);
  const int64_t largest = std::min(std::min(fit, kMaxBlock), std::max<int64_t>(1, share));
  return ceil_div(images, ceil_div(images, largest));  // blocks of about one size
}

Buffers lay_out(const Program& program, int64_t images) {
  int64_t windows = 0, classes = 0, tables = 0, width = 0, line = 0, plane = 0, row = 0, strip = 0;
  for (size_t i = 0; i < program.steps.size(); ++i) {
    const Step& step = program.steps[i];
    windows = std::max(windows, step.out_height * step.out_width);
    classes = std::max(classes, static_cast<int64_t>(step.classes.size()));
    line = std::max(line, step.line_words);
    tables = std::max(tables, step.table_rows * step.table_row_bytes);
    if (step.tables) width = std::max(width, step.out_width);
    plane = std::max(plane, step.plane_words);
    row = std::max(row, step.row_words);
    if (step.op.kind == Kind::kPoolSums) {
      strip = std::max(strip, step.op.kernel_height * int64_t{step.op.width} * program.steps[i - 1].padded_outputs());
    }
  }
  std::vector<int64_t> sizes;
  for (const Step& step : program.steps) sizes.push_back(images * step.image_words * 4 + kTail);
  const size_t operands = sizes.size();
  sizes.insert(sizes.end(), {plane * 4, row * 4, row * 4 * kMaxBits, strip * 4, images * windows * 4,
                             images * windows * 4, images * windows * 4, images, line * 4 + kTail, tables,
                             width * 4 * kPanelChannels * int64_t{sizeof(uint16_t)}, images * classes * 4});
  int64_t total = 0;
  for (int64_t& size : sizes) total += size = round_up(size, kAlignment);

  uint8_t* at = static_cast<uint8_t*>(thread_scratch(total));
  std::vector<uint8_t*> parts;
  for (int64_t size : sizes) {
    parts.push_back(at);
    at += size;
  }
  std::memset(parts[0], 0, parts[operands] - parts[0]);
  auto words = [&](size_t part) { return reinterpret_cast<uint32_t*>(parts[part]); };
  auto counts = [&](size_t part) { return reinterpret_cast<int32_t*>(parts[part]); };
  Buffers buffers;
  for (size_t i = 0; i < operands; ++i) buffers.inputs.push_back(words(i));
  buffers.word_sums = counts(operands);
  buffers.column_sums = counts(operands + 1);
  buffers.pooled_rows = words(operands + 2);
  buffers.pooled_sums = words(operands + 3);
  buffers.row_sums = counts(operands + 4);
  buffers.row_offsets = counts(operands + 5);
  buffers.code_offsets = counts(operands + 6);
  buffers.nan = parts[operands + 7];
  buffers.line = reinterpret_cast<float*>(parts[operands + 8]);
  buffers.tables = parts[operands + 9];
  buffers.table_sums = reinterpret_cast<uint16_t*>(parts[operands + 10]);
  buffers.row_classes = counts(operands + 11);
  return buffers;
}

void run(const Program& program, const Path& path, const void* x, int64_t images, float* y, int64_t threads,
         const Schedule& schedule) {
  if (images == 0) return;
  const int64_t block = block_size(program, images, std::max<int64_t>(1, threads));
  const int64_t count = ceil_div(images, block);
  for_each_part(count, threads, schedule, [&] {
    const Buffers buffers = lay_out(program, block);
    return [&, buffers](int64_t part) {
      const int64_t first = part * block;
      path.run_block(program, buffers, x, first, std::min(block, images - first), y);
    };
  });
}

}  // namespace dorefa
