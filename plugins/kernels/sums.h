// Sums over the lanes of a warp, for several values at once.
#pragma once

#include "block.h"

namespace wavernn {

// Number of the `Streams` sums that a lane holds after `reduce`.
template <int Streams>
constexpr int HELD = Streams > LANES ? Streams / LANES : 1;

// Sums each of `Count` values over all lanes. In each of log2(LANES) steps a lane keeps half of its values and sends
// the other half, which needs Count + log2(LANES / Count) exchanges instead of Count * log2(LANES). The order of
// additions is the same for each value, so that a stream's sum does not depend on its position in a tile.
template <int Count, int Mask>
DEVICE void halve_and_add(const Block& block, float* values) {
    if constexpr (Mask > 0 && Count > 1) {
        const bool upper = (block.lane() & Mask) != 0;
#pragma unroll
        for (int i = 0; i < Count / 2; ++i) {
            const float kept = upper ? values[i + Count / 2] : values[i];
            const float given = upper ? values[i] : values[i + Count / 2];
            values[i] = kept + block.from_lane_xor(given, Mask);
        }
        halve_and_add<Count / 2, Mask / 2>(block, values);
    } else if constexpr (Mask > 0) {
        values[0] += block.from_lane_xor(values[0], Mask);
        halve_and_add<1, Mask / 2>(block, values);
    }
}

// Sums over all lanes; the first HELD values of each row are then the sums of the streams of for_held_streams.
template <int Rows, int Streams>
DEVICE void reduce(const Block& block, float (&sums)[Rows][Streams]) {
    static_assert((Streams & (Streams - 1)) == 0 && (LANES & (LANES - 1)) == 0, "halved again and again");
#pragma unroll
    for (int row = 0; row < Rows; ++row) {
        halve_and_add<Streams, LANES / 2>(block, sums[row]);
    }
}

// Calls use(stream of the tile, index of its sum) for each stream whose sums this lane holds; one lane for each stream.
template <int Streams, typename Use>
DEVICE void for_held_streams(const Block& block, Use use) {
    constexpr int lanes_a_stream = LANES > Streams ? LANES / Streams : 1;
    if (block.lane() % lanes_a_stream == 0) {
#pragma unroll
        for (int i = 0; i < HELD<Streams>; ++i) {
            use(block.lane() / lanes_a_stream * HELD<Streams> + i, i);
        }
    }
}

}  // namespace wavernn
