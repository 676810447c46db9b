// Blocks at the boundary to XLA: buffers are checked here, and errors become Python exceptions.
#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "batch/conv_block.h"
#include "ffi/checks.h"
#include "batch/gradients.h"
#include "batch/image_block.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace dorefa {
namespace {

using Floats = ffi::Buffer<ffi::F32>;

// An operand that may be missing, and has no elements then.
const float* optional(const Floats& array) { return array.element_count() ? array.typed_data() : nullptr; }
float* optional(ffi::ResultBuffer<ffi::F32>& array) {
  return array->element_count() ? array->typed_data() : nullptr;
}

// What both passes take: norm is {scale, bias, epsilon} [3, channels], spec {window, bound, whether planes tell which activations
// lie inside}; offsets and shortcut may be missing. Returns an empty string, or what is wrong.
std::string read_block(ffi::Buffer<ffi::S32> words, ffi::Buffer<ffi::U32> weights, Floats params, Floats norm,
                       ffi::Buffer<ffi::S32> spec, Floats offsets, Floats shortcut, ffi::Span<const int64_t> planes, BlockPass* block) {
  if (words.element_count() != kOpWords || spec.element_count() != 3) {
    return "a block has one op, and a spec of a window, a bound and a flag";
  }
  const std::vector<Array> arrays = {{weights.typed_data(), static_cast<int64_t>(weights.element_count())},
                                     {params.typed_data(), static_cast<int64_t>(params.element_count())}};
  std::string error = build_program(words.typed_data(), words.element_count(), arrays, &block->program);
  if (!error.empty()) return error;
  const int64_t bound = spec.typed_data()[1];
  if (bound < 0 || bound > 3) return "there are 4 bounds, got " + std::to_string(bound);
  block->keeps_inside = spec.typed_data()[2] != 0;
  block->offsets = optional(offsets);
  block->shortcut = optional(shortcut);
  block->window = spec.typed_data()[0];
  block->bound = static_cast<Bound>(bound);
  block->scale = norm.typed_data();
  block->bias = block->scale + norm.element_count() / 3;
  block->epsilon = block->bias + norm.element_count() / 3;
  const Op& op = block->step().op;
  if (planes.size() != 3 || planes[2] != ceil_div(op.channels, 32)) {
    return "planes are [pixels, planes, words of 32 channels]";
  }
  error = build_block(planes[1], block);
  if (error.empty() && static_cast<int64_t>(norm.element_count()) != 3 * op.outputs) {
    error = "there must be a scale, a bias and an epsilon for each channel";
  }
  if (error.empty() && block->offsets && static_cast<int64_t>(offsets.element_count()) != block->program.out_size) {
    error = "offsets are of one image of the convolution";
  }
  return error;
}

// Whether an array that may be missing is of a batch of a convolution's images.
bool is_missing_or_of(const BlockPass& block, int64_t images, int64_t size) {
  return size == 0 || size == images * block.program.out_size;
}

// Whether arrays of a batch have the sizes that a block takes and gives.
bool fits(const BlockPass& block, int64_t images, ffi::Span<const int64_t> planes, int64_t out, int64_t statistics) {
  const Op& op = block.step().op;
  return images > 0 && planes[0] == images * op.height * op.width && out == images * block.out_size() &&
         statistics == 2 * block.channels();
}

ffi::Error block_checked(ffi::ThreadPool pool, Floats x, ffi::Buffer<ffi::S32> words, ffi::Buffer<ffi::U32> weights,
                         Floats params, Floats norm, ffi::Buffer<ffi::S32> spec, Floats offsets, Floats shortcut,
                         ffi::ResultBuffer<ffi::U32> planes, ffi::ResultBuffer<ffi::F32> statistics,
                         ffi::ResultBuffer<ffi::F32> out, ffi::ResultBuffer<ffi::F32> sum, int64_t path) {
  if (!has_path(path)) return no_path(path);
  BlockPass block;
  block.gives_sum = sum->element_count();
  const std::string error =
      read_block(words, weights, params, norm, spec, offsets, shortcut, planes->dimensions(), &block);
  if (!error.empty()) return invalid(error);
  const int64_t images = static_cast<int64_t>(x.element_count()) / block.program.in_size;
  if (static_cast<int64_t>(x.element_count()) != images * block.program.in_size ||
      !fits(block, images, planes->dimensions(), out->element_count(), statistics->element_count()) ||
      !is_missing_or_of(block, images, shortcut.element_count()) ||
      !is_missing_or_of(block, images, sum->element_count())) {
    return invalid("activations, their planes, statistics and the results of a block do not fit");
  }
  float* mean = statistics->typed_data();
  block_forward(paths()[path], block, x.typed_data(), images, planes->typed_data(), mean, mean + block.channels(),
                out->typed_data(), optional(sum), pool.num_threads(), schedule_on(pool));
  return ffi::Error::Success();
}

ffi::Error block_gradient_checked(ffi::ThreadPool pool, ffi::Buffer<ffi::U32> planes, ffi::Buffer<ffi::S32> words,
                                  ffi::Buffer<ffi::U32> weights, Floats params, Floats norm,
                                  ffi::Buffer<ffi::S32> spec, Floats offsets, Floats shortcut, Floats statistics,
                                  Floats g, Floats gsum, ffi::Buffer<ffi::U32> key, ffi::Buffer<ffi::S32> bits,
                                  ffi::ResultBuffer<ffi::U8> codes, ffi::ResultBuffer<ffi::F32> scales,
                                  ffi::ResultBuffer<ffi::F32> dnorm, ffi::ResultBuffer<ffi::F32> dshortcut,
                                  int64_t path) {
  if (!has_path(path)) return no_path(path);
  BlockPass block;
  block.gives_sum = gsum.element_count();
  const std::string error =
      read_block(words, weights, params, norm, spec, offsets, shortcut, planes.dimensions(), &block);
  if (!error.empty()) return invalid(error);
  if (key.element_count() != 2 || bits.element_count() != 1) return invalid("a key has 2 words, and bits are 1");
  const int64_t width = bits.typed_data()[0], images = static_cast<int64_t>(scales->element_count());
  if (width < 1 || width > kMaxBits) return invalid("bits of gradients must be 1 to 8, got " + std::to_string(width));
  if (!fits(block, images, planes.dimensions(), g.element_count(), statistics.element_count()) ||
      static_cast<int64_t>(codes->element_count()) != images * block.program.out_size ||
      3 * dnorm->element_count() != 2 * norm.element_count() || dshortcut->element_count() != shortcut.element_count() ||
      !is_missing_or_of(block, images, shortcut.element_count()) ||
      !is_missing_or_of(block, images, gsum.element_count())) {
    return invalid("planes, statistics and gradients of a block of " + std::to_string(images) + " examples do not fit");
  }
  const float* mean = statistics.typed_data();
  float* dscale = dnorm->typed_data();
  block_gradient(paths()[path], block, planes.typed_data(), mean, mean + block.channels(), g.typed_data(),
                 optional(gsum), images, key.typed_data(), width, codes->typed_data(), scales->typed_data(), dscale,
                 dscale + block.channels(), optional(dshortcut), pool.num_threads(), schedule_on(pool));
  return ffi::Error::Success();
}

// Whether winners and a result are of the pooled result of a convolution of some images.
std::string check_pooled(const Step& step, int64_t images, ffi::Span<const int64_t> winners, int64_t pooled_size) {
  const std::string error = check_image_block(step);
  if (!error.empty()) return error;
  const int64_t windows = images * (step.out_height / 2) * (step.out_width / 2);
  if (winners.size() != 3 || winners[0] != windows || winners[1] != kWinnerPlanes ||
      winners[2] != ceil_div(step.op.outputs, 32) || pooled_size != windows * step.op.outputs) {
    return "winners, [windows, 5, words of 32 channels], and the result of " + std::to_string(images) +
           " images do not fit";
  }
  return "";
}

// spec: {bound}.
ffi::Error image_block_checked(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> x, ffi::Buffer<ffi::S32> words,
                               ffi::Buffer<ffi::F32> weights, ffi::Buffer<ffi::F32> params, ffi::Buffer<ffi::S32> spec,
                               ffi::ResultBuffer<ffi::F32> out, ffi::ResultBuffer<ffi::U32> winners, int64_t path) {
  if (!has_path(path)) return no_path(path);
  if (words.element_count() != kOpWords || spec.element_count() != 1 || x.dimensions().size() == 0) {
    return invalid("an image block has one op, one bound, and a batch axis");
  }
  const std::vector<Array> arrays = {{weights.typed_data(), static_cast<int64_t>(weights.element_count())},
                                     {params.typed_data(), static_cast<int64_t>(params.element_count())}};
  Program program;
  std::string error = build_program(words.typed_data(), words.element_count(), arrays, &program);
  if (!error.empty()) return invalid(error);
  const int64_t bound = spec.typed_data()[0], images = x.dimensions()[0];
  if (bound < 0 || bound > 3) return invalid("there are 4 bounds, got " + std::to_string(bound));
  if (images < 0 || images > (int64_t{1} << 62) / std::max(program.in_size, program.out_size) ||
      static_cast<int64_t>(x.element_count()) != images * program.in_size) {
    return invalid("images of another size");
  }
  error = check_pooled(program.steps[0], images, winners->dimensions(), out->element_count());
  if (!error.empty()) return invalid(error);
  image_block(paths()[path], program, static_cast<Bound>(bound), x.typed_data(), images, out->typed_data(),
              winners->typed_data(), pool.num_threads(), schedule_on(pool));
  return ffi::Error::Success();
}

// sums: see image_block_sums.
ffi::Error image_block_gradient_checked(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> x, ffi::Buffer<ffi::U32> winners,
                                        ffi::Buffer<ffi::F32> g, ffi::Buffer<ffi::S32> words,
                                        ffi::ResultBuffer<ffi::F32> sums, int64_t path) {
  if (!has_path(path)) return no_path(path);
  if (words.element_count() != kOpWords || x.dimensions().size() == 0) {
    return invalid("an image block has one op, and a batch axis");
  }
  Op op;
  std::memcpy(&op, words.typed_data(), sizeof op);
  Step step{};
  std::string error = build_float_gradient(op, &step);
  const int64_t images = x.dimensions()[0];
  if (error.empty()) error = check_pooled(step, images, winners.dimensions(), g.element_count());
  if (!error.empty()) return invalid(error);
  if (static_cast<int64_t>(x.element_count()) != images * op.height * op.width * op.channels ||
      static_cast<int64_t>(sums->element_count()) != image_block_sums(step)) {
    return invalid("images and sums of " + std::to_string(images) + " examples do not fit");
  }
  image_block_gradient(paths()[path], step, x.typed_data(), winners.typed_data(), g.typed_data(), images,
                       sums->typed_data(), pool.num_threads(), schedule_on(pool));
  return ffi::Error::Success();
}

}  // namespace
}  // namespace dorefa

XLA_FFI_DEFINE_HANDLER_SYMBOL(DorefaImageBlock, DOREFA_GUARDED(dorefa::image_block_checked),
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::U32>>()
                                  .Attr<int64_t>("path"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(DorefaImageBlockGradient, DOREFA_GUARDED(dorefa::image_block_gradient_checked),
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::U32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<int64_t>("path"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(DorefaBlock, DOREFA_GUARDED(dorefa::block_checked),
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::Buffer<ffi::U32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::U32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<int64_t>("path"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(DorefaBlockGradient, DOREFA_GUARDED(dorefa::block_gradient_checked),
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::U32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::Buffer<ffi::U32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::U32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Ret<ffi::Buffer<ffi::U8>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<int64_t>("path"));
