// The library without XLA: what there is, and calls on plain arrays, which the tests make.
#include <cstdio>
#include <exception>
#include <string>
#include <thread>
#include <vector>

#include "paths.h"
#include "program.h"
#include "run.h"
#include "weights.h"

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
