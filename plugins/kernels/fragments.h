// Weights in the register order of the matrix instruction mma.m16n8k16.
//
// A fragment has sixteen rows and a patch of columns. The instruction reads four neighbouring registers of a lane, with
// words of rows g and g + 8 in alternation: {U[0], L[0], U[1], L[1]}, then {U[2], L[2], U[3], L[3]}, where U and L are
// the words of the lane's pieces of the upper and the lower row (patch.h). In a row-major matrix these words are not
// neighbours and need register moves before each instruction, so the first launch of a chunk reorders the weights into
// the workspace.
//
// The rows of each gate, and those of a matrix without gates, begin with a new fragment; missing rows are zeros.
#pragma once

#include "pieces.h"
#include "sequence_arguments.h"

// 1: the stepped kernels read weights in this order; 0: as rows of a matrix. The results are bit-equal.
#ifndef WAVERNN_FRAGMENT_ORDER
#define WAVERNN_FRAGMENT_ORDER 1
#endif

namespace wavernn {

constexpr int FRAGMENT_ROWS = 2 * PATCH_ROWS;
// Numbers of a fragment.
constexpr int FRAGMENT = FRAGMENT_ROWS * PATCH_COLUMNS;

// The number of fragments that cover `rows` rows.
DEVICE int fragments_down(int rows) { return (rows + FRAGMENT_ROWS - 1) / FRAGMENT_ROWS; }

// A lane's part of a fragment, for two instructions.
struct Fragment {
    Words half[PARTS][2];
};

// Reads a fragment from shared memory.
template <typename Weight>
DEVICE void read_fragment(const Block& block, const Weight* from, Fragment& fragment) {
    for_parts(block, [&](int lane, int part) {
        if constexpr (sizeof(Weight) == 2) {
            fragment.half[part][0] = load_words(from + lane * PIECE);
            fragment.half[part][1] = load_words(from + (PATCH_LANES + lane) * PIECE);
        } else {
            const Words all = load_words(from + lane * 2 * PIECE);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                unsigned (&words)[4] = fragment.half[part][i / 2].word;
                spread(all.word[i], words[i % 2 * 2], words[i % 2 * 2 + 1]);
            }
        }
    });
}

// Writes one fragment of a matrix.
template <typename Weight>
DEVICE void order_fragment(const Block& block, const Matrix& matrix, int gates, int index, Weight* to) {
    const int rows = matrix.rows / gates;
    const int patches = (matrix.columns + PATCH_COLUMNS - 1) / PATCH_COLUMNS;
    const int down = index / patches;
    const int gate = down / fragments_down(rows);
    const int first = (down - gate * fragments_down(rows)) * FRAGMENT_ROWS;
    for_parts(block, [&](int lane, int) {
        const int column = index % patches * PATCH_COLUMNS + piece_of(lane) * PIECE;
        const auto read = [&](int row) {
            const long long at = static_cast<long long>(gate * rows + row) * patches * PATCH_COLUMNS + column;
            const Weight* from = static_cast<const Weight*>(matrix.weight) + at;
            if constexpr (sizeof(Weight) == 2) {
                return row < rows ? load_constant_words(from) : Words{{0, 0, 0, 0}};
            } else {
                unsigned eight[2] = {0, 0};
                if (row < rows) {
                    load_constant_two(from, eight);
                }
                return Words{{eight[0], eight[1], 0, 0}};
            }
        };
        const Words upper = read(first + row_of(lane));
        const Words lower = read(first + PATCH_ROWS + row_of(lane));
        Weight* fragment = to + static_cast<long long>(index) * FRAGMENT;
        if constexpr (sizeof(Weight) == 2) {
            const unsigned(&u)[4] = upper.word;
            const unsigned(&l)[4] = lower.word;
            store_words(fragment + lane * PIECE, Words{{u[0], l[0], u[1], l[1]}});
            store_words(fragment + (PATCH_LANES + lane) * PIECE, Words{{u[2], l[2], u[3], l[3]}});
        } else {
            Words all;
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                all.word[2 * i] = (upper.word[i] & 0xffffu) | lower.word[i] << 16;
                all.word[2 * i + 1] = upper.word[i] >> 16 | (lower.word[i] & 0xffff0000u);
            }
            store_words(fragment + lane * 2 * PIECE, all);
        }
    });
}

}  // namespace wavernn
