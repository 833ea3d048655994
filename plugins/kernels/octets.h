// A block's share of a matrix, in sets of octets: some sets are copied to shared memory once, the others are read from
// global memory.
#pragma once

#include "group.h"
#include "pieces.h"
#include "sequence_arguments.h"

namespace wavernn {

// A set is `Octets` patches high: the three gates of eight units, or eight rows.
template <typename Weight, int Octets>
class OctetShare {
public:
    static_assert(PATCH_COLUMNS == WEIGHT_COLUMNS, "rows are padded to whole patches");
    static_assert(Octets == 1 || Octets == 3, "rows, or gates");

    // Number of sets of a matrix.
    DEVICE static int sets_of(const Matrix& matrix) { return (matrix.rows / Octets + PATCH_ROWS - 1) / PATCH_ROWS; }

    DEVICE OctetShare(const Block& block, const Span& sets, const Matrix& matrix)
        : weight_(static_cast<const Weight*>(matrix.weight)),
          kept_(reinterpret_cast<Weight*>(block.shared() + matrix.shared_offset)),
          rows_(matrix.rows / Octets),
          patches_((matrix.columns + PATCH_COLUMNS - 1) / PATCH_COLUMNS),
          resident_(matrix.resident),
          sets_(sets) {}

    // Number of sets of this block.
    DEVICE int count() const { return sets_.count; }

    // Number of patches across the columns.
    DEVICE int patches() const { return patches_; }

    // The first unit or row of a set, and the number of its units or rows that exist, at most eight.
    DEVICE int first_row(int set) const { return (sets_.first + set) * PATCH_ROWS; }
    DEVICE int rows(int set) const { return min(PATCH_ROWS, rows_ - first_row(set)); }

    // Reads the patches of a set at a patch of columns. Sets after the last one are zeros.
    DEVICE void read(const Block& block, int set, int column_patch, Patch* octets) const {
#pragma unroll
        for (int octet = 0; octet < Octets; ++octet) {
            for_parts(block, [&](int lane, int part) {
                Words& words = octets[octet].part[part];
                if (set < resident_) {
                    words = kept_piece(place(set, octet, column_patch, lane));
                } else if (set < sets_.count && row_of(lane) < rows(set)) {
                    words = constant_piece(from(set, octet, column_patch, lane));
                } else {
                    words = Words{{0, 0, 0, 0}};
                }
            });
        }
    }

    // Copies the resident sets. All warps of the block must call it, and the block must sync before the first use.
    DEVICE void keep(const Block& block) const {
#pragma unroll 1
        for (int i = block.warp(); i < resident_ * Octets * patches_; i += block.warps()) {
            const int column_patch = i % patches_;
            const int octet = i / patches_ % Octets;
            const int set = i / patches_ / Octets;
            for_parts(block, [&](int lane, int) {
                if (set < sets_.count && row_of(lane) < rows(set)) {
                    keep_piece(place(set, octet, column_patch, lane), from(set, octet, column_patch, lane));
                } else {
                    clear_piece(place(set, octet, column_patch, lane));
                }
            });
        }
    }

private:
    DEVICE Weight* place(int set, int octet, int column_patch, int lane) const {
        return kept_ + (((set * Octets + octet) * patches_ + column_patch) * PATCH_LANES + lane) * PIECE;
    }

    DEVICE const Weight* from(int set, int octet, int column_patch, int lane) const {
        const long long row = static_cast<long long>(octet) * rows_ + first_row(set) + row_of(lane);
        return weight_ + (row * patches_ + column_patch) * PATCH_COLUMNS + piece_of(lane) * PIECE;
    }

    const Weight* weight_;
    Weight* kept_;
    int rows_, patches_, resident_;
    Span sets_;
};

}  // namespace wavernn
