// The stages of a step in the resident kernel.
#pragma once

#include "gates.h"
#include "patch_product.h"
#include "resident_arguments.h"
#include "sampling.h"

namespace wavernn {

// The part of a unit's gates that can be computed before the previous sample or the previous layer.
struct WaitingGates {
    Gates input;      // conditioning and biases
    Gates recurrent;  // the state's product, with its bias
    float hidden;
    float skipped;  // skip connection around layer 0, without the part of the previous sample
};
static_assert(sizeof(WaitingGates) == 32, "wavernn_trt.plugins.resident makes room for so many bytes");

// Data of all stages of a kernel.
template <typename Weight_, int StreamOctets_>
struct ResidentContext {
    using Weight = Weight_;
    using Number = Operand<Weight>;
    using Tile = StreamTile<StreamOctets_>;
    static constexpr int STREAM_OCTETS = StreamOctets_;
    static constexpr int STREAMS = StreamOctets_ * PATCH_ROWS;
    // One set of gates, or three sets of rows.
    using Meeting = MeetingPlace<3, STREAM_OCTETS>;

    const Block& block;
    const Group& group;
    const ResidentArguments& r;
    const SequenceArguments& a;
    Meeting& meeting;
    const Watch& watch;

    DEVICE Mailbox mail(long long first, long long words_a_stream) const {
        return Mailbox(r.mail, first, words_a_stream * a.batch);
    }

    DEVICE OperandMail operands(long long first, int columns) const {
        OperandMail found = {Mailbox(r.mail, first, 0), columns};
        found.mail = mail(first, found.pitch());
        return found;
    }

    DEVICE OperandMail states(int layer) const { return operands(r.mail_states[layer], a.hidden_size); }

    // Input of the layer after a GRU.
    DEVICE OperandMail features(int layer) const {
        return a.skip ? operands(r.mail_features[layer], a.hidden_size) : states(layer);
    }

    DEVICE OperandMail activations(int i) const {
        return operands(r.mail_activations[i], a.matrices[FC_0 + i].rows);
    }

    DEVICE Mailbox logits() const { return mail(r.mail_logits, (a.outputs + 3) / 4 * 4); }

    DEVICE Mailbox previous() const { return mail(r.mail_previous, 1); }

    // The sets of a matrix of this block. Computed once, because it needs divisions.
    DEVICE Span& share_of_matrix(MatrixName name) const {
        return reinterpret_cast<Span*>(block.shared() + r.shared_shares)[name];
    }

    DEVICE OctetShare<Weight, 3> units(MatrixName name) const {
        return OctetShare<Weight, 3>(block, share_of_matrix(name), a.matrices[name]);
    }

    DEVICE OctetShare<Weight, 1> rows(MatrixName name) const {
        return OctetShare<Weight, 1>(block, share_of_matrix(name), a.matrices[name]);
    }

    DEVICE float scale(MatrixName name, int row) const {
        return r.scales[name] == nullptr ? 1.0f : r.scales[name][row];
    }

