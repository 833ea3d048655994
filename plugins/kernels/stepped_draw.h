// Draws a stream's sample by a warp, with the rule of sampling.h but without a barrier. Sums are integers, so that both
// draw the same class from the same logits.
#pragma once

#include "sampling.h"
#include "stepped_rows.h"
#include "trace.h"

namespace wavernn {

// Likelihoods of a lane's four neighbouring classes among the next 4 * LANES classes of a warp.
struct FourLikelihoods {
    unsigned long long of[4];

    // logits: a row, padded to a multiple of four; largest: the largest logit of all classes.
    DEVICE FourLikelihoods(const float* logits, int first, int classes, float largest) {
        float values[4];
        read_vector(logits + first, values);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            of[i] = first + i < classes ? likelihood(values[i], largest) : 0ull;
        }
    }

    DEVICE unsigned long long sum() const { return of[0] + of[1] + of[2] + of[3]; }
};

DEVICE float largest_in_warp(const Block& block, const float* logits, int classes) {
    float largest = -float_of_bits(0x7f800000u);  // minus infinity
#pragma unroll 4
    for (int first = 4 * block.lane(); first < classes; first += 4 * LANES) {
        float values[4];
        read_vector(logits + first, values);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            largest = first + i < classes ? fmaxf(largest, values[i]) : largest;
        }
    }
#pragma unroll
    for (int mask = LANES / 2; mask > 0; mask /= 2) {
        largest = fmaxf(largest, block.from_lane_xor(largest, mask));
    }
    return largest;
}

// As pick of sampling.h; returns the class to every lane.
DEVICE int pick_in_warp(const Block& block, const float* logits, int classes, float uniform) {
    const float largest = largest_in_warp(block, logits, classes);
    unsigned long long total = 0;
#pragma unroll 2
    for (int first = 4 * block.lane(); first < classes; first += 4 * LANES) {
        total += FourLikelihoods(logits, first, classes, largest).sum();
    }
#pragma unroll
    for (int mask = LANES / 2; mask > 0; mask /= 2) {
        total += block.from_lane_xor(total, mask);
    }
    const unsigned long long threshold = scaled(total, uniform);
    unsigned long long before = 0;  // sum over the classes of all previous rounds
    int chosen = 0;
#pragma unroll 1
    for (int start = 0; start < classes; start += 4 * LANES) {
        const int first = start + 4 * block.lane();
        const FourLikelihoods four(logits, min(first, (classes - 1) / 4 * 4), first < classes ? classes : 0, largest);
        unsigned long long through = four.sum();
#pragma unroll
        for (int distance = 1; distance < LANES; distance *= 2) {
            const unsigned long long below = block.from_lane_below(through, distance);
            through += block.lane() >= distance ? below : 0ull;
        }
        unsigned long long cumulative = before + through - four.sum();
        if (cumulative <= threshold && threshold < before + through) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                chosen = cumulative <= threshold ? first + i : chosen;
                cumulative += four.of[i];
            }
        }
        unsigned long long round = four.sum();
#pragma unroll
        for (int mask = LANES / 2; mask > 0; mask /= 2) {
            chosen = max(chosen, block.from_lane_xor(chosen, mask));
            round += block.from_lane_xor(round, mask);
        }
        before += round;
        if (threshold < before) {  // the same in all lanes
            break;
        }
    }
    return chosen;
}

// The sampling stage: each warp draws for one stream.
DEVICE void draw_step(const Block& block, const SteppedArguments& p) {
    const SequenceArguments& a = p.s;
    const int step = *p.step;
    TRACE(10, step);
    if (block.rank() == 0 && block.thread() == 0) {
        *p.next_step = step + 1;
    }
    const int stream = block.rank() * block.warps() + block.warp();
    if (stream >= a.batch) {
        return;
    }
    const float* logits = p.step_logits + static_cast<long long>(stream) * logits_pitch(a.outputs);
    const long long at = static_cast<long long>(stream) * a.steps + step;
    const float* uniforms = a.uniforms + at * a.uniforms_a_sample;
    int chosen = 0;
    if (a.output != GAUSSIAN) {
        chosen = pick_in_warp(block, logits, a.output == CATEGORICAL ? a.outputs : MIXTURES, uniforms[0]);
    }
    if (block.lane() != 0) {
        return;
    }
    const Drawn drawn = drawn_from(a, logits, chosen, uniforms);
    keep_sample(a, stream, step, drawn.sample);
    keep_previous(a, stream, drawn.previous);
    TRACE(11, step);
}

}  // namespace wavernn
