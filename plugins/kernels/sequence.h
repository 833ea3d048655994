// All steps of a chunk in one launch: wavernn_trt.plugins.reference.
//
// The kernel stays on the GPU for the whole chunk. A group of blocks shares out the units of the GRUs and the rows of
// the fully connected layers; a unit's three gates and its state stay in one block, as do the weights of its share,
// in shared memory as far as they fit. What the next stage needs of all blocks goes through global memory, which is in
// the second-level cache, in the engine's precision. Two buffers hold the states, since a step reads those of the step
// before while it writes its own; every other buffer is read in the stage after it is written, and the stages until it
// is written again end in barriers. The grid must be resident as a whole: it is launched as a cooperative one.
#pragma once

#include "sampling.h"
#include "stages.h"

namespace wavernn {

// Takes over the state of the chunk before: each block that of its units, and the samples of the streams it draws for.
template <typename Number>
DEVICE void begin_chunk(const Context<Number>& c) {
    const SequenceArguments& a = c.a;
    const Span streams = c.group.streams(a.batch);
    const Span units = c.group.share(a.hidden_size);
#pragma unroll 1
    for (int layer = 0; layer < a.layers; ++layer) {
#pragma unroll 1
        for (int i = c.block.thread(); i < streams.count * units.count; i += c.block.threads()) {
            const int stream = streams.first + i / units.count;
            const int unit = units.first + i % units.count;
            const long long at = (static_cast<long long>(layer) * a.batch + stream) * a.hidden_size + unit;
            keep_state(c, layer, stream, -1, unit, a.hidden[at]);
        }
    }
#pragma unroll 1
    for (int i = c.group.rank() + c.block.thread() * c.group.blocks(); i < streams.count;
         i += c.block.threads() * c.group.blocks()) {
        const int stream = streams.first + i;
        keep_previous(a, stream, given_previous(a, stream));
    }
}

// Copies what is to stay in shared memory.
template <int Streams, typename Number>
DEVICE void copy_weights(const Context<Number>& c) {
#pragma unroll 1
    for (int name = 0; name < MATRICES; ++name) {
        const Matrix& matrix = c.a.matrices[name];
        if (matrix.resident == 0) {
            continue;
        }
        if (name <= RECURRENT_1) {
            UnitSlice<Number>(c.block, c.group, matrix).copy(c.block);
        } else {
            RowSlice<Number, Streams>(c.block, c.group, matrix).copy(c.block);
        }
    }
}

// The steps of a chunk, or those until another block of the group does not come to a barrier.
template <typename Number, int Streams>
DEVICE void run_steps(const Context<Number>& c, Group& group, Span streams) {
    const SequenceArguments& a = c.a;
    bool whole = group.sync(c.block, -1);
#pragma unroll 1
    for (int step = 0; whole && step < a.steps; ++step) {
        gru_stage<0, Streams>(c, step);
        whole = group.sync(c.block, step);
        if (a.layers == 2 && whole) {
            gru_stage<1, Streams>(c, step);
            whole = group.sync(c.block, step);
        }
        const Number* from = c.features(a.layers - 1, step);
#pragma unroll 1
        for (int i = 0; i < a.fc_layers && whole; ++i) {
            fc_stage<Streams>(c, i, from, step);
            whole = group.sync(c.block, step);
            from = static_cast<const Number*>(a.activations[i]);
        }
        if (!whole) {
            break;
        }
        output_stage<Streams>(c, from, step);
        if (!group.sync(c.block, step)) {
            break;
        }
#pragma unroll 1
        for (int i = group.rank(); i < streams.count; i += group.blocks()) {
            const int stream = streams.first + i;
            const float* logits = a.logits + stream * a.logits_pitch + step * a.logits_step;
            const Drawn drawn = draw(c.block, a, logits, stream, step);
            if (c.block.thread() == 0) {
                keep_sample(a, stream, step, drawn.sample);
                keep_previous(a, stream, drawn.previous);
            }
        }
        whole = group.sync(c.block, step);
    }
}

template <typename Number, int Streams>
DEVICE void sequence(const Block& block, const SequenceArguments& a) {
    unsigned* stopped = reinterpret_cast<unsigned*>(block.shared() + a.shared_sampler) + 3 * block.warps() + 1;
    Group group(block, a.groups, a.blocks, a.counters, a.waits, stopped);
    const Context<Number> c = {block, group, a};
    const Span streams = group.streams(a.batch);
    copy_weights<Streams>(c);
    begin_chunk(c);
    run_steps<Number, Streams>(c, group, streams);
    const unsigned error = block.thread() == 0 ? read_published(group.error()) : 0;
    if (error != 0) {
#pragma unroll 1
        for (int i = group.rank(); i < streams.count; i += group.blocks()) {
            keep_sample(a, streams.first + i, a.steps - 1, error);
        }
    }
}

}  // namespace wavernn
