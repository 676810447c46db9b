// Sums over the examples of a batch, whose order does not depend on the threads.
#ifndef DOREFA_EXAMPLES_H_
#define DOREFA_EXAMPLES_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "batch/parallel.h"

namespace dorefa {

// Adds what one example gives to sums.
using AddExample = std::function<void(int64_t example, float* sums)>;

// Adds what examples give in parts of a fixed size, in order, so that sums do not depend on the threads. `make_add`
// makes, on each thread, what adds one example to sums of `size`.
void sum_examples(int64_t examples, int64_t size, float* sums, int64_t threads, const Schedule& schedule,
                  const std::function<AddExample()>& make_add);

// Parts of this thread's scratch, of sizes in bytes.
std::vector<uint8_t*> scratch_parts(std::vector<int64_t> sizes);

}  // namespace dorefa

#endif  // DOREFA_EXAMPLES_H_
