// The resident kernels of one type of weights: WAVERNN_NUMBER is Half, BFloat16 or E4M3. The number in a name is the
// number of streams that are computed together.
#include "resident.h"

using wavernn::Block;
using wavernn::ResidentArguments;
using Weight = wavernn::WAVERNN_NUMBER;

KERNEL(256, 1) resident_stamped_8(const __grid_constant__ ResidentArguments arguments) {
    wavernn::resident<Weight, 1>(Block(), arguments);
}

KERNEL(256, 1) resident_stamped_16(const __grid_constant__ ResidentArguments arguments) {
    wavernn::resident<Weight, 2>(Block(), arguments);
}
