// What the gru_cell kernels are launched with; wavernn_trt.plugins.arguments has the same structure.
#pragma once

namespace wavernn {

struct GruArguments {
    // [batch, 3 * hidden_size], the input's share of the reset, update and new gates.
    const float* gates;
    // [batch, hidden_size]
    const float* hidden;
    // [3 * hidden_size, hidden_size], in the engine's precision.
    const void* recurrent_weight;
    // [3 * hidden_size]
    const float* recurrent_bias;
    // [batch, hidden_size]; may not be hidden.
    float* next_hidden;
    int batch;
    int hidden_size;
    // Blocks that share out the units; the grid has as many for each tile of streams.
    int unit_blocks;
};

}  // namespace wavernn
