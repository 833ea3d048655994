// A chunk with one launch for each stage of each step; the reference is wavernn_trt.plugins.reference.
//
// With hundreds of streams a step is a few large products on tensor cores, and the time is limited by arithmetic. Every
// launch reads the weights from the second-level cache; operations after a product use its sums in registers. Blocks of
// a launch exchange nothing. The launches of a chunk run in order on one CUDA stream: first begin_stepped, then for
// each step a launch for each GRU layer, each hidden fully connected layer, the last layer, and the sampling.
//
// Every tile sums over the columns in the same order: the bits of a stream depend neither on its position nor on the
// number of streams of a tile.
#pragma once

#include "stepped_draw.h"

namespace wavernn {

// Writes the weights in the order of fragments.h, divided among the warps of all blocks.
template <typename Weight>
DEVICE void order_weights(const Block& block, const SteppedArguments& p) {
#pragma unroll 1
    for (int name = 0; name < MATRICES; ++name) {
        const Matrix& matrix = p.s.matrices[name];
        const int gates = name <= RECURRENT_1 ? 3 : 1;
        const int count = gates * fragments_down(matrix.rows / gates) * whole_patches(matrix.columns);
#pragma unroll 1
        for (int i = block.rank() * block.warps() + block.warp(); i < count; i += p.s.batch * block.warps()) {
            order_fragment(block, matrix, gates, i, static_cast<Weight*>(p.fragments[name]));
        }
    }
}

// Orders the weights. Each block also copies the state of one stream from the previous chunk, and sets the padding of
// all operands of the stream to zero.
template <typename Weight>
DEVICE void begin_stepped(const Block& block, const SteppedArguments& p) {
    using Number = Operand<Weight>;
    if constexpr (WAVERNN_FRAGMENT_ORDER != 0) {
        order_weights<Weight>(block, p);
    }
    const SequenceArguments& a = p.s;
    const int stream = block.rank();
    const int pitch = operand_pitch(a.hidden_size);
    const long long operands = static_cast<long long>(stream) * pitch;
    const Number zero = narrow<Number>(0.0f);
#pragma unroll 1
    for (int layer = 0; layer < a.layers; ++layer) {
        Number* even = static_cast<Number*>(a.states[layer]) + operands;
        Number* odd = even + static_cast<long long>(a.batch) * pitch;  // the state before step 0
        const long long at = (static_cast<long long>(layer) * a.batch + stream) * a.hidden_size;
#pragma unroll 1
        for (int unit = block.thread(); unit < pitch; unit += block.threads()) {
            if (unit < a.hidden_size) {
                const float state = a.hidden[at + unit];
                a.hidden_out[at + unit] = state;
                odd[unit] = narrow<Number>(state);
            } else {
                even[unit] = odd[unit] = zero;
                if (a.skip) {
                    (static_cast<Number*>(a.features[layer]) + operands)[unit] = zero;
                }
            }
        }
    }
#pragma unroll 1
    for (int i = 0; i < a.fc_layers; ++i) {
        const int rows = a.matrices[FC_0 + i].rows;
        Number* row = static_cast<Number*>(a.activations[i]) + static_cast<long long>(stream) * operand_pitch(rows);
#pragma unroll 1
        for (int k = rows + block.thread(); k < operand_pitch(rows); k += block.threads()) {
            row[k] = zero;
        }
    }
    if (block.thread() == 0) {
        keep_previous(a, stream, given_previous(a, stream));
        if (stream == 0) {
            *p.next_step = 0;
        }
    }
}

template <typename Weight, int StreamOctets>
DEVICE void stepped_units_0(const Block& block, const SteppedArguments& p) {
    UnitStage<SteppedTile<Weight, 3, StreamOctets>, 1>(block, p).run();
}

template <typename Weight, int StreamOctets>
DEVICE void stepped_units_1(const Block& block, const SteppedArguments& p) {
    UnitStage<SteppedTile<Weight, 3, StreamOctets>, 2>(block, p).run();
}

template <typename Weight, int StreamOctets, int Pairs>
DEVICE void stepped_rows(const Block& block, const SteppedArguments& p) {
    RowStage<SteppedTile<Weight, Pairs, StreamOctets>>(block, p).run();
}

}  // namespace wavernn
