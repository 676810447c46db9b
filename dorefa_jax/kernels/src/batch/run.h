// A program over a batch, block by block, on as many threads as there are.
#ifndef DOREFA_RUN_H_
#define DOREFA_RUN_H_

#include <cstdint>

#include "batch/parallel.h"
#include "paths/paths.h"
#include "program/program.h"

namespace dorefa {

// Every image's result is computed by one thread in one order: it does not depend on `threads`.
// x holds what `program.input` says. Throws std::bad_alloc.
void run(const Program& program, const Path& path, const void* x, int64_t images, float* y, int64_t threads,
         const Schedule& schedule);

// How many images make a block whose operands stay in a core's cache.
int64_t block_size(const Program& program, int64_t images, int64_t threads);

// Lays a block's buffers out in this thread's scratch, padding zeroed.
Buffers lay_out(const Program& program, int64_t images);

}  // namespace dorefa

#endif  // DOREFA_RUN_H_
