// The sequence kernels of one precision: WAVERNN_NUMBER is float, Half or BFloat16.
#include "sequence.h"

using wavernn::Block;
using wavernn::SequenceArguments;
using Number = wavernn::WAVERNN_NUMBER;

KERNEL(256, 1) sequence_1(const __grid_constant__ SequenceArguments arguments) {
    wavernn::sequence<Number, 1>(Block(), arguments);
}

KERNEL(256, 1) sequence_4(const __grid_constant__ SequenceArguments arguments) {
    wavernn::sequence<Number, 4>(Block(), arguments);
}

KERNEL(256, 1) sequence_8(const __grid_constant__ SequenceArguments arguments) {
    wavernn::sequence<Number, 8>(Block(), arguments);
}