    // The waiting gates of a unit of a layer, for a stream of a tile.
    DEVICE WaitingGates& waiting(int layer, int set, int streams, int row, int stream) const {
        WaitingGates* all = reinterpret_cast<WaitingGates*>(block.shared() + r.shared_gates);
        const int index = ((layer * r.most_sets + set) * STREAM_OCTETS + streams) * PATCH_ROWS + row;
        return all[index * PATCH_ROWS + stream];
    }
};

// Calls use(index of the set, stream octet, row, stream of the octet) for pairs of neighbouring rows; row is even. The
// same thread always gets the same pair.
template <int Sets, int StreamOctets, typename Use>
DEVICE void for_row_pairs(const Block& block, Use use) {
    constexpr int pairs = PATCH_ROWS / 2;
#pragma unroll 1
    for (int i = block.thread(); i < Sets * StreamOctets * PATCH_ROWS * pairs; i += block.threads()) {
        const int stream = i % PATCH_ROWS;
        const int row = i / PATCH_ROWS % pairs * 2;
        const int streams = i / (PATCH_ROWS * pairs) % StreamOctets;
        use(i / (PATCH_ROWS * pairs * StreamOctets), streams, row, stream);
    }
}

// Computes the product of the state after `step` - 1 with a layer's recurrent weights for a set, and adds everything
// that does not depend on the previous sample or layer.
template <typename C>
DEVICE void begin_gates(const C& c, int layer, int step, const typename C::Tile& tile, int set) {
    const SequenceArguments& a = c.a;
    const MatrixName name = layer == 0 ? RECURRENT_0 : RECURRENT_1;
    const OctetShare<typename C::Weight, 3> weights = c.units(name);
    PatchSums sums[3][C::STREAM_OCTETS];
    clear(sums);
    add_products<1>(c.block, weights, set, c.states(layer), step - 1, tile, c.watch, sums);
    c.meeting.meet(c.block, sums);
    const float* recurrent_bias = a.matrices[name].bias;
    const float* input_bias = layer == 0 ? a.gates_bias_0 : a.gates_bias_1;
    for_row_pairs<1, C::STREAM_OCTETS>(c.block, [&](int, int streams, int row, int stream) {
        const int place = streams * PATCH_ROWS + stream;
        if (place >= tile.count) {
            return;
        }
#pragma unroll 1
        for (int i = row; i < min(row + 2, weights.rows(set)); ++i) {
            const int unit = weights.first_row(set) + i;
            const long long at = (static_cast<long long>(layer) * a.batch + tile.first + place) * a.hidden_size + unit;
            float recurrent[3];
            float input[3];
#pragma unroll
            for (int gate = 0; gate < 3; ++gate) {
                const int column = gate * a.hidden_size + unit;
                recurrent[gate] = c.meeting.sum(c.block, gate, streams, i, stream) * c.scale(name, column) +
                                  recurrent_bias[column];
                input[gate] = conditioning_at(a, tile.first + place, step, layer == 0 ? GATES_0 : GATES_1, column) +
                              input_bias[column];
            }
            WaitingGates& gates = c.waiting(layer, set, streams, i, stream);
            gates.input = {input[0], input[1], input[2]};
            gates.recurrent = {recurrent[0], recurrent[1], recurrent[2]};
            gates.hidden = step == 0 ? a.hidden[at] : a.hidden_out[at];
            if (layer == 0 && a.skip) {
                gates.skipped = conditioning_at(a, tile.first + place, step, SKIP, unit) + a.skip_bias[unit];
            }
        }
    });
}

// Sends the states of two neighbouring units, and their features if there is a skip connection, to the other blocks.
template <typename C>
DEVICE void put_units(
    const C& c, int layer, int step, int stream, int unit, const float (&states)[2], const float (&features)[2]) {
    c.states(layer).put(step, stream, unit, pair<typename C::Number>(states[0], states[1]));
    if (c.a.skip) {
        c.features(layer).put(step, stream, unit, pair<typename C::Number>(features[0], features[1]));
    }
}

// Finishes the gates of layer 0 with the previous sample.
template <typename C, typename Previous>
DEVICE void finish_gates_0(const C& c, int step, const typename C::Tile& tile, int set, Previous previous_of) {
    const SequenceArguments& a = c.a;
    const OctetShare<typename C::Weight, 3> weights = c.units(RECURRENT_0);
    for_row_pairs<1, C::STREAM_OCTETS>(c.block, [&](int, int streams, int row, int stream) {
        const int place = streams * PATCH_ROWS + stream;
        const int there = weights.rows(set) - row;
        if (there <= 0 || place >= tile.count) {
            return;
        }
        const int first_unit = weights.first_row(set) + row;
        const unsigned previous = previous_of(tile.first + place);
        float states[2] = {0.0f, 0.0f};
        float features[2] = {0.0f, 0.0f};
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            if (i >= there) {
                break;
            }
            const int unit = first_unit + i;
            const WaitingGates& gates = c.waiting(0, set, streams, row + i, stream);
            const Gates input = {
                gates.input.reset + fed_back(a, previous, unit),
                gates.input.update + fed_back(a, previous, a.hidden_size + unit),
                gates.input.candidate + fed_back(a, previous, 2 * a.hidden_size + unit)};
            states[i] = gru_update(input, gates.recurrent, gates.hidden);
            a.hidden_out[static_cast<long long>(tile.first + place) * a.hidden_size + unit] = states[i];
            if (a.skip) {
                features[i] = states[i] + float_of_bits(previous) * a.skip_column[unit] + gates.skipped;
                a.skipped[static_cast<long long>(tile.first + place) * a.hidden_size + unit] = features[i];
            }
        }
        put_units(c, 0, step, tile.first + place, first_unit, states, features);
    });
}

// Finishes the gates of layer 1 with the features of layer 0.
template <typename C>
DEVICE void finish_gates_1(const C& c, int step, const typename C::Tile& tile, int set) {
    const SequenceArguments& a = c.a;
    const OctetShare<typename C::Weight, 3> weights = c.units(INPUT_1);
    PatchSums sums[3][C::STREAM_OCTETS];
    clear(sums);
    add_products<1>(c.block, weights, set, c.features(0), step, tile, c.watch, sums);
    c.meeting.meet(c.block, sums);
    for_row_pairs<1, C::STREAM_OCTETS>(c.block, [&](int, int streams, int row, int stream) {
        const int place = streams * PATCH_ROWS + stream;
        const int there = weights.rows(set) - row;
        if (there <= 0 || place >= tile.count) {
            return;
        }
        const int first_unit = weights.first_row(set) + row;
        float states[2] = {0.0f, 0.0f};
        float features[2] = {0.0f, 0.0f};
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            if (i >= there) {
                break;
            }
            const int unit = first_unit + i;
            const WaitingGates& gates = c.waiting(1, set, streams, row + i, stream);
            float input[3] = {gates.input.reset, gates.input.update, gates.input.candidate};
#pragma unroll
            for (int gate = 0; gate < 3; ++gate) {
                input[gate] += c.meeting.sum(c.block, gate, streams, row + i, stream) *
                               c.scale(INPUT_1, gate * a.hidden_size + unit);
            }
            states[i] = gru_update({input[0], input[1], input[2]}, gates.recurrent, gates.hidden);
            const long long at = static_cast<long long>(a.batch + tile.first + place) * a.hidden_size + unit;
            a.hidden_out[at] = states[i];
            if (a.skip) {
                // Written by this thread: it has the same units in both layers.
                features[i] = states[i] + a.skipped[static_cast<long long>(tile.first + place) * a.hidden_size + unit];
            }
        }
        put_units(c, 1, step, tile.first + place, first_unit, states, features);
    });
}

