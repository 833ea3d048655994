// The arguments of the gru_cell kernels; wavernn_trt.plugins.arguments has the same structure.
#pragma once

namespace wavernn {

struct GruArguments {
    // [batch, 3 * hidden_size], input product of the reset, update and new gates, with its bias.
    const float* gates;
    // [batch, hidden_size]
    const float* hidden;
    // [3 * hidden_size, hidden_size], in the engine's precision.
    const void* recurrent_weight;
    // [3 * hidden_size]
    const float* recurrent_bias;
    // [batch, hidden_size]; must not be the same buffer as hidden.
    float* next_hidden;
    int batch;
    int hidden_size;
    // Number of blocks among which the units are divided; the grid has this number for each tile of streams.
    int unit_blocks;
};

}  // namespace wavernn
