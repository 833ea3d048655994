// A block's share of a matrix: one part is copied to shared memory once, the other is read from global memory.
#pragma once

#include "group.h"
#include "product.h"
#include "sequence_arguments.h"

namespace wavernn {

// Rows are divided in sets of `Rows`, and a warp computes one set at a time: the three gates of a unit (rows unit,
// rows / 3 + unit and 2 * rows / 3 + unit of the matrix), or neighbouring rows.
template <typename Number, int Rows, bool gates>
class Slice {
public:
    DEVICE Slice(const Block& block, const Group& group, const Matrix& matrix)
        : matrix_(matrix),
          weight_(static_cast<const Number*>(matrix.weight)),
          copied_(reinterpret_cast<Number*>(block.shared() + matrix.shared_offset)),
          sets_(group.share(gates ? matrix.rows / 3 : (matrix.rows + Rows - 1) / Rows)),
          pitch_(padded<Number>(matrix.columns)),
          weight_pitch_((matrix.columns + WEIGHT_COLUMNS - 1) / WEIGHT_COLUMNS * WEIGHT_COLUMNS) {}

    // Number of sets of this block.
    DEVICE int count() const { return sets_.count; }

    // The unit of a set, or its first row.
    DEVICE int first_row(int set) const { return gates ? sets_.first + set : (sets_.first + set) * Rows; }

    // The row of the matrix that is row r of a set; rows after the last one repeat the last one.
    DEVICE int row(int set, int r) const {
        return gates ? r * (matrix_.rows / 3) + first_row(set) : min(first_row(set) + r, matrix_.rows - 1);
    }

    DEVICE RowsOfMatrix<Number, Rows> rows(int set) const {
        const bool resident = set < matrix_.resident;
        RowsOfMatrix<Number, Rows> found;
#pragma unroll
        for (int r = 0; r < Rows; ++r) {
            found.row[r] = resident ? copied_ + (set * Rows + r) * pitch_
                                    : weight_ + static_cast<long long>(row(set, r)) * weight_pitch_;
        }
        found.length = pitch_;
        found.aligned = true;
        return found;
    }

    // Copies the resident part. All threads of the block must call it, and the block must sync before the first use.
    DEVICE void copy(const Block& block) const {
        const int sets = min(matrix_.resident, sets_.count);
#pragma unroll 1
        for (int i = block.warp(); i < sets * Rows; i += block.warps()) {
            const Number* from = weight_ + static_cast<long long>(row(i / Rows, i % Rows)) * weight_pitch_;
#pragma unroll 4
            for (int k = block.lane() * VECTOR<Number>; k < pitch_; k += LANES * VECTOR<Number>) {
                store_words(copied_ + i * pitch_ + k, load_words(from + k));
            }
        }
    }

private:
    const Matrix& matrix_;
    const Number* weight_;
    Number* copied_;
    Span sets_;
    int pitch_, weight_pitch_;
};

template <typename Number>
using UnitSlice = Slice<Number, 3, true>;

// With several streams, two rows share the loads of their operands; with one stream, one row keeps more warps busy.
template <typename Number, int Streams>
using RowSlice = Slice<Number, Streams == 1 ? 1 : 2, false>;

}  // namespace wavernn
