// A GRU layer of a step: its products, then gates, state and skip connection in registers.
#pragma once

#include "feedback.h"
#include "gates.h"
#include "stepped_arguments.h"
#include "stepped_conditioning.h"
#include "stepped_product.h"
#include "trace.h"

namespace wavernn {

template <typename Weight>
DEVICE float row_scale(const SteppedArguments& p, int matrix, int row) {
    if constexpr (sizeof(Weight) == 1) {
        return p.scales[matrix][row];
    } else {
        return 1.0f;
    }
}

// Constants of a unit.
struct UnitConstants {
    Gates input;            // biases; for reset and update the sum of both biases, since both products are added
    float recurrent;        // recurrent bias of the candidate
    Gates scale;            // scales of the sums
    float candidate_input;  // scale of the candidate's input product
};

// Layer 0 has one product, with the state. Layer 1 has two: first with the output of layer 0, then with the state.
template <typename C, int Products>
class UnitStage {
public:
    DEVICE UnitStage(const Block& block, const SteppedArguments& p)
        : block_(block),
          p_(p),
          a_(p.s),
          first_unit_(block.rank() % tiles(p.s.hidden_size) * C::RUN),
          first_stream_(block.rank() / tiles(p.s.hidden_size) * C::STREAMS),
          step_(LAYER == 0 ? *p.next_step : *p.step) {}

    DEVICE void run() {
        TRACE(2 * LAYER, step_);
        const int size = a_.hidden_size;
        const TileRows rows = TileRows::of_units(first_unit_, size);
        const Supply<C> supply(block_, rows, size, first_stream_, a_.batch);
        TileSums<C, Products> sums;
        sums.clear_all();
        if constexpr (Products == 1) {
            const Factors<C> factors[1] = {{p_, RECURRENT, p_.operands[0]}};
            multiply(block_, supply, factors, whole_patches(size), sums, [] {});
        } else {
            const Factors<C> factors[2] = {{p_, INPUT_1, p_.operands[0]}, {p_, RECURRENT, p_.operands[1]}};
            multiply(block_, supply, factors, whole_patches(size), sums, [&] { meet_scales(sums); });
        }
        if (LAYER == 0 && block_.rank() == 0 && block_.thread() == 0) {
            *p_.step = step_;
        }
        finish(sums);
        TRACE(2 * LAYER + 1, step_);
    }

private:
    static constexpr int LAYER = Products - 1;
    static constexpr MatrixName RECURRENT = LAYER == 0 ? RECURRENT_0 : RECURRENT_1;
    static constexpr int RESET = 0, UPDATE = 1, CANDIDATE = 2, RECURRENT_CANDIDATE = 1 + Products;

    DEVICE static int tiles(int units) { return (units + C::RUN - 1) / C::RUN; }

    DEVICE const Matrix& recurrent() const { return a_.matrices[RECURRENT]; }

    DEVICE int unit(int lane, int octet) const {
        return first_unit_ + (C::row_octet(block_) + octet) * PATCH_ROWS + row_of(lane);
    }

    DEVICE bool is_there(int stream, int unit) const { return stream < a_.batch && unit < a_.hidden_size; }

    DEVICE int last_unit(int unit) const { return min(unit, a_.hidden_size - 1); }

    // Rescales the input products of reset and update to the scales of the recurrent rows.
    DEVICE void meet_scales(TileSums<C, Products>& sums) const {
        if constexpr (sizeof(typename C::Weight) == 1) {
            for_parts(block_, [&](int lane, int part) {
#pragma unroll
                for (int octet = 0; octet < 2; ++octet) {
#pragma unroll
                    for (int gate = RESET; gate <= UPDATE; ++gate) {
                        const int row = gate * a_.hidden_size + last_unit(unit(lane, octet));
                        const float ratio = p_.scales[INPUT_1][row] / p_.scales[RECURRENT][row];
#pragma unroll
                        for (int s = 0; s < C::STREAM_OCTETS; ++s) {
                            sums.of[gate][octet][s].part[part][0] *= ratio;
                            sums.of[gate][octet][s].part[part][1] *= ratio;
                        }
                    }
                }
            });
        }
    }

    DEVICE UnitConstants constants_of(int unit) const {
        using Weight = typename C::Weight;
        const float* input = LAYER == 0 ? a_.gates_bias_0 : a_.gates_bias_1;
        const float* bias = recurrent().bias;
        const int update = a_.hidden_size + unit;
        const int candidate = 2 * a_.hidden_size + unit;
        UnitConstants found;
        found.input = {input[unit] + bias[unit], input[update] + bias[update], input[candidate]};
        found.recurrent = bias[candidate];
        found.scale = {
            row_scale<Weight>(p_, RECURRENT, unit), row_scale<Weight>(p_, RECURRENT, update),
            row_scale<Weight>(p_, RECURRENT, candidate)};
        found.candidate_input = LAYER == 0 ? 1.0f : row_scale<Weight>(p_, INPUT_1, candidate);
        return found;
    }

