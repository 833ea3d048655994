// The product of a tile's rows with its streams, over all columns, in registers.
#pragma once

#include "stepped_tile.h"

namespace wavernn {

// Sums of a warp for each kind, two octets of rows, and octets of streams. A kind is a pair of octets of the tile. With
// two products, the last pair has one kind for each product, because the candidate of a GRU needs both sums separately.
template <typename C, int Products>
struct TileSums {
    static constexpr int KINDS = C::PAIRS + Products - 1;

    PatchSums of[KINDS][2][C::STREAM_OCTETS];

    DEVICE void clear_all() {
#pragma unroll
        for (int kind = 0; kind < KINDS; ++kind) {
            clear(of[kind]);
        }
    }

    // Octets of streams that one iteration of finish_sums processes.
    static constexpr int AT_ONCE = 2;

    // Moves the sums of the next octets of streams to the place of the first. Registers cannot be indexed: with this, a
    // loop over octets need not be unrolled completely, and its code fits into the instruction cache.
    DEVICE void advance() {
#pragma unroll
        for (int kind = 0; kind < KINDS; ++kind) {
#pragma unroll
            for (int octet = 0; octet < 2; ++octet) {
#pragma unroll
                for (int s = 0; s + AT_ONCE < C::STREAM_OCTETS; ++s) {
                    of[kind][octet][s] = of[kind][octet][s + AT_ONCE];
                }
            }
        }
    }
};

// Calls use(octet of streams, its index in the sums, lane, part) for all octets of this warp.
template <typename C, int Products, typename Use>
DEVICE void finish_sums(const Block& block, TileSums<C, Products>& sums, Use use) {
    constexpr int at_once = TileSums<C, Products>::AT_ONCE;
    static_assert(C::STREAM_OCTETS % at_once == 0, "whole turns");
#pragma unroll 1
    for (int first = 0; first < C::STREAM_OCTETS; first += at_once) {
#pragma unroll
        for (int s = 0; s < at_once; ++s) {
            for_parts(block, [&](int lane, int part) { use(C::stream_octet(block) + first + s, s, lane, part); });
        }
        sums.advance();
    }
}

// Multiplies one patch of columns. Product: index of the product.
template <int Product, typename C, int Products>
DEVICE void multiply_slot(const Block& block, const unsigned char* slot, TileSums<C, Products>& sums) {
    using Number = typename C::Number;
    const typename C::Weight* weights = reinterpret_cast<const typename C::Weight*>(slot);
    const Number* operands = reinterpret_cast<const Number*>(slot + C::ROW_BYTES);
#if WAVERNN_FRAGMENT_ORDER
    Fragment rows[C::PAIRS];
#pragma unroll
    for (int pair = 0; pair < C::PAIRS; ++pair) {
        read_fragment(block, weights + (pair * C::ROW_WARPS + C::row_octet(block) / 2) * FRAGMENT, rows[pair]);
    }
#else
    Patch rows[C::PAIRS][2];
#pragma unroll
    for (int pair = 0; pair < C::PAIRS; ++pair) {
#pragma unroll
        for (int octet = 0; octet < 2; ++octet) {
            const int patch = pair * C::RUN_PATCHES + C::row_octet(block) + octet;
            for_parts(block, [&](int lane, int part) {
                rows[pair][octet].part[part] = kept_piece(weights + (patch * PATCH_LANES + lane) * PIECE);
            });
        }
    }
#endif
#pragma unroll
    for (int s = 0; s < C::STREAM_OCTETS; ++s) {
        Patch streams;
        for_parts(block, [&](int lane, int part) {
            const int patch = C::stream_octet(block) + s;
            streams.part[part] = kept_piece(operands + (patch * PATCH_LANES + lane) * PIECE);
        });
#pragma unroll
        for (int pair = 0; pair < C::PAIRS; ++pair) {
            constexpr int last = C::PAIRS - 1;
            const int kind = pair == last ? last + Product : pair;
#if WAVERNN_FRAGMENT_ORDER
            multiply_add(block, Number{}, rows[pair].half, streams, sums.of[kind][0][s], sums.of[kind][1][s]);
#else
            multiply_add(
                block, Number{}, rows[pair][0], rows[pair][1], streams, sums.of[kind][0][s], sums.of[kind][1][s]);
#endif
        }
    }
}

// Adds one product, or two of the same size, to sums. Calls between() before the second.
template <typename C, int Products, typename Between>
DEVICE void multiply(
    const Block& block, const Supply<C>& supply, const Factors<C> (&factors)[Products], int patches,
    TileSums<C, Products>& sums, Between between) {
    const auto slot = [&](int k) { return block.shared() + k % C::SLOTS * C::SLOT_BYTES; };
    const auto fetch = [&](int k) {
        if (k < patches) {
            supply.fetch(block, factors[0], k, slot(k));
        } else if (k < Products * patches) {
            supply.fetch(block, factors[Products - 1], k - patches, slot(k));
        }
        close_copies();
    };
    const auto next_slot = [&](int k) {
        wait_for_copies<C::SLOTS - 2>();
        block.sync();  // all copies are complete, and no thread reads the previous slot, which is filled next
        fetch(k + C::SLOTS - 1);
        return slot(k);
    };
#pragma unroll 1
    for (int k = 0; k < C::SLOTS - 1; ++k) {
        fetch(k);
    }
#pragma unroll 1
    for (int k = 0; k < patches; ++k) {
        multiply_slot<0>(block, next_slot(k), sums);
    }
    if constexpr (Products == 2) {
        between();
#pragma unroll 1
        for (int k = patches; k < 2 * patches; ++k) {
            multiply_slot<1>(block, next_slot(k), sums);
        }
    }
}

}  // namespace wavernn
