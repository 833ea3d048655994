// A block's tile of a product, rows of weights by streams, and the copies of its patches to shared memory.
//
// In both operands the columns of a row are neighbours, so both are copied in the same way: sixteen bytes for each
// lane, in the order of the patch's lanes. Shared memory has a few slots for one patch of columns each; while one slot
// is multiplied, the others are filled.
#pragma once

#include "fragments.h"
#include "stepped_arguments.h"

namespace wavernn {

// Pairs: number of pairs of octets of rows of a warp: the three gates of sixteen units of a GRU, or neighbouring rows.
// StreamOctets: number of octets of streams of a warp.
template <typename Weight_, int Pairs_, int StreamOctets_>
struct SteppedTile {
    using Weight = Weight_;
    using Number = Operand<Weight>;
    static constexpr int PAIRS = Pairs_;
    static constexpr int STREAM_OCTETS = StreamOctets_;

    static constexpr int ROW_WARPS = 4;
    static constexpr int STREAM_WARPS = 2;
    static constexpr int WARPS = ROW_WARPS * STREAM_WARPS;
    // Number of neighbouring rows, or units.
    static constexpr int RUN = ROW_WARPS * 2 * PATCH_ROWS;
    static constexpr int RUN_PATCHES = RUN / PATCH_ROWS;
    static constexpr int ROWS = PAIRS * RUN;
    static constexpr int STREAMS = STREAM_WARPS * STREAM_OCTETS * PATCH_ROWS;

    static constexpr int SLOTS = 4;
    static constexpr int ROW_BYTES = ROWS * PATCH_COLUMNS * static_cast<int>(sizeof(Weight));
    static constexpr int SLOT_BYTES = ROW_BYTES + STREAMS * PATCH_COLUMNS * static_cast<int>(sizeof(Number));

    // Numbers of one copy of sixteen bytes.
    static constexpr int ROW_CHUNK = VECTOR<Weight>;
    static constexpr int STREAM_CHUNK = VECTOR<Number>;

    // The first octet of rows of a warp in a run, and its first octet of streams.
    DEVICE static int row_octet(const Block& block) { return block.warp() / STREAM_WARPS * 2; }
    DEVICE static int stream_octet(const Block& block) { return block.warp() % STREAM_WARPS * STREAM_OCTETS; }
};

DEVICE int whole_patches(int columns) { return (columns + PATCH_COLUMNS - 1) / PATCH_COLUMNS; }

// Distance between the operands of two streams, and between two rows of weights, in numbers.
DEVICE int operand_pitch(int columns) { return whole_patches(columns) * PATCH_COLUMNS; }

// The rows of a matrix in a tile, counted in fragments if the weights are in that order. Rows and streams after the
// last one repeat the last one; their results are dropped.
struct TileRows {
    // The first row of the first run, and the distance between two runs.
    int first;
    int distance;
    // The last row that may be read in the first run, and in all runs.
    int last_of_run;
    int last;

    DEVICE int row(int run, int place) const { return min(min(first + place, last_of_run) + run * distance, last); }

    // The rows of a GRU: units of three gates.
    DEVICE static TileRows of_units(int first, int units) {
        const int per_gate = WAVERNN_FRAGMENT_ORDER ? fragments_down(units) : units;
        return {WAVERNN_FRAGMENT_ORDER ? first / FRAGMENT_ROWS : first, per_gate, per_gate - 1, 3 * per_gate - 1};
    }

    // The rows of other layers: a run has `run` rows.
    DEVICE static TileRows of_rows(int first, int rows, int run) {
        const int last = (WAVERNN_FRAGMENT_ORDER ? fragments_down(rows) : rows) - 1;
        const int unit = WAVERNN_FRAGMENT_ORDER ? FRAGMENT_ROWS : 1;
        return {first / unit, run / unit, last, last};
    }
};

// The weights of a matrix, in the order in which the kernels read them.
DEVICE const void* ordered_weights(const SteppedArguments& p, int name) {
    return WAVERNN_FRAGMENT_ORDER ? p.fragments[name] : p.s.matrices[name].weight;
}

// The factors of a product.
template <typename C>
struct Factors {
    const typename C::Weight* weights;   // of ordered_weights
    const typename C::Number* operands;  // [B, pitch]

