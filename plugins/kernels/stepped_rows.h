// A fully connected layer of a step, hidden or last: its product, then bias, conditioning and ReLU in registers.
#pragma once

#include "stepped_units.h"

namespace wavernn {

// Distance between the logits of two streams, in floats.
DEVICE int logits_pitch(int outputs) { return (outputs + 3) / 4 * 4; }

template <typename C>
class RowStage {
public:
    DEVICE RowStage(const Block& block, const SteppedArguments& p)
        : block_(block),
          p_(p),
          a_(p.s),
          name_(static_cast<MatrixName>(p.matrices[0])),
          matrix_(p.s.matrices[p.matrices[0]]),
          first_row_(block.rank() % tiles(matrix_.rows) * C::ROWS),
          first_stream_(block.rank() / tiles(matrix_.rows) * C::STREAMS),
          step_(*p.step) {}

    DEVICE void run() {
        TRACE(4 + 2 * (name_ - FC_0), step_);
        const TileRows rows = TileRows::of_rows(first_row_, matrix_.rows, C::RUN);
        const Supply<C> supply(block_, rows, matrix_.columns, first_stream_, a_.batch);
        TileSums<C, 1> sums;
        sums.clear_all();
        const Factors<C> factors[1] = {{p_, name_, p_.operands[0]}};
        multiply(block_, supply, factors, whole_patches(matrix_.columns), sums, [] {});
        finish_sums(block_, sums, [&](int streams, int s, int lane, int part) {
            const int first = first_stream_ + streams * PATCH_ROWS + 2 * piece_of(lane);
#pragma unroll
            for (int other = 0; other < 2; ++other) {
                finish(sums, s, lane, part, first + other, other);
            }
        });
        TRACE(5 + 2 * (name_ - FC_0), step_);
    }

private:
    DEVICE static int tiles(int rows) { return (rows + C::ROWS - 1) / C::ROWS; }

    DEVICE int row(int lane, int pair, int octet) const {
        return first_row_ + pair * C::RUN + (C::row_octet(block_) + octet) * PATCH_ROWS + row_of(lane);
    }

    // Computes and stores a stream's values of this lane's rows.
    DEVICE void finish(const TileSums<C, 1>& sums, int s, int lane, int part, int stream, int other) const {
        using Weight = typename C::Weight;
        const StreamConditioning conditioning(a_, min(stream, a_.batch - 1), step_);
        float values[C::PAIRS][2];
#pragma unroll
        for (int pair = 0; pair < C::PAIRS; ++pair) {
#pragma unroll
            for (int octet = 0; octet < 2; ++octet) {
                const int at = min(row(lane, pair, octet), matrix_.rows - 1);
                values[pair][octet] =
                    sums.of[pair][octet][s].part[part][other] * row_scale<Weight>(p_, name_, at) + matrix_.bias[at];
                if (name_ != OUTPUT) {
                    values[pair][octet] += conditioning.at(name_ == FC_0 ? PLACE_FC_0 : PLACE_FC_1, at);
                }
            }
        }
#pragma unroll
        for (int pair = 0; pair < C::PAIRS; ++pair) {
#pragma unroll
            for (int octet = 0; octet < 2; ++octet) {
                if (stream < a_.batch && row(lane, pair, octet) < matrix_.rows) {
                    keep(stream, row(lane, pair, octet), values[pair][octet]);
                }
            }
        }
    }

    DEVICE void keep(int stream, int row, float value) const {
        using Number = typename C::Number;
        if (name_ != OUTPUT) {
            const long long at = static_cast<long long>(stream) * operand_pitch(matrix_.rows) + row;
            static_cast<Number*>(p_.results)[at] = narrow<Number>(value < 0.0f ? 0.0f : value);
            return;
        }
        p_.step_logits[static_cast<long long>(stream) * logits_pitch(a_.outputs) + row] = value;
        if (a_.logits != nullptr) {
            a_.logits[stream * a_.logits_pitch + step_ * a_.logits_step + row] = value;
        }
    }

    const Block& block_;
    const SteppedArguments& p_;
    const SequenceArguments& a_;
    const MatrixName name_;
    const Matrix& matrix_;
    const int first_row_, first_stream_, step_;
};

}  // namespace wavernn
