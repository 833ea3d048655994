// The product of a block's octets of rows with a tile of streams. Each warp takes some of the columns, so that
// nothing is read twice, and the warps' sums are added in shared memory.
#pragma once

#include "mailbox.h"
#include "octets.h"

// Whether a sweep's loads are all under way before the first is waited for; else one patch is waited for after the
// other. No bit of the result depends on it.
#ifndef WAVERNN_POLLS_IN_FLIGHT
#define WAVERNN_POLLS_IN_FLIGHT 1
#endif

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

    // Of a lane's words of a patch: how many are there in a row.
    DEVICE int words_at(int lane, int column_patch) const {
        return (columns + 1) / 2 - word(lane, column_patch);
    }

    // The first of them, in a row.
    DEVICE static int word(int lane, int column_patch) {
        return column_patch * (PATCH_COLUMNS / 2) + piece_of(lane) * (PIECE / 2);
    }
};

// The patches of `Ahead` neighbouring columns and of all octets of a tile's streams, looked at in one sweep.
template <int Ahead, int StreamOctets>
struct Sweep {
    const OperandMail& operands;
    const StreamTile<StreamOctets>& tile;
    // Of the columns; those from `count` on are not wanted.
    int first, count;

    // Says whether all that is wanted has come. What is not wanted becomes zeros.
    DEVICE bool look(const Block& block, int step, Patch (&streams)[Ahead][StreamOctets]) const {
#if WAVERNN_POLLS_IN_FLIGHT
        return look_at_all(block, step, streams);
#else
        bool here = true;
#pragma unroll
        for (int i = 0; i < Ahead; ++i) {
#pragma unroll
            for (int s = 0; s < StreamOctets; ++s) {
                for_parts(block, [&](int lane, int part) {
                    if (const int words = wanted(lane, i, s); words > 0) {
                        const long long stream = tile.first + s * PATCH_ROWS + row_of(lane);
                        const long long at = stream * operands.pitch() + OperandMail::word(lane, first + i);
                        here = operands.mail.look(step, at, words, streams[i][s].part[part]) && here;
                    } else {
                        streams[i][s].part[part] = Words{{0, 0, 0, 0}};
                    }
                });
            }
        }
        return here;
#endif
    }

private:
    DEVICE int wanted(int lane, int i, int s) const {
        const bool there = i < count && s * PATCH_ROWS + row_of(lane) < tile.count;
        return there ? operands.words_at(lane, first + i) : 0;
    }

    // All loads are under way before the first is looked at. What is not there is read from the nearest that is.
    DEVICE bool look_at_all(const Block& block, int step, Patch (&streams)[Ahead][StreamOctets]) const {
        Mailbox::Four found[Ahead][StreamOctets][PARTS];
#pragma unroll
        for (int i = 0; i < Ahead; ++i) {
#pragma unroll
            for (int s = 0; s < StreamOctets; ++s) {
                for_parts(block, [&](int lane, int part) {
                    const long long stream = tile.first + min(s * PATCH_ROWS + row_of(lane), tile.count - 1);
                    const int patch = first + min(i, count - 1);
                    const long long at = stream * operands.pitch() + OperandMail::word(lane, patch);
                    operands.mail.load(step, at, found[i][s][part]);
                });
            }
        }
        bool here = true;
#pragma unroll
        for (int i = 0; i < Ahead; ++i) {
#pragma unroll
            for (int s = 0; s < StreamOctets; ++s) {
                for_parts(block, [&](int lane, int part) {
                    Words& words = streams[i][s].part[part];
                    here &= Mailbox::unpack(step, wanted(lane, i, s), found[i][s][part], words);
                });
            }
        }
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
        const Sweep<ahead, StreamOctets> sweep = {operands, tile, columns.first + first, columns.count - first};
        while (!sweep.look(block, step, streams) && watch.go_on(left, FOR_OPERANDS, step)) {
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
