// The product of a block's octets of rows with a tile of streams. Each warp takes some of the columns, so that
// nothing is read twice, and the warps' sums are added in shared memory.
#pragma once

#include "mailbox.h"
#include "octets.h"

namespace wavernn {

// A tile of a group's streams, and where they stand in the batch.
template <int StreamOctets>
struct StreamTile {
    int first;
    // Streams that are there; none behind them.
    int count;
};

// Operands of all streams as words of two, from one stream's to the next's at a distance of whole patches.
struct OperandMail {
    Mailbox mail;
    int columns;

    // Words from one stream to the next.
    DEVICE long long pitch() const { return (columns + PATCH_COLUMNS - 1) / PATCH_COLUMNS * (PATCH_COLUMNS / 2); }

    DEVICE void put(int step, int stream, int first_column, unsigned word) const {
        mail.put(step, stream * pitch() + first_column / 2, word);
    }

    // Reads a patch of streams; says whether all of it has come.
    DEVICE bool look(
        const Block& block, int step, int first_stream, int streams, int column_patch, Patch& patch) const {
        bool here = true;
        for_parts(block, [&](int lane, int part) {
            const int word = column_patch * (PATCH_COLUMNS / 2) + piece_of(lane) * (PIECE / 2);
            const int count = row_of(lane) < streams ? (columns + 1) / 2 - word : 0;
            if (count > 0) {
                const long long stream = first_stream + row_of(lane);
                here = mail.look(step, stream * pitch() + word, count, patch.part[part]) && here;
            } else {
                patch.part[part] = Words{{0, 0, 0, 0}};
            }
        });
        return here;
    }
};

// Where the sums of all warps meet: [warp, octet, stream octet, row, stream].
template <int Octets, int StreamOctets>
class MeetingPlace {
public:
    // Two places that take turns save a barrier: who writes to one has seen all leave it before they came to the
    // other.
    static constexpr int PLACES_IN_TURN = StreamOctets == 1 ? 2 : 1;
    static constexpr int FLOATS = PATCH_ROWS * PATCH_ROWS;

    DEVICE explicit MeetingPlace(float* places) : places_(places) {}

    DEVICE void meet(const Block& block, const PatchSums (&sums)[Octets][StreamOctets]) {
        if constexpr (PLACES_IN_TURN == 2) {
            turn_ ^= 1;
        } else {
            block.sync();
        }
#pragma unroll
        for (int octet = 0; octet < Octets; ++octet) {
#pragma unroll
            for (int streams = 0; streams < StreamOctets; ++streams) {
                float* to = place(block, block.warp(), octet, streams);
                for_parts(block, [&](int lane, int part) {
                    const PatchSums& own = sums[octet][streams];
                    float* pair = to + row_of(lane) * PATCH_ROWS + 2 * piece_of(lane);
                    pair[0] = own.part[part][0];
                    pair[1] = own.part[part][1];
                });
            }
        }
        block.sync();
    }

    // Adds up what the warps brought, always in the same order.
    DEVICE float sum(const Block& block, int octet, int streams, int row, int stream) const {
        float total = 0.0f;
#pragma unroll 8
        for (int warp = 0; warp < block.warps(); ++warp) {
            total += place(block, warp, octet, streams)[row * PATCH_ROWS + stream];
        }
        return total;
    }

private:
    DEVICE float* place(const Block& block, int warp, int octet, int streams) const {
        const int turn = turn_ * block.warps();
        return places_ + (((turn + warp) * Octets + octet) * StreamOctets + streams) * FLOATS;
    }

    float* places_;
    int turn_ = 0;
};

// Adds this warp's columns of `Sets` sets' products to sums. Waits for operands that have not come.
template <int Sets, int SetOctets, int StreamOctets, typename Weight>
DEVICE void add_products(
    const Block& block, const OctetShare<Weight, SetOctets>& weights, int first_set, const OperandMail& operands,
    int step, const StreamTile<StreamOctets>& tile, const Watch& watch,
    PatchSums (&sums)[Sets * SetOctets][StreamOctets]) {
    // Patches of columns that are asked for before the first is waited for.
    constexpr int ahead = StreamOctets == 1 ? 4 : StreamOctets == 2 ? 2 : 1;
    constexpr int octets = Sets * SetOctets;
    const Span columns = share_of(weights.patches(), block.warp(), block.warps());
#pragma unroll 1
    for (int first = 0; first < columns.count; first += ahead) {
        // Weights first: they are there, and their way is over when the operands come.
        Patch rows[ahead][octets + octets % 2];
#pragma unroll
        for (int i = 0; i < ahead; ++i) {
#pragma unroll
            for (int set = 0; set < Sets; ++set) {
                const int column_patch = min(columns.first + first + i, weights.patches() - 1);
                weights.read(block, first_set + set, column_patch, rows[i] + set * SetOctets);
            }
            if constexpr (octets % 2 == 1) {
                clear(rows[i][octets]);
            }
        }
        Patch streams[ahead][StreamOctets];
        int left = watch.waits();
        bool here = false;
        while (!here) {
            here = true;
#pragma unroll
            for (int i = 0; i < ahead; ++i) {
#pragma unroll
                for (int s = 0; s < StreamOctets; ++s) {
                    const int there = first + i < columns.count ? tile.count - s * PATCH_ROWS : 0;
                    here = operands.look(
                               block, step, tile.first + s * PATCH_ROWS, there, columns.first + first + i,
                               streams[i][s]) &&
                           here;
                }
            }
            here = here || !watch.go_on(left, FOR_OPERANDS, step);
        }
        block.sync_warp();
#pragma unroll
        for (int i = 0; i < ahead; ++i) {
            if (first + i >= columns.count) {
                break;
            }
            PatchSums nothing = {};
#pragma unroll
            for (int octet = 0; octet < octets; octet += 2) {
#pragma unroll
                for (int s = 0; s < StreamOctets; ++s) {
                    PatchSums& lower = octet + 1 < octets ? sums[octet + 1 < octets ? octet + 1 : 0][s] : nothing;
                    multiply_add(
                        block, Operand<Weight>{}, rows[i][octet], rows[i][octet + 1], streams[i][s], sums[octet][s],
                        lower);
                }
            }
        }
    }
}

}  // namespace wavernn
