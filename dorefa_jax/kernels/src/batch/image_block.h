// A first layer on images with its pooling and h, forward and backward.
#ifndef DOREFA_IMAGE_BLOCK_H_
#define DOREFA_IMAGE_BLOCK_H_

#include <cstdint>
#include <string>

#include "batch/parallel.h"
#include "paths/paths.h"

namespace dorefa {

// Checks the convolution of an image block. Returns an empty string, or what is wrong.
std::string check_image_block(const Step& step);

// A convolution of float images, max pooling in 2x2 windows, and h: `program` is of one convolution to floats. Winners
// are as pool_winners-inl.h says, of each image in turn.
void image_block(const Path& path, const Program& program, Bound bound, const float* x, int64_t images, float* out,
                 uint32_t* winners, int64_t threads, const Schedule& schedule);

// The floats of its gradient: [output][kernel row][patch_row(step)] of the weights, and then [output] of the bias.
int64_t image_block_sums(const Step& step);

void image_block_gradient(const Path& path, const Step& step, const float* x, const uint32_t* winners, const float* g,
                          int64_t examples, float* sums, int64_t threads, const Schedule& schedule);

}  // namespace dorefa

#endif  // DOREFA_IMAGE_BLOCK_H_
