// The boundary to XLA: buffers are checked here, and errors become Python exceptions.
#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "ffi/checks.h"
#include "paths/paths.h"
#include "program/program.h"
#include "batch/run.h"
#include "program/weights.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace dorefa {
namespace {

constexpr int64_t kMaxExtent = int64_t{1} << 30;
constexpr int64_t kMaxElements = int64_t{1} << 62;  // of a batch

ffi::Error run_checked(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> x, ffi::Buffer<ffi::S32> words,
                       ffi::RemainingArgs rest, ffi::ResultBuffer<ffi::F32> y, int64_t path) {
  if (!has_path(path)) return no_path(path);
  std::vector<Array> arrays;
  for (size_t i = 0; i < rest.size(); ++i) {
    auto array = rest.get<ffi::AnyBuffer>(i);
    if (!array.has_value()) return array.error();
    if (ffi::ByteWidth(array->element_type()) != 4) return invalid("arrays must have elements of 4 bytes");
    arrays.push_back({array->untyped_data(), static_cast<int64_t>(array->element_count())});
  }
  Program program;
  const std::string error = build_program(words.typed_data(), words.element_count(), arrays, &program);
  if (!error.empty()) return invalid(error);
  if (x.dimensions().size() == 0) return invalid("the input has no batch axis");
  const int64_t images = x.dimensions()[0];
  const int64_t largest = kMaxElements / std::max(program.in_size, program.out_size);  // no product of them overflows
  if (images < 0 || images > largest || static_cast<int64_t>(x.element_count()) != images * program.in_size ||
      static_cast<int64_t>(y->element_count()) != images * program.out_size) {
    return invalid("a batch of " + std::to_string(images) + " takes " + std::to_string(images * program.in_size) +
                   " floats and gives " + std::to_string(images * program.out_size) + ", got " +
                   std::to_string(x.element_count()) + " and " + std::to_string(y->element_count()));
  }
  run(program, paths()[path], x.typed_data(), images, y->typed_data(), pool.num_threads(),
      schedule_on(pool));
  return ffi::Error::Success();
}

// codes: [taps, channels of a group, outputs of all groups]; spec: {format, bits}.
ffi::Error pack_checked(ffi::Buffer<ffi::U8> codes, ffi::Buffer<ffi::S32> spec, ffi::ResultBuffer<ffi::U32> words,
                        int64_t groups) {
  const auto shape = codes.dimensions();
  if (shape.size() != 3) return invalid("codes must have 3 axes");
  if (spec.element_count() != 2) return invalid("a spec is a format and bits");
  const auto format = static_cast<Format>(spec.typed_data()[0]);
  const int64_t bits = spec.typed_data()[1];
  if (format != Format::kBits && format != Format::kBytes && format != Format::kTables) {
    return invalid("codes are packed as bits, bytes or indices of tables");
  }
  if (format == Format::kTables && bits != 1) return invalid("indices of tables are of weights of 1 bit");
  if (bits < 1 || bits > kMaxBits) return invalid("bits of weights must be 1 to 8, got " + std::to_string(bits));
  if (groups < 1 || shape[2] % groups) return invalid("groups do not divide the outputs");
  for (int64_t extent : shape) {
    if (extent < 1 || extent > kMaxExtent) return invalid("codes must not be empty");
  }
  const int64_t needed = groups * group_words(format, bits, shape[0], shape[1], shape[2] / groups);
  const int64_t size = words->element_count();
  if (size < needed) return invalid("codes need " + std::to_string(needed) + " words, got " + std::to_string(size));
  std::memset(words->typed_data(), 0, size * sizeof(uint32_t));
  pack_weights(codes.typed_data(), format, bits, shape[0], shape[1], groups, shape[2] / groups, words->typed_data());
  return ffi::Error::Success();
}

// codes: as above; turned: [taps, outputs of a group, channels of all groups]; sums: [groups, taps, padded channels].
ffi::Error turn_checked(ffi::Buffer<ffi::U8> codes, ffi::ResultBuffer<ffi::U8> turned,
                        ffi::ResultBuffer<ffi::S32> sums, int64_t groups) {
  const auto shape = codes.dimensions();
  if (shape.size() != 3) return invalid("codes must have 3 axes");
  if (groups < 1 || shape[2] % groups) return invalid("groups do not divide the outputs");
  const int64_t lanes = round_up(shape[1], kChannelMultiple);
  if (turned->element_count() != codes.element_count() ||
      static_cast<int64_t>(sums->element_count()) != groups * shape[0] * lanes) {
    return invalid("codes turned around, and their sums, do not fit");
  }
  turn_weights(codes.typed_data(), shape[0], shape[1], groups, shape[2] / groups, turned->typed_data(),
               sums->typed_data());
  return ffi::Error::Success();
}

}  // namespace
}  // namespace dorefa

// The version of XLA's FFI that the handlers were compiled for, to compare before they are registered.
extern "C" int dorefa_ffi_api_major() { return XLA_FFI_API_MAJOR; }
extern "C" int dorefa_ffi_api_minor() { return XLA_FFI_API_MINOR; }

XLA_FFI_DEFINE_HANDLER_SYMBOL(DorefaTurnWeights, DOREFA_GUARDED(dorefa::turn_checked),
                              ffi::Ffi::Bind()
                                  .Arg<ffi::Buffer<ffi::U8>>()
                                  .Ret<ffi::Buffer<ffi::U8>>()
                                  .Ret<ffi::Buffer<ffi::S32>>()
                                  .Attr<int64_t>("groups"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(DorefaRun, DOREFA_GUARDED(dorefa::run_checked),
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .RemainingArgs()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<int64_t>("path"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(DorefaPackWeights, DOREFA_GUARDED(dorefa::pack_checked),
                              ffi::Ffi::Bind()
                                  .Arg<ffi::Buffer<ffi::U8>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Ret<ffi::Buffer<ffi::U32>>()
                                  .Attr<int64_t>("groups"));
