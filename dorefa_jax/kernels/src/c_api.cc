// The library without XLA: what there is, and calls on plain arrays, which the tests make.
#include <cstdio>
#include <cstring>
#include <exception>
#include <string>
#include <thread>
#include <vector>

#include "batch/conv_block.h"
#include "paths/paths.h"
#include "program/program.h"
#include "batch/run.h"
#include "batch/gradients.h"
#include "batch/image_block.h"
#include "program/weights.h"

using namespace dorefa;

extern "C" {

// The paths of this build, best first; names are static strings.
int64_t dorefa_path_count() { return static_cast<int64_t>(paths().size()); }
const char* dorefa_path_name(int64_t path) { return paths()[path].name; }
int dorefa_path_is_supported(int64_t path) { return paths()[path].is_supported(); }

// Runs a program on `images` images of x; returns 0, or 1 with a message of at most `room` bytes.
// x and y must have the sizes that the program asks for.
int dorefa_run_arrays(int64_t path, int64_t threads, const float* x, int64_t x_size, int64_t images,
                      const int32_t* words, int64_t count, const void* const* arrays, const int64_t* sizes,
                      int64_t array_count, float* y, int64_t y_size, char* message, int64_t room) {
  std::string error;
  std::vector<std::thread> started;
  try {
    std::vector<Array> given;
    for (int64_t i = 0; i < array_count; ++i) given.push_back({arrays[i], sizes[i]});
    Program program;
    error = build_program(words, count, given, &program);
    if (error.empty() && (x_size != images * program.in_size || y_size != images * program.out_size)) {
      error = "arrays of other sizes than the program takes and gives";
    }
    if (error.empty()) {
      run(program, paths()[path], x, images, y, threads,
          [&](std::function<void()> task) { started.emplace_back(std::move(task)); });
    }
  } catch (const std::exception& e) {
    error = e.what();
  }
  for (std::thread& thread : started) thread.join();
  std::snprintf(message, room, "%s", error.c_str());
  return !error.empty();
}

// Packs weights as weights.h says.
void dorefa_pack_arrays(const uint8_t* codes, int32_t format, int64_t bits, int64_t taps, int64_t channels,
                        int64_t groups, int64_t outputs, uint32_t* words) {
  pack_weights(codes, static_cast<Format>(format), bits, taps, channels, groups, outputs, words);
}

}  // extern "C"

namespace {

// Runs tasks on threads of its own, and waits for them at the end.
class Threads {
 public:
  ~Threads() {
    for (std::thread& thread : started_) thread.join();
  }
  Schedule schedule() {
    return [this](std::function<void()> task) { started_.emplace_back(std::move(task)); };
  }

 private:
  std::vector<std::thread> started_;
};

int report(const std::string& error, char* message, int64_t room) {
  std::snprintf(message, room, "%s", error.c_str());
  return !error.empty();
}

}  // namespace