    DEVICE Factors(const SteppedArguments& p, int matrix, const void* streams)
        : weights(static_cast<const typename C::Weight*>(ordered_weights(p, matrix))),
          operands(static_cast<const typename C::Number*>(streams)) {}
};

// Copies the patches of a tile to shared memory.
template <typename C>
class Supply {
public:
    static_assert(PATCH_COLUMNS == WEIGHT_COLUMNS, "rows are padded to whole patches");

    DEVICE Supply(const Block& block, const TileRows& rows, int columns, int first_stream, int batch) {
        for_chunks<ROW_CHUNKS>(block, [&](int turn, int part, int chunk) {
#if WAVERNN_FRAGMENT_ORDER
            const int fragment = chunk / CHUNKS_A_FRAGMENT;
            const int row = rows.row(fragment / C::ROW_WARPS, fragment % C::ROW_WARPS);
            row_offset_[turn][part] =
                row * whole_patches(columns) * FRAGMENT + chunk % CHUNKS_A_FRAGMENT * C::ROW_CHUNK;
#else
            const int row = chunk / CHUNKS_A_ROW;
            row_offset_[turn][part] = rows.row(row / C::RUN, row % C::RUN) * operand_pitch(columns) +
                                      chunk % CHUNKS_A_ROW * C::ROW_CHUNK;
#endif
        });
        for_chunks<STREAM_CHUNKS>(block, [&](int turn, int part, int chunk) {
            const int stream = min(first_stream + chunk / CHUNKS_A_STREAM, batch - 1);
            stream_offset_[turn][part] = stream * operand_pitch(columns);
        });
    }

    // Starts the copies of a patch of columns to a slot.
    DEVICE void fetch(const Block& block, const Factors<C>& factors, int column_patch, unsigned char* slot) const {
        for_chunks<ROW_CHUNKS>(block, [&](int turn, int part, int chunk) {
            const int column = column_patch * (WAVERNN_FRAGMENT_ORDER ? FRAGMENT : PATCH_COLUMNS);
            copy_words_later(slot + chunk * VECTOR_BYTES, factors.weights + row_offset_[turn][part] + column);
        });
        for_chunks<STREAM_CHUNKS>(block, [&](int turn, int part, int chunk) {
            const int column = column_patch * PATCH_COLUMNS + chunk % CHUNKS_A_STREAM * C::STREAM_CHUNK;
            copy_words_later(
                slot + C::ROW_BYTES + chunk * VECTOR_BYTES, factors.operands + stream_offset_[turn][part] + column);
        });
    }

private:
    static constexpr int CHUNKS_A_ROW = PATCH_COLUMNS / C::ROW_CHUNK;
    static constexpr int CHUNKS_A_STREAM = PATCH_COLUMNS / C::STREAM_CHUNK;
    static constexpr int CHUNKS_A_FRAGMENT = FRAGMENT / C::ROW_CHUNK;
    static constexpr int ROW_CHUNKS = C::ROWS * CHUNKS_A_ROW;
    static constexpr int STREAM_CHUNKS = C::STREAMS * CHUNKS_A_STREAM;
    static constexpr int COPIERS = C::WARPS * PATCH_LANES;

    // Calls use(turn, part, chunk) for the chunks of this thread, of `Chunks` chunks in total.
    template <int Chunks, typename Use>
    DEVICE static void for_chunks(const Block& block, Use use) {
#pragma unroll
        for (int turn = 0; turn < (Chunks + COPIERS - 1) / COPIERS; ++turn) {
            for_parts(block, [&](int lane, int part) {
                const int chunk = (turn * C::WARPS + block.warp()) * PATCH_LANES + lane;
                if (Chunks % COPIERS == 0 || chunk < Chunks) {
                    use(turn, part, chunk);
                }
            });
        }
    }

    int row_offset_[(ROW_CHUNKS + COPIERS - 1) / COPIERS][PARTS];
    int stream_offset_[(STREAM_CHUNKS + COPIERS - 1) / COPIERS][PARTS];
};

}  // namespace wavernn
