#include "batch/examples.h"

#include <algorithm>

#include "program/layout.h"

namespace dorefa {
namespace {

constexpr int64_t kExamples = 16;  // of a part, at least
constexpr int64_t kMaxParts = 32;  // which bounds the memory of their sums
constexpr int64_t kAlignment = 64;
constexpr int64_t kTail = 256;  // readable bytes behind an operand

}  // namespace

void sum_examples(int64_t examples, int64_t size, float* sums, int64_t threads, const Schedule& schedule,
                  const std::function<AddExample()>& make_add) {
  const int64_t some = std::max(kExamples, ceil_div(examples, kMaxParts));
  const int64_t parts = ceil_div(examples, some);
  std::fill_n(sums, size, 0.0f);
  std::vector<float> others(std::max<int64_t>(0, parts - 1) * size);  // all but the first part's
  for_each_part(parts, threads, schedule, [&] {
    return [&, add = make_add()](int64_t part) {
      float* out = part == 0 ? sums : others.data() + (part - 1) * size;
      for (int64_t i = part * some; i < std::min(examples, (part + 1) * some); ++i) add(i, out);
    };
  });
  for (int64_t part = 0; part + 1 < parts; ++part) {
    const float* from = others.data() + part * size;
    for (int64_t i = 0; i < size; ++i) sums[i] += from[i];
  }
}

// Parts of this thread's scratch, of sizes in bytes.
std::vector<uint8_t*> scratch_parts(std::vector<int64_t> sizes) {
  int64_t total = 0;
  for (int64_t& size : sizes) total += size = round_up(size + kTail, kAlignment);
  auto* at = static_cast<uint8_t*>(thread_scratch(total));
  std::vector<uint8_t*> parts;
  for (int64_t size : sizes) {
    parts.push_back(at);
    at += size;
  }
  return parts;
}

}  // namespace dorefa
