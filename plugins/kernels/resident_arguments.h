// What the resident kernels are launched with; wavernn_trt.plugins.arguments has the same structure.
#pragma once

#include "sequence_arguments.h"

namespace wavernn {

struct ResidentArguments {
    // Of s, these are not used: states, features, skipped, activations, shared_operands; logits is null but where
    // all of them are to be kept. A matrix's resident part is counted in sets of octets.
    SequenceArguments s;

    // [rows] what a row's sum is multiplied with, for weights of eight bits; else null.
    const float* scales[MATRICES];

    // Words that blocks exchange, cleared before the launch; and where each kind begins in them. Each kind is
    // there twice.
    void* mail;
    long long mail_states[2];       // [B, pitch], pairs of operands
    long long mail_features[2];     // [B, pitch] where there is a skip
    long long mail_activations[2];  // [B, pitch]
    long long mail_logits;          // [B, outputs], floats
    long long mail_previous;        // [B], what the next step is fed with

    // In bytes from the beginning of shared memory: the warps' sums, what a gate waits with for the sample before,
    // and logits of one stream.
    int shared_meeting;
    int shared_gates;
    int shared_logits;
    // Of this block's sets of each matrix, a Span; behind them the flag that the block waits no more.
    int shared_shares;
    // Sets of eight units that a block of a group has at most.
    int most_sets;
};

}  // namespace wavernn