// The product of a fully connected layer: calls use(stream, first row, number of rows, their sums) for pairs of rows.
template <typename C, typename Use>
DEVICE void multiply_rows(
    const C& c, MatrixName name, const OperandMail& from, int step, const typename C::Tile& tile,
    Use use) {
    constexpr int sets_at_once = 3;
    const OctetShare<typename C::Weight, 1> weights = c.rows(name);
#pragma unroll 1
    for (int first_set = 0; first_set < weights.count(); first_set += sets_at_once) {
        PatchSums sums[sets_at_once][C::STREAM_OCTETS];
        clear(sums);
        add_products<sets_at_once>(c.block, weights, first_set, from, step, tile, c.watch, sums);
        c.meeting.meet(c.block, sums);
        for_row_pairs<sets_at_once, C::STREAM_OCTETS>(c.block, [&](int set, int streams, int row, int stream) {
            const int place = streams * PATCH_ROWS + stream;
            const int there = first_set + set < weights.count() ? weights.rows(first_set + set) - row : 0;
            if (there <= 0 || place >= tile.count) {
                return;
            }
            const int first_row = weights.first_row(first_set + set) + row;
            float values[2] = {0.0f, 0.0f};
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                if (i < there) {
                    values[i] = c.meeting.sum(c.block, set, streams, row + i, stream) * c.scale(name, first_row + i) +
                                c.a.matrices[name].bias[first_row + i];
                }
            }
            use(tile.first + place, first_row, min(there, 2), values);
        });
    }
}

// A hidden fully connected layer with ReLU.
template <typename C>
DEVICE void fc_stage(
    const C& c, int i, const OperandMail& from, int step, const typename C::Tile& tile) {
    const PlaceName place = i == 0 ? PLACE_FC_0 : PLACE_FC_1;
    const MatrixName name = i == 0 ? FC_0 : FC_1;
    multiply_rows(c, name, from, step, tile, [&](int stream, int row, int there, float (&values)[2]) {
#pragma unroll
        for (int k = 0; k < 2; ++k) {
            if (k < there) {
                values[k] += conditioning_at(c.a, stream, step, place, row + k);
                values[k] = values[k] < 0.0f ? 0.0f : values[k];
            }
        }
        c.activations(i).put(step, stream, row, pair<typename C::Number>(values[0], values[1]));
    });
}

// The last layer.
template <typename C>
DEVICE void output_stage(
    const C& c, const OperandMail& from, int step, const typename C::Tile& tile) {
    const SequenceArguments& a = c.a;
    multiply_rows(c, OUTPUT, from, step, tile, [&](int stream, int row, int there, const float (&values)[2]) {
#pragma unroll
        for (int k = 0; k < 2; ++k) {
            if (k < there) {
                const long long at = static_cast<long long>(stream) * ((a.outputs + 3) / 4 * 4) + row + k;
                c.logits().put(step, at, bits_of_float(values[k]));
                if (a.logits != nullptr) {
                    a.logits[stream * a.logits_pitch + step * a.logits_step + row + k] = values[k];
                }
            }
        }
    });
}

// Draws a stream's sample after all of its logits have arrived; returns the same result to every thread of the block.
template <typename C>
DEVICE Drawn draw_stage(const C& c, int stream, int step) {
    float* logits = reinterpret_cast<float*>(c.block.shared() + c.r.shared_logits);
    const long long first = static_cast<long long>(stream) * ((c.a.outputs + 3) / 4 * 4);
    c.block.sync();  // other threads may still read the logits of another stream
#pragma unroll 1
    for (int k = 4 * c.block.thread(); k < c.a.outputs; k += 4 * c.block.threads()) {
        const int count = min(4, c.a.outputs - k);
        const Words four = c.logits().take_four(step, first + k, count, c.watch);
        for (int i = 0; i < count; ++i) {
            logits[k + i] = float_of_bits(four.word[i]);
        }
    }
    c.block.sync();
    return draw(c.block, c.a, logits, stream, step);
}

}  // namespace wavernn
