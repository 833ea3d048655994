// The kernels that any GPU runs, on the host: the same sources, each thread of each block a thread of the system.
//
// tile: streams that are computed together. precision: 0 float, 1 half, 2 bfloat16. A function returns 0, or 1 where
// no such kernel exists.
#include "gru_cell.h"
#include "sequence.h"

namespace {

using wavernn::Block;

// Calls run(number of the precision, constant with the tile).
template <typename Run>
int choose(int precision, int tile, Run run) {
    const auto with_tile = [&](auto number) {
        switch (tile) {
            case 1: run(number, std::integral_constant<int, 1>()); return 0;
            case 4: run(number, std::integral_constant<int, 4>()); return 0;
            case 8: run(number, std::integral_constant<int, 8>()); return 0;
            default: return 1;
        }
    };
    switch (precision) {
        case 0: return with_tile(0.0f);
        case 1: return with_tile(wavernn::Half());
        case 2: return with_tile(wavernn::BFloat16());
        default: return 1;
    }
}

}  // namespace

extern "C" {

int wavernn_gru_cell(
    const wavernn::GruArguments* arguments, int precision, int tile, int blocks, int warps, int shared_bytes) {
    return choose(precision, tile, [&](auto number, auto streams) {
        wavernn::run_grid(blocks, warps, static_cast<std::size_t>(shared_bytes), [&](const Block& block) {
            wavernn::gru_cell<decltype(number), decltype(streams)::value>(block, *arguments);
        });
    });
}

int wavernn_sequence(
    const wavernn::SequenceArguments* arguments, int precision, int tile, int blocks, int warps, int shared_bytes) {
    return choose(precision, tile, [&](auto number, auto streams) {
        wavernn::run_grid(blocks, warps, static_cast<std::size_t>(shared_bytes), [&](const Block& block) {
            wavernn::sequence<decltype(number), decltype(streams)::value>(block, *arguments);
        });
    });
}

// Rounds to the precision and back.
int wavernn_round(const float* values, float* rounded, int count, int precision) {
    return choose(precision, 1, [&](auto number, auto) {
        for (int i = 0; i < count; ++i) {
            rounded[i] = wavernn::widen(wavernn::narrow<decltype(number)>(values[i]));
        }
    });
}

int wavernn_lanes() { return wavernn::LANES; }

}  // extern "C"
