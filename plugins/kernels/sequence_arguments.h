// What the sequence kernels are launched with; wavernn_trt.plugins.arguments has the same structures.
//
// Names are those of wavernn_trt.export.operators.SequenceShape. Sizes: B streams, T steps, W rows of a window, H units,
// L layers, C columns of conditioning, U random numbers a sample.
#pragma once

namespace wavernn {

enum MatrixName { RECURRENT_0, INPUT_1, RECURRENT_1, FC_0, FC_1, OUTPUT, MATRICES };

enum PlaceName { GATES_0, SKIP, GATES_1, PLACE_FC_0, PLACE_FC_1, PLACES };

enum OutputKind { CATEGORICAL, LOGISTIC_MIXTURE, GAUSSIAN };

constexpr int MOST_GROUPS_OF_COLUMNS = 2;
// wavernn_trt.export.operators.WEIGHT_COLUMNS
constexpr int WEIGHT_COLUMNS = 32;

// A weight matrix, and how much of a block's share of it lies in shared memory.
struct Matrix {
    // [rows, columns], in the engine's precision; null where the model has none. Begins at a multiple of VECTOR_BYTES,
    // and its rows are padded with zeros to a multiple of WEIGHT_COLUMNS.
    const void* weight;
    // [rows]
    const float* bias;
    int rows;
    int columns;
    // Of a block's share, the first this many units (of three rows each) or rows are copied to shared memory.
    int resident;
    // Where, in bytes from the beginning of shared memory.
    int shared_offset;
};

// Columns of a conditioning group.
struct ColumnGroup {
    // Whether each step reads one row, else it sums all rows of the window.
    int held;
    // Which of the interpolated groups it is.
    int interpolated;
};

// Where a place finds its conditioning.
struct Place {
    // Of each group, the first of the place's columns in the whole conditioning; -1 for a group that does not feed it.
    int first_column[MOST_GROUPS_OF_COLUMNS];
};

struct SequenceArguments {
    const float* conditioning;   // [B, W, C]
    const int* frame_index;      // [B, T]; null where no group is held
    const float* interpolation;  // [B, interpolated, T, W]; null where all groups are held
    const float* uniforms;       // [B, T, U]
    const void* previous;        // [B], int where feedback is a label, else float
    const float* hidden;         // [L, B, H]
    const float* feedback;       // [outputs or 1, 3H]
    const float* gates_bias_0;   // [3H]
    const float* skip_column;    // [H]; null without a skip
    const float* skip_bias;      // [H]; null without a skip
    const float* gates_bias_1;   // [3H]; null with one layer

    // The state of a running chunk, and at its end what the node gives. previous_out and hidden_out may be previous and
    // hidden.
    void* samples;       // [B, T], int for categorical outputs, else float
    void* previous_out;  // [B], as previous
    float* hidden_out;   // [L, B, H]

    // Of the workspace; in the engine's precision, each stream's row padded to a multiple of VECTOR_BYTES.
    unsigned char* counters;  // COUNTER_BYTES for each group of blocks, zero before the launch
    void* states[2];          // [2, B, H] for each layer, of this step and the one before
    void* features[2];        // [B, H] behind each layer where there is a skip
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

    // Groups of blocks, each with streams of its own, and blocks of a group.
    int groups;
    int blocks;
    // How often a block looks for the others of its group before it gives up.
    int waits;
    // In bytes from the beginning of shared memory: two tiles of operands, each [tile, pitch] numbers; then sums of
    // the sampler, and behind those the flag that the block waits no more.
    int shared_operands;
    int shared_sampler;
};

}  // namespace wavernn
