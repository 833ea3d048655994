// The product of a block's octets of rows with a tile of streams. The columns are divided among the warps, so that
// nothing is read twice, and the sums of the warps are added in shared memory.
#pragma once

#include "mailbox.h"
#include "octets.h"

// 1: all loads of a sweep are issued before the first is waited for; 0: the patches are waited for one after another.
// The results are bit-equal.
#ifndef WAVERNN_POLLS_IN_FLIGHT
#define WAVERNN_POLLS_IN_FLIGHT 1
#endif

namespace wavernn {

// A tile of a group's streams.
template <int StreamOctets>
struct StreamTile {
    int first;
    // Number of streams of the tile that exist.
    int count;
};

// Operands of all streams in the mail: two numbers in a word, each stream padded to whole patches.
struct OperandMail {
    Mailbox mail;
    int columns;

    // Distance between two streams, in words.
    DEVICE long long pitch() const { return (columns + PATCH_COLUMNS - 1) / PATCH_COLUMNS * (PATCH_COLUMNS / 2); }

    DEVICE void put(int step, int stream, int first_column, unsigned word) const {
        mail.put(step, stream * pitch() + first_column / 2, word);
    }

    // The number of words of the row from the lane's first word of a patch to the end.
    DEVICE int words_at(int lane, int column_patch) const {
        return (columns + 1) / 2 - word(lane, column_patch);
    }

    // Index in the row of the lane's first word of a patch.
    DEVICE static int word(int lane, int column_patch) {
        return column_patch * (PATCH_COLUMNS / 2) + piece_of(lane) * (PIECE / 2);
    }
};

// One attempt to read `Ahead` neighbouring patches of columns for all octets of a tile's streams.
template <int Ahead, int StreamOctets>
struct Sweep {
    const OperandMail& operands;
    const StreamTile<StreamOctets>& tile;
    // The first patch of columns, and the number of patches to read; the other patches become zeros.
    int first, count;

    // Returns whether all words to read have arrived.
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

    // Issues all loads before the first is used. Indices of streams and patches that do not exist are clamped.
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

// Shared memory for the sums of all warps: [warp, octet, stream octet, row, stream].
template <int Octets, int StreamOctets>
class MeetingPlace {
public:
    // Two alternating buffers save a barrier: a warp writes to one buffer after the barrier of the other one, which all
    // warps reach after they have read the first.
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

    // Adds the sums of the warps, always in the same order.
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

// Adds the products of `Sets` sets over this warp's columns to sums. Waits until the operands have arrived.
template <int Sets, int SetOctets, int StreamOctets, typename Weight>
DEVICE void add_products(
    const Block& block, const OctetShare<Weight, SetOctets>& weights, int first_set, const OperandMail& operands,
    int step, const StreamTile<StreamOctets>& tile, const Watch& watch,
    PatchSums (&sums)[Sets * SetOctets][StreamOctets]) {
    // Patches of columns that are loaded before the first is waited for.
    constexpr int ahead = StreamOctets == 1 ? 4 : StreamOctets == 2 ? 2 : 1;
    constexpr int octets = Sets * SetOctets;
    const Span columns = share_of(weights.patches(), block.warp(), block.warps());
#pragma unroll 1
    for (int first = 0; first < columns.count; first += ahead) {
        // Weights first: they do not depend on other blocks, and are loaded by the time the operands arrive.
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
