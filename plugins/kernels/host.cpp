// The kernels on the host, for tests: the same sources, each thread of each block a thread of the system.
//
// tiles: streams that are computed together. precision: 0 float, 1 half, 2 bfloat16. A function returns 0, or 1 where
// no such kernel exists.
#include "gru_cell.h"
#include "resident.h"
#include "sequence.h"
#include "stepped.h"

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

// Calls run(type of the weights) for a precision whose weights tensor cores multiply: 1 half, 2 bfloat16, 3 e4m3.
template <typename Run>
int choose_weight(int precision, Run run) {
    switch (precision) {
        case 1: run(wavernn::Half()); return 0;
        case 2: run(wavernn::BFloat16()); return 0;
        case 3: run(wavernn::E4M3()); return 0;
        default: return 1;
    }
}

template <int StreamOctets, int Sets, bool stamped>
int run_resident(
    const wavernn::ResidentArguments& arguments, int precision, int blocks, int warps, std::size_t shared_bytes) {
    return choose_weight(precision, [&](auto weight) {
        wavernn::run_grid(blocks, warps, shared_bytes, [&](const Block& block) {
            wavernn::resident<decltype(weight), StreamOctets, Sets, stamped>(block, arguments);
        });
    });
}

// Calls kernel(block, type of the weights) with all threads.
template <typename Kernel>
int run_stepped(int precision, int blocks, int warps, int shared_bytes, Kernel kernel) {
    return choose_weight(precision, [&](auto weight) {
        wavernn::run_grid(
            blocks, warps, static_cast<std::size_t>(shared_bytes), [&](const Block& block) { kernel(block, weight); });
    });
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

int wavernn_resident_stamped_8(
    const wavernn::ResidentArguments* arguments, int precision, int blocks, int warps, int shared_bytes) {
    return run_resident<1, 1, true>(*arguments, precision, blocks, warps, static_cast<std::size_t>(shared_bytes));
}

int wavernn_resident_stamped_16(
    const wavernn::ResidentArguments* arguments, int precision, int blocks, int warps, int shared_bytes) {
    return run_resident<2, 1, true>(*arguments, precision, blocks, warps, static_cast<std::size_t>(shared_bytes));
}

int wavernn_resident_plain_16(
    const wavernn::ResidentArguments* arguments, int precision, int blocks, int warps, int shared_bytes) {
    return run_resident<2, 2, false>(*arguments, precision, blocks, warps, static_cast<std::size_t>(shared_bytes));
}

int wavernn_resident_plain_32(
    const wavernn::ResidentArguments* arguments, int precision, int blocks, int warps, int shared_bytes) {
    return run_resident<4, 2, false>(*arguments, precision, blocks, warps, static_cast<std::size_t>(shared_bytes));
}

#define WAVERNN_STEPPED(name, call)                                                                           \
    int wavernn_##name(                                                                                       \
        const wavernn::SteppedArguments* arguments, int precision, int blocks, int warps, int shared_bytes) { \
        return run_stepped(precision, blocks, warps, shared_bytes, [&](const Block& block, auto weight) {     \
            using Weight [[maybe_unused]] = decltype(weight);                                                 \
            call(block, *arguments);                                                                          \
        });                                                                                                   \
    }

WAVERNN_STEPPED(stepped_begin, wavernn::begin_stepped<wavernn::Operand<Weight>>)
WAVERNN_STEPPED(stepped_units_0_32, (wavernn::stepped_units_0<Weight, 2>))
WAVERNN_STEPPED(stepped_units_0_64, (wavernn::stepped_units_0<Weight, 4>))
WAVERNN_STEPPED(stepped_units_0_128, (wavernn::stepped_units_0<Weight, 8>))
WAVERNN_STEPPED(stepped_units_1_32, (wavernn::stepped_units_1<Weight, 2>))
WAVERNN_STEPPED(stepped_units_1_64, (wavernn::stepped_units_1<Weight, 4>))
WAVERNN_STEPPED(stepped_units_1_128, (wavernn::stepped_units_1<Weight, 8>))
WAVERNN_STEPPED(stepped_rows_64x32, (wavernn::stepped_rows<Weight, 2, 1>))
WAVERNN_STEPPED(stepped_rows_64x64, (wavernn::stepped_rows<Weight, 4, 1>))
WAVERNN_STEPPED(stepped_rows_128x128, (wavernn::stepped_rows<Weight, 8, 2>))
WAVERNN_STEPPED(stepped_rows_256x128, (wavernn::stepped_rows<Weight, 8, 4>))
WAVERNN_STEPPED(stepped_draw, wavernn::draw_step)
#undef WAVERNN_STEPPED

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
