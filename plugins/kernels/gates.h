// The gates of a GRU cell, in float (Cho et al., 2014, in the form of PyTorch and cuDNN).
#pragma once

#include "block.h"

namespace wavernn {

struct Gates {
    float reset;
    float update;
    float candidate;
};

// Sigmoid without overflow.
DEVICE float sigmoid(float x) { return 0.5f + 0.5f * tanhf(0.5f * x); }

// Returns the new state from the input product, the recurrent product, both with their biases, and the state.
DEVICE float gru_update(const Gates& input, const Gates& recurrent, float hidden) {
    const float reset = sigmoid(input.reset + recurrent.reset);
    const float update = sigmoid(input.update + recurrent.update);
    const float candidate = tanhf(input.candidate + reset * recurrent.candidate);
    return candidate + update * (hidden - candidate);
}

}  // namespace wavernn
