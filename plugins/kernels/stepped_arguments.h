// The arguments of the stepped kernels; wavernn_trt.plugins.arguments has the same structure.
//
// All even steps have the same arguments, and all odd steps; they differ in the buffers of the states only. A launch
// reads the number of its step from memory.
#pragma once

#include "sequence_arguments.h"

namespace wavernn {

struct SteppedArguments {
    // Not used in s: counters, groups, blocks, waits, and the offsets in shared memory. Rows of states, features and
    // activations are padded with zeros to whole patches of columns. logits is null unless all logits are kept.
    SequenceArguments s;

    // [rows] factors of the row sums for weights of eight bits; else null.
    const float* scales[MATRICES];

    // Each matrix in the order of fragments.h, written by the first launch of a chunk.
    void* fragments[MATRICES];

    // next_step is read by layer 0 and written by the sampling; step is written by layer 0 and read by the other stages.
    // So no launch writes a number that another of its blocks reads.
    int* next_step;
    int* step;
    // [B, outputs], rows padded to a multiple of four.
    float* step_logits;

    // Of this launch: the operands [B, columns] and the matrix of each product.
    const void* operands[2];
    int matrices[2];
    // [B, rows], new state or activations; and the output of a GRU layer if there is a skip connection.
    void* results;
    void* features;
};

}  // namespace wavernn
