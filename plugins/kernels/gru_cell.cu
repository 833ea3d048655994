// The gru_cell kernels of one precision: WAVERNN_NUMBER is float, Half or BFloat16.
#include "gru_cell.h"

using wavernn::Block;
using wavernn::GruArguments;
using Number = wavernn::WAVERNN_NUMBER;

KERNEL(256, 2) gru_cell_1(const __grid_constant__ GruArguments arguments) {
    wavernn::gru_cell<Number, 1>(Block(), arguments);
}

KERNEL(256, 2) gru_cell_4(const __grid_constant__ GruArguments arguments) {
    wavernn::gru_cell<Number, 4>(Block(), arguments);
}

KERNEL(256, 2) gru_cell_8(const __grid_constant__ GruArguments arguments) {
    wavernn::gru_cell<Number, 8>(Block(), arguments);
}
