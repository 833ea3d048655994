// The operands of tensor cores, patches of eight rows by 32 columns, and the sums of their products.
//
// A patch is distributed over the 32 lanes of a warp: lane 4 r + q holds columns 8 q … 8 q + 7 of row r, sixteen
// neighbouring bytes of a row-major matrix. Rows are those of a weight matrix, or streams. A sum over columns may use
// any order that is the same for both operands, so the eight numbers of a lane are passed to two instructions, four
// numbers each. A matrix of sixteen rows of an instruction consists of two patches.
//
// The sums of eight rows with eight streams are distributed too: lane 4 r + q holds row r with streams 2 q and 2 q + 1.
#pragma once

#include "numbers.h"

namespace wavernn {

constexpr int PATCH_ROWS = 8;
constexpr int PATCH_COLUMNS = 32;
// Number of neighbouring columns of a lane.
constexpr int PIECE = 8;
constexpr int PATCH_LANES = 32;
// Number of lanes that a thread emulates; one on a GPU.
constexpr int PARTS = PATCH_LANES / LANES;

struct Patch {
    Words part[PARTS];
};

struct PatchSums {
    float part[PARTS][2];
};

// Calls use(lane of the patch, index of the part) for the lanes that this thread emulates.
template <typename Use>
DEVICE void for_parts(const Block& block, Use use) {
#pragma unroll
    for (int part = 0; part < PARTS; ++part) {
        use(block.lane() * PARTS + part, part);
    }
}

DEVICE int row_of(int lane) { return lane / 4; }

DEVICE int piece_of(int lane) { return lane % 4; }

DEVICE void clear(Patch& patch) {
#pragma unroll
    for (int part = 0; part < PARTS; ++part) {
        patch.part[part] = Words{{0, 0, 0, 0}};
    }
}

template <int Rows, int Streams>
DEVICE void clear(PatchSums (&sums)[Rows][Streams]) {
#pragma unroll
    for (int row = 0; row < Rows; ++row) {
#pragma unroll
        for (int stream = 0; stream < Streams; ++stream) {
#pragma unroll
            for (int part = 0; part < PARTS; ++part) {
                sums[row][stream].part[part][0] = sums[row][stream].part[part][1] = 0.0f;
            }
        }
    }
}

#ifdef __CUDACC__

// mma.m16n8k16 (PTX ISA, "Matrix fragments for mma.m16n8k16 with floating point type"): a lane holds of A rows g and
// g + 8 with columns 2 q, 2 q + 1, then 2 q + 8, 2 q + 9; of B the same columns of stream g; of C rows g and g + 8 with
// streams 2 q and 2 q + 1.
#define WAVERNN_MULTIPLY_ADD(Number, type)                                                                         \
    DEVICE void multiply_add(                                                                                      \
        const Block&, Number, const Patch& upper, const Patch& lower, const Patch& streams, PatchSums& upper_sums, \
        PatchSums& lower_sums) {                                                                                   \
        _Pragma("unroll") for (int half = 0; half < 2; ++half) {                                                   \
            asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type                                             \
                ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                             \
                : "+f"(upper_sums.part[0][0]), "+f"(upper_sums.part[0][1]), "+f"(lower_sums.part[0][0]),           \
                  "+f"(lower_sums.part[0][1])                                                                      \
                : "r"(upper.part[0].word[2 * half]), "r"(lower.part[0].word[2 * half]),                            \
                  "r"(upper.part[0].word[2 * half + 1]), "r"(lower.part[0].word[2 * half + 1]),                    \
                  "r"(streams.part[0].word[2 * half]), "r"(streams.part[0].word[2 * half + 1]));                   \
        }                                                                                                          \
    }

WAVERNN_MULTIPLY_ADD(Half, "f16")
WAVERNN_MULTIPLY_ADD(BFloat16, "bf16")
#undef WAVERNN_MULTIPLY_ADD

// The same for words of the upper and the lower rows in the order of fragments.h.
#define WAVERNN_MULTIPLY_ADD(Number, type)                                                                        \
    DEVICE void multiply_add(                                                                                     \
        const Block&, Number, const Words (&rows)[PARTS][2], const Patch& streams, PatchSums& upper_sums,         \
        PatchSums& lower_sums) {                                                                                  \
        _Pragma("unroll") for (int half = 0; half < 2; ++half) {                                                  \
            asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type                                   \
                         ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                   \
                         : "+f"(upper_sums.part[0][0]), "+f"(upper_sums.part[0][1]), "+f"(lower_sums.part[0][0]), \
                           "+f"(lower_sums.part[0][1])                                                            \
                         : "r"(rows[0][half].word[0]), "r"(rows[0][half].word[1]), "r"(rows[0][half].word[2]),    \
                           "r"(rows[0][half].word[3]), "r"(streams.part[0].word[2 * half]),                       \
                           "r"(streams.part[0].word[2 * half + 1]));                                              \
        }                                                                                                         \
    }

WAVERNN_MULTIPLY_ADD(Half, "f16")
WAVERNN_MULTIPLY_ADD(BFloat16, "bf16")
#undef WAVERNN_MULTIPLY_ADD

#else

// Emulates the instructions: computes each lane's sums from the pieces of its row and of its streams.
template <typename Number>
void multiply_add(
    const Block& block, Number, const Patch& upper, const Patch& lower, const Patch& streams, PatchSums& upper_sums,
    PatchSums& lower_sums) {
    struct Given {
        Words upper, lower, streams;
    };
    Given all[PATCH_LANES];
    for_parts(
        block, [&](int lane, int part) { all[lane] = Given{upper.part[part], lower.part[part], streams.part[part]}; });
    block.share_in_warp(all);
    for_parts(block, [&](int lane, int part) {
        for (int other = 0; other < 2; ++other) {
            const int stream = 2 * piece_of(lane) + other;
            for (int piece = 0; piece < 4; ++piece) {
                float rows[2][PIECE];
                float operand[PIECE];
                unpack(all[4 * row_of(lane) + piece].upper, rows[0], Number{});
                unpack(all[4 * row_of(lane) + piece].lower, rows[1], Number{});
                unpack(all[4 * stream + piece].streams, operand, Number{});
                for (int i = 0; i < PIECE; ++i) {
                    upper_sums.part[part][other] += rows[0][i] * operand[i];
                    lower_sums.part[part][other] += rows[1][i] * operand[i];
                }
            }
        }
    });
}

template <typename Number>
void multiply_add(
    const Block& block, Number number, const Words (&rows)[PARTS][2], const Patch& streams, PatchSums& upper_sums,
    PatchSums& lower_sums) {
    Patch upper, lower;
    for_parts(block, [&](int, int part) {
        for (int i = 0; i < 4; ++i) {
            upper.part[part].word[i] = rows[part][i / 2].word[i % 2 * 2];
            lower.part[part].word[i] = rows[part][i / 2].word[i % 2 * 2 + 1];
        }
    });
    multiply_add(block, number, upper, lower, streams, upper_sums, lower_sums);
}

#endif

}  // namespace wavernn
