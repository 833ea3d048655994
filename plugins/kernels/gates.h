// A GRU cell's gates, in float (Cho et al., 2014, in the form of PyTorch and cuDNN).
#pragma once

#include "block.h"

namespace wavernn {

struct Gates {
    float reset;
    float update;
    float candidate;
};

// Does not overflow.
DEVICE float sigmoid(float x) { return 0.5f + 0.5f * tanhf(0.5f * x); }

// From the input's and the recurrent share, biases included, and the state: the new state.
DEVICE float gru_update(const Gates& input, const Gates& recurrent, float hidden) {
    const float reset = sigmoid(input.reset + recurrent.reset);
    const float update = sigmoid(input.update + recurrent.update);
    const float candidate = tanhf(input.candidate + reset * recurrent.candidate);
    return candidate + update * (hidden - candidate);
}

}  // namespace wavernn
