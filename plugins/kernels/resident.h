// All steps of a chunk in one launch, with products by tensor cores: wavernn_trt.plugins.reference.
//
// The kernel stays on the GPU for the whole chunk, and the weights of a block's share in its shared memory as far
// as they fit. A group of blocks shares out the units of the GRUs and the rows of the fully connected layers in
// octets; what the next stage needs of all blocks goes through the second-level cache. The grid must be resident
// as a whole: it is launched as a cooperative one.
//
// A step waits for the one before, so with few streams it is the way from stage to stage that takes time. So
//   - words are stamped, and nobody waits at a barrier (mailbox.h);
//   - the product of the state, more than half of a step's work, is made while the fully connected layers' words are
//     under way: it needs nothing of the sample;
//   - of a single stream every block draws the sample itself, since that is faster than to be told.
#pragma once

#include "resident_stages.h"
#include "trace.h"

namespace wavernn {

// Shares the matrices out over the blocks of the group.
template <typename C>
DEVICE void share_matrices(const C& c) {
    if (c.block.thread() == 0) {
#pragma unroll 1
        for (int name = 0; name < MATRICES; ++name) {
            const Matrix& matrix = c.a.matrices[name];
            const bool gates = name <= RECURRENT_1;
            const int sets = gates ? OctetShare<typename C::Weight, 3>::sets_of(matrix)
                                   : OctetShare<typename C::Weight, 1>::sets_of(matrix);
            c.share_of_matrix(static_cast<MatrixName>(name)) = c.group.share(sets);
        }
    }
    c.block.sync();
}

// Copies what is to stay in shared memory, and tells the other blocks the state of the chunk before.
template <typename C>
DEVICE void begin_chunk(const C& c, Span streams) {
    const SequenceArguments& a = c.a;
    if (a.matrices[RECURRENT_0].resident > 0) {
        c.units(RECURRENT_0).keep(c.block);
    }
#pragma unroll 1
    for (int name = INPUT_1; name < MATRICES; ++name) {
        if (a.matrices[name].resident == 0) {
            continue;
        }
        if (name <= RECURRENT_1) {
            c.units(static_cast<MatrixName>(name)).keep(c.block);
        } else {
            c.rows(static_cast<MatrixName>(name)).keep(c.block);
        }
    }
    const OctetShare<typename C::Weight, 3> units = c.units(RECURRENT_0);
#pragma unroll 1
    for (int layer = 0; layer < a.layers; ++layer) {
        constexpr int pairs = PATCH_ROWS / 2;
#pragma unroll 1
        for (int i = c.block.thread(); i < units.count() * streams.count * pairs; i += c.block.threads()) {
            const int set = i / pairs / streams.count;
            const int stream = streams.first + i / pairs % streams.count;
            const int row = i % pairs * 2;
            const int there = units.rows(set) - row;
            if (there <= 0) {
                continue;
            }
            const int unit = units.first_row(set) + row;
            const float* from = a.hidden + (static_cast<long long>(layer) * a.batch + stream) * a.hidden_size + unit;
            const float second = there > 1 ? from[1] : 0.0f;
            c.states(layer).put(-1, stream, unit, pair<typename C::Number>(from[0], second));
        }
    }
    c.block.sync();
}

template <typename C, typename Use>
DEVICE void for_stream_tiles(Span streams, Use use) {
#pragma unroll 1
    for (int first = 0; first < streams.count; first += C::STREAMS) {
        use(typename C::Tile{streams.first + first, min(C::STREAMS, streams.count - first)});
    }
}

// The gates of both layers before the sample, of all of the block's sets.
template <typename C>
DEVICE void begin_all_gates(const C& c, int step, const typename C::Tile& tile) {
    const int sets = c.units(RECURRENT_0).count();
#pragma unroll 1
    for (int layer = 0; layer < c.a.layers; ++layer) {
#pragma unroll 1
        for (int set = 0; set < sets; ++set) {
            begin_gates(c, layer, step, tile, set);
        }
    }
}

// A GRU layer's stage, whose gates have been begun.
template <typename C, typename Previous>
DEVICE void gru_stage(const C& c, int layer, int step, const typename C::Tile& tile, Previous previous_of) {
    const int sets = c.units(RECURRENT_0).count();
#pragma unroll 1
    for (int set = 0; set < sets; ++set) {
        if (layer == 0) {
            finish_gates_0(c, step, tile, set, previous_of);
        } else {
            finish_gates_1(c, step, tile, set);
        }
    }
}

template <typename Weight, int StreamOctets>
DEVICE void resident(const Block& block, const ResidentArguments& r) {
    using C = ResidentContext<Weight, StreamOctets>;
    const SequenceArguments& a = r.s;
    typename C::Meeting meeting(reinterpret_cast<float*>(block.shared() + r.shared_meeting));
    unsigned* stopped = reinterpret_cast<unsigned*>(block.shared() + r.shared_shares + MATRICES * sizeof(Span));
    Group group(block, a.groups, a.blocks, a.counters, a.waits, stopped);
    const Watch watch(group.error(), stopped, block.rank(), a.waits);
    const C c = {block, group, r, a, meeting, watch};
    const Span streams = group.streams(a.batch);
    const bool alone = streams.count == 1;
    unsigned latest = 0;
    share_matrices(c);
    begin_chunk(c, streams);
    // Gates are begun ahead: there is a step before the first that does nothing else.
#pragma unroll 1
    for (int step = -1; step < a.steps; ++step) {
        TRACE(0, step);
        const auto previous_of = [&](int stream) {
            if (step == 0) {
                return given_previous(a, stream);
            }
            return alone ? latest : c.previous().take(step - 1, stream, watch);
        };
#pragma unroll 1
        for (int layer = 0; layer < (step < 0 ? 0 : a.layers); ++layer) {
            for_stream_tiles<C>(
                streams, [&](const typename C::Tile& tile) { gru_stage(c, layer, step, tile, previous_of); });
            TRACE(1 + layer, step);
        }
        OperandMail from = c.features(a.layers - 1);
#pragma unroll 1
        for (int i = 0; i < a.fc_layers; ++i) {
            for_stream_tiles<C>(streams, [&](const typename C::Tile& tile) {
                if (step >= 0) {
                    fc_stage(c, i, from, step, tile);
                }
                if (i == 0 && step + 1 < a.steps) {
                    begin_all_gates(c, step + 1, tile);
                }
            });
            from = c.activations(i);
            TRACE(3 + i, step);
        }
        if (step < 0) {
            continue;
        }
        for_stream_tiles<C>(streams, [&](const typename C::Tile& tile) { output_stage(c, from, step, tile); });
        TRACE(5, step);
        if (alone) {
            const Drawn drawn = draw_stage(c, streams.first, step);
            latest = drawn.previous;
            TRACE(6, step);
            if (group.rank() == 0 && block.thread() == 0) {
                keep_sample(a, streams.first, step, drawn.sample);
            }
            continue;
        }
#pragma unroll 1
        for (int i = group.rank(); i < streams.count; i += group.blocks()) {
            const Drawn drawn = draw_stage(c, streams.first + i, step);
            if (block.thread() == 0) {
                keep_sample(a, streams.first + i, step, drawn.sample);
                c.previous().put(step, streams.first + i, drawn.previous);
            }
        }
        TRACE(6, step);
    }
    group.sync(block, a.steps);  // previous may be where previous_out is: all have read it
    if (block.thread() == 0) {
        const unsigned error = read_published(group.error());
#pragma unroll 1
        for (int i = group.rank(); i < streams.count; i += group.blocks()) {
            const int stream = streams.first + i;
            keep_previous(a, stream, alone ? latest : c.previous().take(a.steps - 1, stream, watch));
            if (error != 0) {
                keep_sample(a, stream, a.steps - 1, error);
            }
        }
    }
}

}  // namespace wavernn
