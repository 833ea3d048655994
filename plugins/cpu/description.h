// A model and a chunk as callers pass them; wavernn_trt.plugins.cpu.library has the same structures. Arrays are
// contiguous and in natural order; sizes are checked by the caller.
#pragma once

#include "model.h"

namespace wavernn {

// Raised with every change of these structures or of an exported function. Callers compare it before they use a library.
constexpr int VERSION = 2;

struct MatrixDescription {
    const float* weight;  // [rows, columns]; null if the model does not have it
    const float* bias;    // [rows]
    int32_t rows;
    int32_t columns;
    int32_t arithmetic;  // an Arithmetic
    float activation_scale;  // INT8_INT8 only
    int32_t zeros;  // a Zeros, or -1 to choose by the weights, or -2 for COLUMNS4 with all blocks stored
};

struct Description {
    MatrixDescription matrices[MATRICES];
    const float* feedback;      // [outputs or 1, 3H]
    const float* gates_bias_0;  // [3H]
    const float* gates_bias_1;  // [3H]; null with one layer
    const float* skip_column;   // [H]; null without a skip connection
    const float* skip_bias;     // [H]
    const float* fed_back;      // [outputs]; null with label feedback
    int32_t hidden, layers, fc_layers, outputs, output, label_feedback, skip, columns, groups, uniforms;
    int32_t held[GROUPS];
    int32_t place_first[PLACES][GROUPS];
};

struct Chunk {
    const float* conditioning;
    const int32_t* frame_index;
    const float* interpolation;
    const float* uniforms;
    const uint32_t* forced;
    uint32_t* previous;  // read and written
    float* hidden;       // [L, B, H], read and written
    uint32_t* samples;
    float* logits;
    int32_t batch, steps, window, threads;
};

}  // namespace wavernn
