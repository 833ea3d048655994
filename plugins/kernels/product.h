// The product of a few rows of a matrix with the operands of a tile of streams, divided among the lanes of a warp.
#pragma once

#include "numbers.h"
#include "sums.h"

namespace wavernn {

// Rows of a matrix in global or shared memory.
template <typename Number, int Rows>
struct RowsOfMatrix {
    const Number* row[Rows];
    // Numbers of a row to read, including the zeros of its padding.
    int length;
    // Whether each row begins at a multiple of VECTOR_BYTES, and its length is a multiple of VECTOR.
    bool aligned;
};

// Distance between two operands, in numbers; the padding is zeros.
template <typename Number>
DEVICE int padded(int columns) {
    return (columns + VECTOR<Number> - 1) / VECTOR<Number> * VECTOR<Number>;
}

// Adds this lane's part of the product of each row with each stream's operand to sums.
//
// operands: [Streams, pitch], in shared memory. Each weight is read once for all streams of the tile.
template <int Rows, int Streams, typename Number>
DEVICE void add_products(
    const Block& block, const RowsOfMatrix<Number, Rows>& rows, const Number* operands, int pitch,
    float (&sums)[Rows][Streams]) {
    constexpr int wide = VECTOR<Number>;
    if (rows.aligned) {
        // A single stream is unrolled, since it has little work between two loads. Several streams are not, since the
        // code would not fit into the instruction cache.
#pragma unroll(Streams == 1 ? 4 : 1)
        for (int k = block.lane() * wide; k < rows.length; k += LANES * wide) {
            float weights[Rows][wide];
#pragma unroll
            for (int r = 0; r < Rows; ++r) {
                read_vector(rows.row[r] + k, weights[r]);
            }
#pragma unroll
            for (int s = 0; s < Streams; ++s) {
                float operand[wide];
                read_vector(operands + s * pitch + k, operand);
#pragma unroll
                for (int r = 0; r < Rows; ++r) {
#pragma unroll
                    for (int i = 0; i < wide; ++i) {
                        sums[r][s] = fmaf(weights[r][i], operand[i], sums[r][s]);
                    }
                }
            }
        }
        return;
    }
#pragma unroll 1
    for (int k = block.lane(); k < rows.length; k += LANES) {
        float weights[Rows];
#pragma unroll
        for (int r = 0; r < Rows; ++r) {
            weights[r] = widen(rows.row[r][k]);
        }
#pragma unroll
        for (int s = 0; s < Streams; ++s) {
            const float operand = widen(operands[s * pitch + k]);
#pragma unroll
            for (int r = 0; r < Rows; ++r) {
                sums[r][s] = fmaf(weights[r], operand, sums[r][s]);
            }
        }
    }
}

template <int Rows, int Streams>
DEVICE void clear(float (&sums)[Rows][Streams]) {
#pragma unroll
    for (int r = 0; r < Rows; ++r) {
#pragma unroll
        for (int s = 0; s < Streams; ++s) {
            sums[r][s] = 0.0f;
        }
    }
}

}  // namespace wavernn
