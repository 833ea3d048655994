// The arguments of the sequence kernels; wavernn_trt.plugins.arguments has the same structures.
//
// Names are those of wavernn_trt.export.operators.SequenceShape. Sizes: B streams, T steps, W window rows, H units,
// L layers, C columns of conditioning, U random numbers for each sample.
#pragma once

namespace wavernn {

enum MatrixName { RECURRENT_0, INPUT_1, RECURRENT_1, FC_0, FC_1, OUTPUT, MATRICES };

enum PlaceName { GATES_0, SKIP, GATES_1, PLACE_FC_0, PLACE_FC_1, PLACES };

enum OutputKind { CATEGORICAL, LOGISTIC_MIXTURE, GAUSSIAN };

constexpr int MOST_GROUPS_OF_COLUMNS = 2;
// wavernn_trt.export.operators.WEIGHT_COLUMNS
constexpr int WEIGHT_COLUMNS = 32;

// A weight matrix, and the part of a block's share that is in shared memory.
struct Matrix {
    // [rows, columns], in the engine's precision; null if the model does not have it. Aligned to VECTOR_BYTES; rows are
    // padded with zeros to a multiple of WEIGHT_COLUMNS.
    const void* weight;
    // [rows]
    const float* bias;
    int rows;
    int columns;
    // Number of sets at the beginning of a block's share that are copied to shared memory.
    int resident;
    // Byte offset of the copy in shared memory.
    int shared_offset;
};

// Columns of a conditioning group.
struct ColumnGroup {
    // 1: each step reads one row of the window; 0: it sums all rows with weights.
    int held;
    // Index among the interpolated groups.
    int interpolated;
};

// The conditioning of a place.
struct Place {
    // For each group, the place's first column in the whole conditioning; -1 if the group is not added at the place.
    int first_column[MOST_GROUPS_OF_COLUMNS];
};

struct SequenceArguments {
    const float* conditioning;   // [B, W, C]
    const int* frame_index;      // [B, T]; null if no group is held
    const float* interpolation;  // [B, interpolated, T, W]; null if all groups are held
    const float* uniforms;       // [B, T, U]
    const void* previous;        // [B], int if the feedback is a label, else float
    const float* hidden;         // [L, B, H]
    const float* feedback;       // [outputs or 1, 3H]
    const float* gates_bias_0;   // [3H]
    const float* skip_column;    // [H]; null without a skip
    const float* skip_bias;      // [H]; null without a skip
    const float* gates_bias_1;   // [3H]; null with one layer

    // The state of a running chunk, at its end the outputs of the node. previous_out and previous may be one buffer, as
    // may hidden_out and hidden.
    void* samples;       // [B, T], int for categorical outputs, else float
    void* previous_out;  // [B], as previous
    float* hidden_out;   // [L, B, H]

    // Workspace, in the engine's precision; the row of each stream is padded to a multiple of VECTOR_BYTES.
    unsigned char* counters;  // COUNTER_BYTES for each group of blocks, zero before the launch
    void* states[2];          // [2, B, H] for each layer, of this step and of the previous one
    void* features[2];        // [B, H], output of each layer if there is a skip connection
    float* skipped;           // [B, H], the first feature before it is rounded
    void* activations[2];     // [B, width] of each fully connected layer
    float* logits;            // [B, outputs], at logits + stream * logits_pitch + step * logits_step
    long long logits_pitch;
    long long logits_step;

    Matrix matrices[MATRICES];
    ColumnGroup column_groups[MOST_GROUPS_OF_COLUMNS];
    Place places[PLACES];

    int batch;
    int steps;
    int window;
    int hidden_size;
    int layers;
    int fc_layers;
    int outputs;
    int output;  // an OutputKind
    int label_feedback;
    int skip;
    int uniforms_a_sample;
    int columns;
    int interpolated_groups;

    // Number of groups of blocks, among which the streams are divided, and of blocks of a group.
    int groups;
    int blocks;
    // Maximum number of polls of a waiting thread.
    int waits;
    // Byte offsets in shared memory: two tiles of operands, each [tile, pitch] numbers; and the sums of the sampler,
    // then the flag that the block has stopped waiting.
    int shared_operands;
    int shared_sampler;
};

}  // namespace wavernn