    // Inputs of a unit's gates beside the products, for a stream.
    struct Around {
        Gates input;
        float hidden;
        float skipped;  // skip connection, added to the state
    };

    // there: whether the stream and the unit exist; if not, the result is not used.
    DEVICE Around around(const UnitConstants& constants, int stream, int unit, bool there) const {
        const PlaceName place = LAYER == 0 ? GATES_0 : GATES_1;
        const int size = a_.hidden_size;
        const StreamConditioning conditioning(a_, stream, step_);
        const long long at = static_cast<long long>(stream) * size + unit;
        Around found;
        found.input = {
            constants.input.reset + conditioning.at(place, unit),
            constants.input.update + conditioning.at(place, size + unit),
            constants.input.candidate + conditioning.at(place, 2 * size + unit)};
        // Not read if the indices are clamped: another lane may be writing there.
        found.hidden = there ? a_.hidden_out[LAYER * static_cast<long long>(a_.batch) * size + at] : 0.0f;
        found.skipped = 0.0f;
        if (LAYER == 0) {
            const unsigned previous = static_cast<const unsigned*>(a_.previous_out)[stream];
            found.input.reset += fed_back(a_, previous, unit);
            found.input.update += fed_back(a_, previous, size + unit);
            found.input.candidate += fed_back(a_, previous, 2 * size + unit);
            if (a_.skip) {
                found.skipped =
                    float_of_bits(previous) * a_.skip_column[unit] + conditioning.at(SKIP, unit) + a_.skip_bias[unit];
            }
        } else if (a_.skip) {
            found.skipped = a_.skipped[at];
        }
        return found;
    }

    DEVICE void finish(TileSums<C, Products>& sums) const {
        UnitConstants constants[PARTS][2];
        for_parts(block_, [&](int lane, int part) {
            constants[part][0] = constants_of(last_unit(unit(lane, 0)));
            constants[part][1] = constants_of(last_unit(unit(lane, 1)));
        });
        finish_sums(block_, sums, [&](int streams, int s, int lane, int part) {
            const int first = first_stream_ + streams * PATCH_ROWS + 2 * piece_of(lane);
            // All loads are issued before the first result is needed.
            Around around_of[2][2];
#pragma unroll
            for (int other = 0; other < 2; ++other) {
#pragma unroll
                for (int octet = 0; octet < 2; ++octet) {
                    around_of[other][octet] = around(
                        constants[part][octet], min(first + other, a_.batch - 1), last_unit(unit(lane, octet)),
                        is_there(first + other, unit(lane, octet)));
                }
            }
#pragma unroll
            for (int other = 0; other < 2; ++other) {
#pragma unroll
                for (int octet = 0; octet < 2; ++octet) {
                    const auto sum = [&](int kind) { return sums.of[kind][octet][s].part[part][other]; };
                    const UnitConstants& unchanged = constants[part][octet];
                    const Around& known = around_of[other][octet];
                    Gates input = known.input;
                    if (LAYER == 1) {
                        input.candidate += sum(CANDIDATE) * unchanged.candidate_input;
                    }
                    const Gates recurrent = {
                        sum(RESET) * unchanged.scale.reset, sum(UPDATE) * unchanged.scale.update,
                        sum(RECURRENT_CANDIDATE) * unchanged.scale.candidate + unchanged.recurrent};
                    const float state = gru_update(input, recurrent, known.hidden);
                    if (is_there(first + other, unit(lane, octet))) {
                        keep(first + other, unit(lane, octet), state, state + known.skipped);
                    }
                }
            }
        });
    }

    DEVICE void keep(int stream, int unit, float state, float feature) const {
        using Number = typename C::Number;
        const long long at = static_cast<long long>(stream) * a_.hidden_size + unit;
        const long long padded = static_cast<long long>(stream) * operand_pitch(a_.hidden_size) + unit;
        a_.hidden_out[LAYER * static_cast<long long>(a_.batch) * a_.hidden_size + at] = state;
        static_cast<Number*>(p_.results)[padded] = narrow<Number>(state);
        if (a_.skip) {
            static_cast<Number*>(p_.features)[padded] = narrow<Number>(feature);
            if (LAYER == 0) {
                a_.skipped[at] = feature;
            }
        }
    }

    const Block& block_;
    const SteppedArguments& p_;
    const SequenceArguments& a_;
    const int first_unit_, first_stream_, step_;
};

}  // namespace wavernn
