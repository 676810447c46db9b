// A program over a batch, block by block, on as many threads as there are.
#ifndef DOREFA_RUN_H_
#define DOREFA_RUN_H_

#include <cstdint>

#include "parallel.h"
#include "paths.h"
#include "program.h"

namespace dorefa {

// Every image's result is computed by one thread in one order: it does not depend on `threads`.
// x holds floats, or codes where the program has scales. Throws std::bad_alloc.
void run(const Program& program, const Path& path, const void* x, int64_t images, float* y, int64_t threads,
         const Schedule& schedule);

}  // namespace dorefa

#endif  // DOREFA_RUN_H_
