// The stepped kernels of one type of weights: WAVERNN_NUMBER is Half, BFloat16 or E4M3. The number is how many streams
// a block computes.
#include "stepped.h"

using wavernn::Block;
using wavernn::SteppedArguments;
using Weight = wavernn::WAVERNN_NUMBER;

KERNEL(256, 1) stepped_begin(const __grid_constant__ SteppedArguments arguments) {
    wavernn::begin_stepped<wavernn::Operand<Weight>>(Block(), arguments);
}

#define WAVERNN_STEPPED(streams, octets, pairs)                                                    \
    KERNEL(256, 1) stepped_units_0_##streams(const __grid_constant__ SteppedArguments arguments) { \
        wavernn::stepped_units_0<Weight, octets>(Block(), arguments);                              \
    }                                                                                              \
    KERNEL(256, 1) stepped_units_1_##streams(const __grid_constant__ SteppedArguments arguments) { \
        wavernn::stepped_units_1<Weight, octets>(Block(), arguments);                              \
    }                                                                                              \
    KERNEL(256, 1) stepped_rows_##streams(const __grid_constant__ SteppedArguments arguments) {    \
        wavernn::stepped_rows<Weight, octets, pairs>(Block(), arguments);                          \
    }

WAVERNN_STEPPED(32, 2, 1)
WAVERNN_STEPPED(64, 4, 1)
WAVERNN_STEPPED(128, 8, 2)
#undef WAVERNN_STEPPED

KERNEL(256, 1) stepped_draw(const __grid_constant__ SteppedArguments arguments) {
    wavernn::draw_step(Block(), arguments);
}
