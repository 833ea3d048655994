// What the stepped kernels are launched with; wavernn_trt.plugins.arguments has the same structure.
//
// Nothing of it changes from step to step but for the two buffers of the states, which take turns: a launch finds
// the step's number in memory.
#pragma once

#include "sequence_arguments.h"

namespace wavernn {

struct SteppedArguments {
    // Of s, these are not used: counters; groups, blocks, waits and the offsets into shared memory. Rows of states,
    // features and activations are padded with zeros to whole patches of columns; logits is null but where all of
    // them are to be kept.
    SequenceArguments s;

    // [rows] what a row's sum is multiplied with, for weights of eight bits; else null.
    const float* scales[MATRICES];

    // Each matrix in the order of fragments.h, written by the chunk's first launch.
    void* fragments[MATRICES];

    // The step that layer 0 is to begin, and the one that all other stages are in. Layer 0 copies the first to the
    // second, and the drawing writes the first: no launch writes what another block of it reads.
    int* next_step;
    int* step;
    // [B, outputs], rows padded to a multiple of four.
    float* step_logits;

    // Of this launch: what each of its products reads, [B, columns], and the products' matrices.
    const void* operands[2];
    int matrices[2];
    // [B, rows] the new state, or activations; and where there is a skip, what the layer behind a GRU reads.
    void* results;
    void* features;
};

}  // namespace wavernn
