// Data of the native decoder that every instruction set's code shares: the packed model, and one call to decode.
//
// Names and formulas are those of wavernn_trt.export.operators.SequenceShape. Sizes: B streams, T steps, W window rows,
// H units, L layers, C columns of conditioning, U random numbers for each sample. No structure has member functions or
// uses the standard library: code of several instruction sets includes this file, and an inline function compiled for
// one of them could replace another's.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace wavernn {

enum MatrixName { RECURRENT_0, INPUT_1, RECURRENT_1, FC_0, FC_1, OUTPUT, MATRICES };
enum PlaceName { GATES_0, SKIP, GATES_1, PLACE_FC_0, PLACE_FC_1, PLACES };
enum OutputKind { CATEGORICAL, LOGISTIC_MIXTURE, GAUSSIAN };

// How weights are stored, and the activations they are multiplied with.
enum Arithmetic {
    FLOAT32,     // float weights and activations
    BFLOAT16,    // bfloat16 weights, float activations
    INT8_INT16,  // int8 weights with a scale for each row; int16 activations with a power of two for each stream
    INT8_INT8    // int8 weights with a scale for each row; int8 activations with one scale
};

// Blocks of weights that are stored only where one of them is not zero: rows x columns.
enum Zeros {
    DENSE,
    ROWS16,   // 16 x 1
    ROWS4,    // 4 x 1
    COLUMNS4  // 1 x 4, and so 4 x 4
};

constexpr int GROUPS = 2;  // maximum number of column groups of the conditioning
constexpr int GATES = 3;   // reset, update, new
constexpr int ALIGNMENT = 64;

// Two codes of activations, which are written as int16_t and read as one word.
typedef int32_t __attribute__((may_alias)) CodePair;

// A weight matrix in blocks of rows; see pack.h.
struct Matrix {
    const void* weights;
    const float* bias;     // in the order of packed rows
    const float* scales;   // of packed rows; null without integers
    const int32_t* sums;   // of the codes of packed rows; null without integers
    int arithmetic;        // an Arithmetic
    int blocks;
    int columns;           // K; integers are padded to whole groups of columns
    size_t block_bytes;
    long long stored, stored_bytes;  // weights that are multiplied; bytes of them and their indices; without padding
    float activation_scale;  // INT8_INT8: of all activations; INT8_INT16: codes of 1.0 for activations up to 1.0

    int zeros;                // a Zeros; if not DENSE, weights are float32 in lists, whatever the arithmetic
    int bundle;               // blocks of rows whose lists are padded to the same length; slices begin at multiples
    int units;                // units of a bundle; see sparse.h
    const uint32_t* lists;    // [bundles + 1], first entry of each bundle
    const uint16_t* indices;  // [entries, units], first column
    const float* values;      // [entries, units, weights of a block]
    const uint8_t* order;     // COLUMNS4: [rows], row inside its block of each unit
};

struct Model {
    int hidden, layers, fc_layers, outputs, output, label_feedback, skip, columns, groups, uniforms;
    int held[GROUPS];
    int place_used[PLACES];
    int place_first[PLACES][GROUPS];  // first column in a row of conditioning, -1 if the group is not added there
    int place_gates[PLACES];          // GATES or 1: a row of a place has this many parts of place_width columns
    int place_width[PLACES];
    int place_padded[PLACES];         // width of a part in tables and buffers
    int unit_blocks;                  // blocks of units, each with GATES blocks of rows in matrices of gates
    Matrix matrices[MATRICES];
    const float* feedback;                // [outputs or 1, GATES, padded H]
    const float* place_bias[PLACES];      // [gates, padded]
    const float* skip_column;             // [padded H]
    const float* fed_back;                // [outputs], the input value of each class; null with label feedback
};

// One call to decode: arguments and buffers. Rows of buffers are padded to whole blocks.
struct Run {
    const Model* model;
    const float* conditioning;    // [B, W, C]
    const int32_t* frame_index;   // [B, T]
    const float* interpolation;   // [B, interpolated groups, T, W]
    const float* uniforms;        // [B, T, U]
    const uint32_t* forced;       // [B, T], inputs instead of the drawn samples; null if free-running
    uint32_t* previous;           // [B], int32 labels or bits of floats; read and written
    uint32_t* samples;            // [B, T], int32 labels or bits of floats
    float* logits_out;            // [B, T, outputs], or null
    int batch, steps, window, threads;
    void* barrier;

    float* states[2][2];   // [layer][parity][B, padded H]
    float* features[2];    // [B, padded H], of each layer where there is a skip connection
    float* activations[2];  // [B, padded width]
    float* logits;         // [B, padded outputs]
    float* rows[PLACES];   // [B, gates, padded]: conditioning of the step with the place's bias
    size_t thread_bytes;   // of each thread's own memory
    unsigned char* thread_memory;
};

// The code of one instruction set.
struct Path {
    const char* name;
    int block_rows;   // rows of a block
    int lanes;        // floats in a vector
    int integer_columns;  // columns of a row that are neighbours in packed integers
    size_t (*thread_bytes)(const Model* model, int batch);
    void (*run)(const Run* run, int thread);
    void (*functions)(int function, const float* x, float* y, size_t count);  // for tests: exp, sigmoid, tanh
    void (*read_array)(const float* x, size_t count, float* sums);             // see limits.h
    double (*multiply_in_registers)(int integers, int rounds, float* sums);
};

// The path of a name; null if this machine cannot run it.
const Path* usable_path(const char* name);

}  // namespace wavernn

// Waits until all threads of a run have called it.
extern "C" void wavernn_native_wait(void* barrier);
