// Divides the streams of a group into tiles, and copies the operands of a tile to shared memory.
#pragma once

#include "group.h"
#include "numbers.h"

namespace wavernn {

// Streams that are computed together. Streams after the last one repeat the last one; their results are dropped.
template <int Streams>
struct Tile {
    int first;
    int last;

    DEVICE int stream(int place) const { return min(first + place, last); }

    DEVICE bool has(int place) const { return first + place <= last; }
};

// Calls use(tile) for the tiles of a group's streams. All threads of the block have finished a tile before the operands
// of the next one are copied.
template <int Streams, typename Use>
DEVICE void for_tiles(const Block& block, Span streams, Use use) {
    const int end = streams.first + streams.count;
#pragma unroll 1
    for (int first = streams.first; first < end; first += Streams) {
        use(Tile<Streams>{first, end - 1});
        block.sync();
    }
}

// Copies a tile's rows of a buffer [B, pitch] to shared memory [Streams, pitch], with zeros after the columns.
template <int Streams, typename Number>
DEVICE void copy_operands(
    const Block& block, const Tile<Streams>& tile, const Number* buffer, int columns, Number* operands) {
    const int pitch = padded<Number>(columns);
    const int vectors = pitch / VECTOR<Number>;
#pragma unroll 2
    for (int i = block.thread(); i < Streams * vectors; i += block.threads()) {
        const int place = i / vectors;
        const int column = (i - place * vectors) * VECTOR<Number>;
        const Number* from = buffer + static_cast<long long>(tile.stream(place)) * pitch + column;
        Number* to = operands + place * pitch + column;
        if (column + VECTOR<Number> <= columns) {
            store_words(to, load_words(from));
            continue;
        }
#pragma unroll 1
        for (int k = 0; k < VECTOR<Number>; ++k) {
            to[k] = column + k < columns ? from[k] : narrow<Number>(0.0f);
        }
    }
}

}  // namespace wavernn
