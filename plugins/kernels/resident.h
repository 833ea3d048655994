// All steps of a chunk in one launch, with products by tensor cores; the reference is wavernn_trt.plugins.reference.
//
// The kernel runs for the whole chunk, and a block keeps the weights of its share in shared memory as far as they fit.
// The units of the GRUs and the rows of the fully connected layers are divided among the blocks of a group in octets;
// blocks exchange results through the second-level cache. All blocks of the grid must be resident at once: the launch
// is cooperative.
//
// A step depends on the previous one, so with few streams most of the time is latency between stages. Therefore
//   - words are stamped, which replaces barriers (mailbox.h);
//   - the product with the state, more than half of a step's work, is computed while the words of the fully connected
//     layers are exchanged, because it does not depend on the sample;
//   - for a single stream every block draws the sample itself, which is faster than an exchange.
#pragma once

#include "resident_stages.h"
#include "trace.h"

namespace wavernn {

// Divides the matrices among the blocks of the group.
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

// Copies the resident sets to shared memory, and sends the state of the previous chunk to the other blocks.
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

// Begins the gates of all layers for all sets of the block, before the sample exists.
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

// The stage of a GRU layer: finishes its gates.
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
    // Step -1 only begins the gates of step 0.
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
    group.sync(block, a.steps);  // previous and previous_out may be the same buffer: all blocks have read it
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
