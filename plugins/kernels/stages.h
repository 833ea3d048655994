// The stages of a step. Each reads results of the previous stage from all blocks of the group, after a barrier.
#pragma once

#include "feedback.h"
#include "gates.h"
#include "slices.h"
#include "tiles.h"

namespace wavernn {

// Data of all stages of a kernel.
template <typename Number>
struct Context {
    const Block& block;
    const Group& group;
    const SequenceArguments& a;

    // The states of a layer after a step, as operands [B, padded H]; step -1 is the end of the previous chunk.
    DEVICE Number* states(int layer, int step) const {
        const long long one = static_cast<long long>(a.batch) * padded<Number>(a.hidden_size);
        return static_cast<Number*>(a.states[layer]) + (step & 1) * one;
    }

    // Input of the layer after a GRU, after a step.
    DEVICE const Number* features(int layer, int step) const {
        return a.skip ? static_cast<const Number*>(a.features[layer]) : states(layer, step);
    }

    // The first or second buffer of a tile's operands in shared memory; each has H columns.
    template <int Streams>
    DEVICE Number* operands(int index) const {
        Number* first = reinterpret_cast<Number*>(block.shared() + a.shared_operands);
        return first + index * Streams * padded<Number>(a.hidden_size);
    }
};

DEVICE unsigned previous_of(const SequenceArguments& a, int stream) {
    return static_cast<const unsigned*>(a.previous_out)[stream];
}

DEVICE float input_gate_0(const SequenceArguments& a, int stream, int step, int column) {
    return fed_back(a, previous_of(a, stream), column) + conditioning_at(a, stream, step, GATES_0, column) +
           a.gates_bias_0[column];
}

// Stores the new state of a unit: in float, and as an operand.
template <typename Number>
DEVICE void keep_state(const Context<Number>& c, int layer, int stream, int step, int unit, float state) {
    const SequenceArguments& a = c.a;
    const int pitch = padded<Number>(a.hidden_size);
    a.hidden_out[(static_cast<long long>(layer) * a.batch + stream) * a.hidden_size + unit] = state;
    c.states(layer, step)[static_cast<long long>(stream) * pitch + unit] = narrow<Number>(state);
}

// With a skip connection, stores the output of a layer: the sum of its state and the skip connection.
template <typename Number>
DEVICE void keep_feature(const Context<Number>& c, int layer, int stream, int step, int unit, float state) {
    const SequenceArguments& a = c.a;
    const long long at = static_cast<long long>(stream) * padded<Number>(a.hidden_size) + unit;
    float* skipped = a.skipped + static_cast<long long>(stream) * a.hidden_size + unit;
    float feature;
    if (layer == 0) {
        const float previous = float_of_bits(previous_of(a, stream));
        feature =
            state + previous * a.skip_column[unit] + conditioning_at(a, stream, step, SKIP, unit) + a.skip_bias[unit];
        *skipped = feature;
    } else {
        feature = state + *skipped;  // written by this block, which has the same units in both layers
    }
    static_cast<Number*>(a.features[layer])[at] = narrow<Number>(feature);
}

// A GRU layer, for the units of this block and all streams of its group.
template <int layer, int Streams, typename Number>
DEVICE void gru_stage(const Context<Number>& c, int step) {
    const SequenceArguments& a = c.a;
    const int size = a.hidden_size;
    const int pitch = padded<Number>(size);
    const UnitSlice<Number> recurrent(c.block, c.group, a.matrices[layer == 0 ? RECURRENT_0 : RECURRENT_1]);
    const UnitSlice<Number> input(c.block, c.group, a.matrices[layer == 0 ? RECURRENT_0 : INPUT_1]);
    const float* recurrent_bias = a.matrices[layer == 0 ? RECURRENT_0 : RECURRENT_1].bias;
    for_tiles<Streams>(c.block, c.group.streams(a.batch), [&](const Tile<Streams>& tile) {
        Number* state_operands = c.template operands<Streams>(0);
        Number* input_operands = c.template operands<Streams>(1);
        copy_operands(c.block, tile, c.states(layer, step - 1), size, state_operands);
        if constexpr (layer > 0) {
            copy_operands(c.block, tile, c.features(layer - 1, step), size, input_operands);
        }
        c.block.sync();
#pragma unroll 1
        for (int set = c.block.warp(); set < recurrent.count(); set += c.block.warps()) {
            float sums[3][Streams];
            clear(sums);
            add_products(c.block, recurrent.rows(set), state_operands, pitch, sums);
            reduce(c.block, sums);
            float input_sums[3][Streams];
            clear(input_sums);
            if constexpr (layer > 0) {
                add_products(c.block, input.rows(set), input_operands, pitch, input_sums);
                reduce(c.block, input_sums);
            }
            const int unit = recurrent.first_row(set);
            for_held_streams<Streams>(c.block, [&](int place, int i) {
                if (!tile.has(place)) {
                    return;
                }
                const int stream = tile.stream(place);
                float input_gates[3];
                float recurrent_gates[3];
#pragma unroll
                for (int gate = 0; gate < 3; ++gate) {
                    const int column = gate * size + unit;
                    recurrent_gates[gate] = sums[gate][i] + recurrent_bias[column];
                    if constexpr (layer == 0) {
                        input_gates[gate] = input_gate_0(a, stream, step, column);
                    } else {
                        input_gates[gate] = input_sums[gate][i] + conditioning_at(a, stream, step, GATES_1, column) +
                                            a.gates_bias_1[column];
                    }
                }
                const long long at = (static_cast<long long>(layer) * a.batch + stream) * size + unit;
                const float state = gru_update(
                    {input_gates[0], input_gates[1], input_gates[2]},
                    {recurrent_gates[0], recurrent_gates[1], recurrent_gates[2]}, a.hidden_out[at]);
                keep_state(c, layer, stream, step, unit, state);
                if (a.skip) {
                    keep_feature(c, layer, stream, step, unit, state);
                }
            });
        }
    });
}

// The product of this block's rows with all streams of its group: calls use(stream, row, sum without bias).
template <int Streams, typename Number, typename Use>
DEVICE void row_stage(const Context<Number>& c, const Matrix& matrix, const Number* from, Use use) {
    const RowSlice<Number, Streams> slice(c.block, c.group, matrix);
    constexpr int rows_of_set = Streams == 1 ? 1 : 2;
    for_tiles<Streams>(c.block, c.group.streams(c.a.batch), [&](const Tile<Streams>& tile) {
        Number* operands = c.template operands<Streams>(0);
        copy_operands(c.block, tile, from, matrix.columns, operands);
        c.block.sync();
#pragma unroll 1
        for (int set = c.block.warp(); set < slice.count(); set += c.block.warps()) {
            float sums[rows_of_set][Streams];
            clear(sums);
            add_products(c.block, slice.rows(set), operands, padded<Number>(matrix.columns), sums);
            reduce(c.block, sums);
            for_held_streams<Streams>(c.block, [&](int place, int i) {
#pragma unroll
                for (int r = 0; r < rows_of_set; ++r) {
                    const int row = slice.first_row(set) + r;
                    if (tile.has(place) && row < matrix.rows) {
                        use(tile.stream(place), row, sums[r][i]);
                    }
                }
            });
        }
    });
}

// A hidden fully connected layer with ReLU.
template <int Streams, typename Number>
DEVICE void fc_stage(const Context<Number>& c, int i, const Number* from, int step) {
    const SequenceArguments& a = c.a;
    const Matrix& matrix = a.matrices[FC_0 + i];
    const PlaceName place = i == 0 ? PLACE_FC_0 : PLACE_FC_1;
    row_stage<Streams>(c, matrix, from, [&](int stream, int row, float sum) {
        const float value = sum + conditioning_at(a, stream, step, place, row) + matrix.bias[row];
        const long long at = static_cast<long long>(stream) * padded<Number>(matrix.rows) + row;
        static_cast<Number*>(a.activations[i])[at] = narrow<Number>(value < 0.0f ? 0.0f : value);
    });
}

// The last layer; logits stay in float.
template <int Streams, typename Number>
DEVICE void output_stage(const Context<Number>& c, const Number* from, int step) {
    const SequenceArguments& a = c.a;
    const Matrix& matrix = a.matrices[OUTPUT];
    row_stage<Streams>(c, matrix, from, [&](int stream, int row, float sum) {
        a.logits[stream * a.logits_pitch + step * a.logits_step + row] = sum + matrix.bias[row];
    });
}

}  // namespace wavernn
