// The instruction sets that the kernels are compiled for, in one library, and the choice at run time.
#ifndef DOREFA_PATHS_H_
#define DOREFA_PATHS_H_

#include <cstdint>
#include <vector>

#include "program.h"

namespace dorefa {

// Where one thread keeps the operands of a block of images.
struct Buffers {
  std::vector<uint32_t*> inputs;  // of each step; padding is zero
  float* line;            // a row of input taken apart
  uint8_t* tables;        // of the input rows under a row of windows
  uint16_t* table_sums;   // of a row of windows, 4 panels
  int32_t* word_sums;     // of one plane
  int32_t* column_sums;   // of one row
  uint32_t* pooled_rows;  // a row of each plane
  uint32_t* pooled_sums;  // the rows of a pooling's window, of one group
  int32_t* row_sums;
  int32_t* row_offsets;
  int32_t* code_offsets;
  uint8_t* nan;  // of each image: its input has one, and so will its result
};

struct Path {
  const char* name;
  bool (*is_supported)();
  void (*run_block)(const Program& program, const Buffers& buffers, const float* x, int64_t images, float* y);
};

// All paths of this build, the best first. The last runs everywhere.
const std::vector<Path>& paths();

// The best path that this processor has.
int64_t best_path();

}  // namespace dorefa

#endif  // DOREFA_PATHS_H_
