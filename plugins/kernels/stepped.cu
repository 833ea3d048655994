// The stepped kernels of one type of weights: WAVERNN_NUMBER is Half, BFloat16 or E4M3. The numbers in a name are the
// streams of a block's tile; for other layers than a GRU, rows x streams.
#include "stepped.h"

using wavernn::Block;
using wavernn::SteppedArguments;
using Weight = wavernn::WAVERNN_NUMBER;

KERNEL(256, 1) stepped_begin(const __grid_constant__ SteppedArguments arguments) {
    wavernn::begin_stepped<Weight>(Block(), arguments);
}

#define WAVERNN_UNITS(streams, octets)                                                             \
    KERNEL(256, 1) stepped_units_0_##streams(const __grid_constant__ SteppedArguments arguments) { \
        wavernn::stepped_units_0<Weight, octets>(Block(), arguments);                              \
    }                                                                                              \
    KERNEL(256, 1) stepped_units_1_##streams(const __grid_constant__ SteppedArguments arguments) { \
        wavernn::stepped_units_1<Weight, octets>(Block(), arguments);                              \
    }

WAVERNN_UNITS(32, 2)
WAVERNN_UNITS(64, 4)
WAVERNN_UNITS(128, 8)
#undef WAVERNN_UNITS

#define WAVERNN_ROWS(name, octets, pairs)                                               \
    KERNEL(256, 1) stepped_##name(const __grid_constant__ SteppedArguments arguments) { \
        wavernn::stepped_rows<Weight, octets, pairs>(Block(), arguments);               \
    }

WAVERNN_ROWS(rows_64x32, 2, 1)
WAVERNN_ROWS(rows_64x64, 4, 1)
WAVERNN_ROWS(rows_128x128, 8, 2)
WAVERNN_ROWS(rows_256x128, 8, 4)
#undef WAVERNN_ROWS

KERNEL(256, 1) stepped_draw(const __grid_constant__ SteppedArguments arguments) {
    wavernn::draw_step(Block(), arguments);
}
