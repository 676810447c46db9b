// The backward pass: gradients to codes, and their products with weights and activations.
#ifndef DOREFA_TRAINING_H_
#define DOREFA_TRAINING_H_

#include <cstdint>
#include <string>

#include "batch/parallel.h"
#include "paths/paths.h"

namespace dorefa {

// The gradients of each example to codes and a scale, with noise from a key.
void quantize_gradients(const Path& path, const float* g, int64_t examples, int64_t size, const uint32_t* key,
                        int64_t bits, uint8_t* codes, float* scales, int64_t threads, const Schedule& schedule);

// Floats to bit planes, [pixel][plane][word], of which the last tells what was not clipped; a NaN is taken for zero.
void pack_activations(const Path& path, const float* x, int64_t pixels, int64_t channels, int64_t bits,
                      int64_t planes, uint32_t* out, int64_t threads, const Schedule& schedule);

// sums[element] = sum over examples of scale (2 code - levels): what an image of ones gives each position's weights.
void sum_gradient_codes(const Path& path, const uint8_t* codes, const float* scales, int64_t examples, int64_t size,
                        int64_t levels, float* sums, int64_t threads, const Schedule& schedule);

// Lays out a weight gradient. Returns an empty string, or what is wrong.
std::string build_weight_gradient(const Op& op, int64_t gradient_bits, int64_t planes, WeightGradient* w);

// sums[group][tap][channel][padded outputs] = sum over examples of scale times the integer product.
void weight_gradient(const Path& path, const WeightGradient& w, const uint32_t* activations, const uint8_t* gradients,
                     const float* scales, int64_t examples, float* sums, int64_t threads, const Schedule& schedule);

// Checks a convolution of float images. Returns an empty string, or what is wrong.
std::string build_float_gradient(const Op& op, Step* step);

// sums[tap][channel][padded outputs] = sum over examples of the products of floats.
void float_gradient(const Path& path, const Step& step, const float* images, const float* gradients, int64_t examples,
                    float* sums, int64_t threads, const Schedule& schedule);

}  // namespace dorefa

#endif  // DOREFA_TRAINING_H_
