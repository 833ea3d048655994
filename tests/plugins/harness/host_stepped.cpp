// The stepped kernels on the host. precision: 1 half, 2 bfloat16, 3 e4m3; a function returns 1 for any other.
#include "host_weights.h"
#include "stepped.h"

namespace {

using wavernn::Block;

// Calls kernel(block, type of the weights) with all threads.
template <typename Kernel>
int run_stepped(int precision, int blocks, int warps, int shared_bytes, Kernel kernel) {
    return wavernn::choose_weight(precision, [&](auto weight) {
        wavernn::run_grid(
            blocks, warps, static_cast<std::size_t>(shared_bytes), [&](const Block& block) { kernel(block, weight); });
    });
}

}  // namespace

extern "C" {

#define WAVERNN_STEPPED(name, call)                                                                           \
    int wavernn_##name(                                                                                       \
        const wavernn::SteppedArguments* arguments, int precision, int blocks, int warps, int shared_bytes) { \
        return run_stepped(precision, blocks, warps, shared_bytes, [&](const Block& block, auto weight) {     \
            using Weight [[maybe_unused]] = decltype(weight);                                                 \
            call(block, *arguments);                                                                          \
        });                                                                                                   \
    }

WAVERNN_STEPPED(stepped_begin, wavernn::begin_stepped<Weight>)
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

}  // extern "C"