extern "C" {

// The functions of gradients.h; arrays must have the sizes that it says, and what can be wrong with an op is
// reported as above.
void dorefa_quantize_gradient_arrays(int64_t path, int64_t threads, const float* g, int64_t examples, int64_t size,
                                     const uint32_t* key, int64_t bits, uint8_t* codes, float* scales) {
  Threads pool;
  quantize_gradients(paths()[path], g, examples, size, key, bits, codes, scales, threads, pool.schedule());
}

void dorefa_pack_activation_arrays(int64_t path, int64_t threads, const float* x, int64_t pixels, int64_t channels,
                                   int64_t bits, int64_t planes, uint32_t* out) {
  Threads pool;
  pack_activations(paths()[path], x, pixels, channels, bits, planes, out, threads, pool.schedule());
}

int dorefa_input_gradient_arrays(int64_t path, int64_t threads, const uint8_t* codes, const float* scales,
                                 int64_t examples, const int32_t* words, const uint32_t* weights, int64_t weights_size,
                                 const float* params, int64_t params_size, const int32_t* tap_sums, int64_t tap_sums_size,
                                 const uint32_t* kept, int64_t kept_planes, float* y, char* message, int64_t room) {
  Program program;
  program.input = Input::kCodes;
  program.scales = scales;
  program.kept = kept;
  program.kept_planes = kept_planes;
  const std::vector<Array> arrays = {{weights, weights_size}, {params, params_size}, {tap_sums, tap_sums_size}};
  const std::string error = build_program(words, kOpWords, arrays, &program);
  if (error.empty()) {
    Threads pool;
    run(program, paths()[path], codes, examples, y, threads, pool.schedule());
  }
  return report(error, message, room);
}

int dorefa_weight_gradient_arrays(int64_t path, int64_t threads, const uint32_t* planes, int64_t plane_count,
                                  const uint8_t* gradients, const float* scales, int64_t examples,
                                  const int32_t* words, int64_t bits, float* sums, char* message, int64_t room) {
  Op op;
  std::memcpy(&op, words, sizeof op);
  WeightGradient w{};
  const std::string error = build_weight_gradient(op, bits, plane_count, &w);
  if (error.empty()) {
    Threads pool;
    weight_gradient(paths()[path], w, planes, gradients, scales, examples, sums, threads, pool.schedule());
  }
  return report(error, message, room);
}

int dorefa_float_gradient_arrays(int64_t path, int64_t threads, const float* images, const float* gradients,
                                 int64_t examples, const int32_t* words, float* sums, char* message, int64_t room) {
  Op op;
  std::memcpy(&op, words, sizeof op);
  Step step{};
  const std::string error = build_float_gradient(op, &step);
  if (error.empty()) {
    Threads pool;
    float_gradient(paths()[path], step, images, gradients, examples, sums, threads, pool.schedule());
  }
  return report(error, message, room);
}

// The functions of conv_block.h: spec is window, bound, planes, and whether the last of them tells what lies inside;
// statistics are mean and variance, norm scale and bias. Forward where `g` is null. Offsets, shortcut and sums, and their
// gradients, may be null.
int dorefa_block_arrays(int64_t path, int64_t threads, const float* x, int64_t images, const int32_t* words,
                        const uint32_t* weights, int64_t weights_size, const float* params, int64_t params_size,
                        const float* norm, const float* epsilon, const int64_t* spec, const float* offsets,
                        const float* shortcut, uint32_t* planes, float* statistics, float* out, float* sum,
                        const float* g, const float* gsum, const uint32_t* key, int64_t bits, uint8_t* codes,
                        float* scales, float* dnorm, float* dshortcut, char* message, int64_t room) {
  BlockPass block;
  std::string error =
      build_program(words, kOpWords, {{weights, weights_size}, {params, params_size}}, &block.program);
  block.window = spec[0];
  block.bound = static_cast<Bound>(spec[1]);
  block.epsilon = epsilon;
  block.keeps_inside = spec[3] != 0;
  block.offsets = offsets;
  block.shortcut = shortcut;
  block.gives_sum = sum || gsum;
  if (error.empty()) error = build_block(spec[2], &block);
  if (error.empty()) {
    Threads pool;
    const int64_t channels = block.channels();
    block.scale = norm;
    block.bias = norm + channels;
    if (g == nullptr) {
      block_forward(paths()[path], block, x, images, planes, statistics, statistics + channels, out, sum, threads,
                    pool.schedule());
    } else {
      block_gradient(paths()[path], block, planes, statistics, statistics + channels, g, gsum, images, key, bits,
                     codes, scales, dnorm, dnorm + channels, dshortcut, threads, pool.schedule());
    }
  }
  return report(error, message, room);
}

// The functions of gradients.h on blocks of images: forward where `g` is null.
int dorefa_image_block_arrays(int64_t path, int64_t threads, const float* x, int64_t images, const int32_t* words,
                              const float* weights, int64_t weights_size, const float* params, int64_t params_size,
                              int64_t bound, float* out, uint32_t* winners, const float* g, float* sums, char* message,
                              int64_t room) {
  Program program;
  std::string error =
      build_program(words, kOpWords, {{weights, weights_size}, {params, params_size}}, &program);
  if (error.empty()) error = check_image_block(program.steps[0]);
  if (error.empty()) {
    Threads pool;
    if (g == nullptr) {
      image_block(paths()[path], program, static_cast<Bound>(bound), x, images, out, winners, threads,
                  pool.schedule());
    } else {
      image_block_gradient(paths()[path], program.steps[0], x, winners, g, images, sums, threads, pool.schedule());
    }
  }
  return report(error, message, room);
}

}  // extern "C"
