// All steps of a chunk in one launch; the reference is wavernn_trt.plugins.reference.
//
// The kernel runs for the whole chunk. The units of the GRUs and the rows of the fully connected layers are divided
// among the blocks of a group. A block computes the three gates and the state of its units, and keeps its weights in
// shared memory as far as they fit. Blocks exchange results through the second-level cache, in the engine's
// precision. There are two buffers of states, because a step reads the states of the previous step while it writes its
// own. Every other buffer is read in the stage after it is written, and barriers separate that stage from the next
// write. All blocks of the grid must be resident at once: the launch is cooperative.
#pragma once

#include "sampling.h"
#include "stages.h"

namespace wavernn {

// Reads the state of the previous chunk: each block for its units, and the samples of the streams that it draws for.
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

// Copies the resident part of the weights to shared memory.
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

// Runs the steps of a chunk; ends early if another block of the group does not arrive at a barrier.
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
