// The arguments of the resident kernels; wavernn_trt.plugins.arguments has the same structure.
#pragma once

#include "sequence_arguments.h"

namespace wavernn {

struct ResidentArguments {
    // Not used in s: states, features, activations, shared_operands. logits is null unless all logits are kept. The
    // resident part of a matrix is counted in sets of octets.
    SequenceArguments s;

    // [rows] factors of the row sums for weights of eight bits; else null.
    const float* scales[MATRICES];

    // Words that blocks exchange, cleared before the launch, and the offset of each kind in words. Each kind is stored
    // twice.
    void* mail;
    long long mail_states[2];       // [B, pitch], pairs of operands
    long long mail_features[2];     // [B, pitch] where there is a skip
    long long mail_activations[2];  // [B, pitch]
    long long mail_logits;          // [B, outputs], floats
    long long mail_previous;        // [B], feedback of the next step

    // Byte offsets in shared memory: sums of the warps, gates that wait for the previous sample or layer, and logits of
    // one stream.
    int shared_meeting;
    int shared_gates;
    int shared_logits;
    // A Span of this block's sets for each matrix, then the flag that the block has stopped waiting.
    int shared_shares;
    // Maximum number of sets of eight units of a block.
    int most_sets;
};

}  // namespace wavernn
