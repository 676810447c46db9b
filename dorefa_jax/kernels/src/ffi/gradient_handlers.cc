// The backward pass at the boundary to XLA: buffers are checked here, and errors become Python exceptions.
#include <cstring>
#include <exception>
#include <string>
#include <vector>

#include "ffi/checks.h"
#include "program/program.h"
#include "batch/run.h"
#include "batch/gradients.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace dorefa {
namespace {

std::string check_bits(int64_t bits, const char* of) {
  if (bits >= 1 && bits <= kMaxBits) return "";
  return std::string("bits of ") + of + " must be 1 to 8, got " + std::to_string(bits);
}

ffi::Error quantize_checked(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> g, ffi::Buffer<ffi::U32> key,
                            ffi::Buffer<ffi::S32> bits, ffi::ResultBuffer<ffi::U8> codes,
                            ffi::ResultBuffer<ffi::F32> scales, int64_t path) {
  if (!has_path(path)) return no_path(path);
  const int64_t examples = static_cast<int64_t>(scales->element_count());
  const int64_t elements = static_cast<int64_t>(g.element_count());
  if (key.element_count() != 2 || bits.element_count() != 1) return invalid("a key has 2 words, and bits are 1");
  const std::string error = check_bits(bits.typed_data()[0], "gradients");
  if (!error.empty()) return invalid(error);
  if (static_cast<int64_t>(codes->element_count()) != elements || (examples ? elements % examples : elements)) {
    return invalid("gradients of " + std::to_string(elements) + " elements in " + std::to_string(examples) + " examples");
  }
  if (elements == 0) {
    std::memset(scales->typed_data(), 0, examples * sizeof(float));
    return ffi::Error::Success();
  }
  quantize_gradients(paths()[path], g.typed_data(), examples, elements / examples, key.typed_data(),
                     bits.typed_data()[0], codes->typed_data(), scales->typed_data(), pool.num_threads(),
                     schedule_on(pool));
  return ffi::Error::Success();
}

// x: [pixels, channels]; planes: [pixels, planes, words].
ffi::Error pack_checked(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> x, ffi::Buffer<ffi::S32> bits,
                        ffi::ResultBuffer<ffi::U32> planes, int64_t path) {
  if (!has_path(path)) return no_path(path);
  const auto from = x.dimensions(), to = planes->dimensions();
  if (from.size() != 2 || to.size() != 3 || from[0] != to[0] || to[2] != ceil_div(from[1], 32)) {
    return invalid("activations are [pixels, channels] and become [pixels, planes, words]");
  }
  if (bits.element_count() != 1) return invalid("bits are 1 number");
  std::string error = check_bits(bits.typed_data()[0], "activations");
  if (error.empty() && to[1] <= bits.typed_data()[0]) error = "there are fewer planes than bits and one";
  if (!error.empty()) return invalid(error);
  pack_activations(paths()[path], x.typed_data(), from[0], from[1], bits.typed_data()[0], to[1], planes->typed_data(),
                   pool.num_threads(), schedule_on(pool));
  return ffi::Error::Success();
}

// codes: [examples, ...]; tap_sums: [groups, taps, padded outputs]; kept: bit planes of activations, of which the last
// tells where the gradient passes.
ffi::Error input_gradient_checked(ffi::ThreadPool pool, ffi::Buffer<ffi::U8> codes, ffi::Buffer<ffi::F32> scales,
                                  ffi::Buffer<ffi::S32> words, ffi::Buffer<ffi::U32> weights,
                                  ffi::Buffer<ffi::F32> params, ffi::Buffer<ffi::S32> tap_sums,
                                  ffi::Buffer<ffi::U32> kept, ffi::ResultBuffer<ffi::F32> y, int64_t path) {
  if (!has_path(path)) return no_path(path);
  static const float no_scale = 0;
  Program program;
  program.input = Input::kCodes;
  program.scales = scales.element_count() ? scales.typed_data() : &no_scale;
  const std::vector<Array> arrays = {{weights.typed_data(), static_cast<int64_t>(weights.element_count())},
                                     {params.typed_data(), static_cast<int64_t>(params.element_count())},
                                     {tap_sums.typed_data(), static_cast<int64_t>(tap_sums.element_count())}};
  const std::string error = build_program(words.typed_data(), words.element_count(), arrays, &program);
  if (!error.empty()) return invalid(error);
  const Step& step = program.steps[0];
  const int64_t examples = static_cast<int64_t>(scales.element_count());
  if (static_cast<int64_t>(codes.element_count()) != examples * program.in_size ||
      static_cast<int64_t>(y->element_count()) != examples * program.out_size) {
    return invalid("gradients of " + std::to_string(examples) + " examples do not fit their scales or the result");
  }
  const auto shape = kept.dimensions();
  if (shape.size() != 3 || shape[0] != examples * step.out_height * step.out_width || shape[1] < 1 ||
      shape[2] != ceil_div(step.op.outputs, 32)) {
    return invalid("planes of what is kept are [pixels, planes, words of 32 channels]");
  }
  program.kept = kept.typed_data();
  program.kept_planes = shape[1];
  run(program, paths()[path], codes.typed_data(), examples, y->typed_data(), pool.num_threads(), schedule_on(pool));
  return ffi::Error::Success();
}

// codes: [examples, ...]; sums: the shape of one example.
ffi::Error gradient_sums_checked(ffi::ThreadPool pool, ffi::Buffer<ffi::U8> codes, ffi::Buffer<ffi::F32> scales,
                                 ffi::Buffer<ffi::S32> bits, ffi::ResultBuffer<ffi::F32> sums, int64_t path) {
  if (!has_path(path)) return no_path(path);
  const int64_t examples = static_cast<int64_t>(scales.element_count());
  const int64_t size = static_cast<int64_t>(sums->element_count());
  if (bits.element_count() != 1) return invalid("bits are 1 number");
  const std::string error = check_bits(bits.typed_data()[0], "gradients");
  if (!error.empty()) return invalid(error);
  if (static_cast<int64_t>(codes.element_count()) != examples * size) return invalid("codes of examples of another size");
  sum_gradient_codes(paths()[path], codes.typed_data(), scales.typed_data(), examples, size,
                     (int64_t{1} << bits.typed_data()[0]) - 1, sums->typed_data(), pool.num_threads(),
                     schedule_on(pool));
  return ffi::Error::Success();
}

// planes: [examples * pixels, planes, words]; gradients: [examples, ...]; sums: [groups, taps, channels, padded outputs].
ffi::Error weight_gradient_checked(ffi::ThreadPool pool, ffi::Buffer<ffi::U32> planes, ffi::Buffer<ffi::U8> gradients,
                                   ffi::Buffer<ffi::F32> scales, ffi::Buffer<ffi::S32> words,
                                   ffi::Buffer<ffi::S32> bits, ffi::ResultBuffer<ffi::F32> sums, int64_t path) {
  if (!has_path(path)) return no_path(path);
  if (words.element_count() != kOpWords || bits.element_count() != 1 || planes.dimensions().size() != 3) {
    return invalid("a weight gradient has one op, one bit width, and planes of 3 axes");
  }
  Op op;
  std::memcpy(&op, words.typed_data(), sizeof op);
  WeightGradient w{};
  const std::string error = build_weight_gradient(op, bits.typed_data()[0], planes.dimensions()[1], &w);
  if (!error.empty()) return invalid(error);
  const Step& step = w.step;
  const int64_t examples = static_cast<int64_t>(scales.element_count());
  const int64_t rows = step.op.groups * step.taps() * step.group_channels;
  if (planes.dimensions()[2] != w.plane_words) return invalid("planes must have a word for each 32 channels");
  if (static_cast<int64_t>(planes.element_count()) != examples * op.height * op.width * w.pixel_words ||
      static_cast<int64_t>(gradients.element_count()) != examples * step.out_height * step.out_width * op.outputs ||
      static_cast<int64_t>(sums->element_count()) != rows * step.padded_outputs()) {
    return invalid("activations, gradients and their product of " + std::to_string(examples) + " examples do not fit");
  }
  weight_gradient(paths()[path], w, planes.typed_data(), gradients.typed_data(), scales.typed_data(), examples,
                  sums->typed_data(), pool.num_threads(), schedule_on(pool));
  return ffi::Error::Success();
}

// images: [examples, ...]; gradients: [examples, ...]; sums: [taps * channels, padded outputs].
ffi::Error float_gradient_checked(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> images, ffi::Buffer<ffi::F32> gradients,
                                  ffi::Buffer<ffi::S32> words, ffi::ResultBuffer<ffi::F32> sums, int64_t path) {
  if (!has_path(path)) return no_path(path);
  if (words.element_count() != kOpWords || images.dimensions().size() == 0) {
    return invalid("a float gradient has one op, and images with a batch axis");
  }
  Op op;
  std::memcpy(&op, words.typed_data(), sizeof op);
  Step step{};
  const std::string error = build_float_gradient(op, &step);
  if (!error.empty()) return invalid(error);
  const int64_t examples = images.dimensions()[0];
  if (static_cast<int64_t>(images.element_count()) != examples * op.height * op.width * op.channels ||
      static_cast<int64_t>(gradients.element_count()) != examples * step.out_height * step.out_width * op.outputs ||
      static_cast<int64_t>(sums->element_count()) != step.taps() * op.channels * step.padded_outputs()) {
    return invalid("images, gradients and their product of " + std::to_string(examples) + " examples do not fit");
  }
  float_gradient(paths()[path], step, images.typed_data(), gradients.typed_data(), examples, sums->typed_data(),
                 pool.num_threads(), schedule_on(pool));
  return ffi::Error::Success();
}

}  // namespace
}  // namespace dorefa

XLA_FFI_DEFINE_HANDLER_SYMBOL(DorefaFloatGradient, DOREFA_GUARDED(dorefa::float_gradient_checked),
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<int64_t>("path"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(DorefaSumGradients, DOREFA_GUARDED(dorefa::gradient_sums_checked),
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::U8>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<int64_t>("path"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(DorefaQuantizeGradients, DOREFA_GUARDED(dorefa::quantize_checked),
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::U32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Ret<ffi::Buffer<ffi::U8>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<int64_t>("path"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(DorefaPackActivations, DOREFA_GUARDED(dorefa::pack_checked),
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Ret<ffi::Buffer<ffi::U32>>()
                                  .Attr<int64_t>("path"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(DorefaInputGradient, DOREFA_GUARDED(dorefa::input_gradient_checked),
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::U8>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::Buffer<ffi::U32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::Buffer<ffi::U32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<int64_t>("path"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(DorefaWeightGradient, DOREFA_GUARDED(dorefa::weight_gradient_checked),
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::U32>>()
                                  .Arg<ffi::Buffer<ffi::U8>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<int64_t>("path"));
