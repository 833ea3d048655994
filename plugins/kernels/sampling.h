// Draws a sample from a stream's logits, by a block; see wavernn_trt.export.families.samplers.
#pragma once

#include "feedback.h"

namespace wavernn {

constexpr int MIXTURES = 10;
// The logarithm of 1e-14.
constexpr float LOG_SCALE_FLOOR = -32.236191301916641f;
constexpr float LOG_DEVIATION_FLOOR = -7.0f;

// Shared memory of the sampler.
struct SamplerMemory {
    DEVICE SamplerMemory(const Block& block, int offset)
        : sums(reinterpret_cast<unsigned long long*>(block.shared() + offset)),
          largest(reinterpret_cast<float*>(sums + block.warps())),
          chosen(reinterpret_cast<int*>(largest + block.warps())) {}

    unsigned long long* sums;  // of each warp
    float* largest;            // of each warp
    int* chosen;
};

// exp(logit - largest) as a multiple of 2^-32. Integer sums do not depend on their order, so the drawn class does not
// depend on the number of threads. A class of likelihood zero is never drawn.
DEVICE unsigned long long likelihood(float logit, float largest) {
    const float share = expf(logit - largest);
    return share > 0.0f ? static_cast<unsigned long long>(share * 4294967296.0f) : 0ull;
}

// total * uniform, rounded down; uniform in [0, 1).
DEVICE unsigned long long scaled(unsigned long long total, float uniform) {
    const unsigned long long factor = static_cast<unsigned long long>(uniform * 4294967296.0f);
    return (total >> 32) * factor + ((total & 0xffffffffull) * factor >> 32);
}

DEVICE float largest_in_block(const Block& block, const SamplerMemory& memory, float value) {
#pragma unroll
    for (int mask = LANES / 2; mask > 0; mask /= 2) {
        value = fmaxf(value, block.from_lane_xor(value, mask));
    }
    if (block.lane() == 0) {
        memory.largest[block.warp()] = value;
    }
    block.sync();
#pragma unroll 1
    for (int warp = 0; warp < block.warps(); ++warp) {
        value = fmaxf(value, memory.largest[warp]);
    }
    return value;
}

// The sum over the threads before this one, and over all threads.
struct Scanned {
    unsigned long long before;
    unsigned long long total;
};

DEVICE Scanned scan_block(const Block& block, const SamplerMemory& memory, unsigned long long value) {
    unsigned long long through = value;
#pragma unroll
    for (int distance = 1; distance < LANES; distance *= 2) {
        const unsigned long long below = block.from_lane_below(through, distance);
        through += block.lane() >= distance ? below : 0ull;
    }
    if (block.lane() == LANES - 1) {
        memory.sums[block.warp()] = through;
    }
    block.sync();
    Scanned scanned = {through - value, 0};
#pragma unroll 1
    for (int warp = 0; warp < block.warps(); ++warp) {
        scanned.before += warp < block.warp() ? memory.sums[warp] : 0ull;
        scanned.total += memory.sums[warp];
    }
    return scanned;
}

// Returns to every thread the smallest class k with cumsum(exp(logits - largest))[k] > uniform * total; class 0 if
// there is none, as with NaN logits. Each thread sums a range of neighbouring classes.
DEVICE int pick(const Block& block, const SamplerMemory& memory, const float* logits, int classes, float uniform) {
    const int run = (classes + block.threads() - 1) / block.threads();
    const int first = min(block.thread() * run, classes);
    const int end = min(first + run, classes);
    block.sync();  // other threads may still read the memory for the previous stream
    if (block.thread() == 0) {
        *memory.chosen = 0;
    }
    float largest = -float_of_bits(0x7f800000u);  // minus infinity
#pragma unroll 1
    for (int k = first; k < end; ++k) {
        largest = fmaxf(largest, logits[k]);
    }
    largest = largest_in_block(block, memory, largest);
    unsigned long long sum = 0;
#pragma unroll 1
    for (int k = first; k < end; ++k) {
        sum += likelihood(logits[k], largest);
    }
    const Scanned scanned = scan_block(block, memory, sum);
    const unsigned long long threshold = scaled(scanned.total, uniform);
    if (scanned.before <= threshold && threshold < scanned.before + sum) {
        unsigned long long cumulative = scanned.before;
        int k = first;
#pragma unroll 1
        for (; k < end - 1; ++k) {
            cumulative += likelihood(logits[k], largest);
            if (cumulative > threshold) {
                break;
            }
        }
        *memory.chosen = k;
    }
    block.sync();
    return *memory.chosen;
}

DEVICE float draw_around(float mean, float log_scale, float deviate) {
    const float value = mean + expf(log_scale) * deviate;
    return value < -1.0f ? -1.0f : value > 1.0f ? 1.0f : value;  // NaN stays NaN, so that it is noticed
}

// Draws a sample in [-1, 1] from a component of a mixture, or from a Gaussian.
DEVICE float draw_value(const SequenceArguments& a, const float* logits, int component, float deviate) {
    if (a.output == GAUSSIAN) {
        return draw_around(logits[0], fmaxf(logits[1], LOG_DEVIATION_FLOOR), deviate);
    }
    const float log_scale = fmaxf(logits[2 * MIXTURES + component], LOG_SCALE_FLOOR);
    return draw_around(logits[MIXTURES + component], log_scale, deviate);
}

// A drawn sample and the feedback of the next step, each the bits of an int or a float.
struct Drawn {
    unsigned sample;
    unsigned previous;
};

// Returns the sample of a chosen class or component.
DEVICE Drawn drawn_from(const SequenceArguments& a, const float* logits, int chosen, const float* uniforms) {
    if (a.output != CATEGORICAL) {
        const unsigned value = bits_of_float(draw_value(a, logits, chosen, uniforms[1]));
        return Drawn{value, value};
    }
    if (a.label_feedback) {
        return Drawn{static_cast<unsigned>(chosen), static_cast<unsigned>(chosen)};
    }
    const float fed = 2.0f * static_cast<float>(chosen) / static_cast<float>(a.outputs - 1) - 1.0f;
    return Drawn{static_cast<unsigned>(chosen), bits_of_float(fed)};
}

// Draws a stream's sample of a step; returns it to every thread of the block.
DEVICE Drawn draw(const Block& block, const SequenceArguments& a, const float* logits, int stream, int step) {
    const SamplerMemory memory(block, a.shared_sampler);
    const long long at = static_cast<long long>(stream) * a.steps + step;
    const float* uniforms = a.uniforms + at * a.uniforms_a_sample;
    int chosen = 0;
    if (a.output != GAUSSIAN) {
        chosen = pick(block, memory, logits, a.output == CATEGORICAL ? a.outputs : MIXTURES, uniforms[0]);
    }
    return drawn_from(a, logits, chosen, uniforms);
}

DEVICE void keep_sample(const SequenceArguments& a, int stream, int step, unsigned sample) {
    static_cast<unsigned*>(a.samples)[static_cast<long long>(stream) * a.steps + step] = sample;
}

}  // namespace wavernn
