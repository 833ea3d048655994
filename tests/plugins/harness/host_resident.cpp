// The resident kernels on the host. precision: 1 half, 2 bfloat16, 3 e4m3; a function returns 1 for any other.
#include "host_weights.h"
#include "resident.h"

namespace {

using wavernn::Block;

template <int StreamOctets>
int run_resident(
    const wavernn::ResidentArguments& arguments, int precision, int blocks, int warps, std::size_t shared_bytes) {
    return wavernn::choose_weight(precision, [&](auto weight) {
        wavernn::run_grid(blocks, warps, shared_bytes, [&](const Block& block) {
            wavernn::resident<decltype(weight), StreamOctets>(block, arguments);
        });
    });
}

}  // namespace

extern "C" {

int wavernn_resident_stamped_8(
    const wavernn::ResidentArguments* arguments, int precision, int blocks, int warps, int shared_bytes) {
    return run_resident<1>(*arguments, precision, blocks, warps, static_cast<std::size_t>(shared_bytes));
}

int wavernn_resident_stamped_16(
    const wavernn::ResidentArguments* arguments, int precision, int blocks, int warps, int shared_bytes) {
    return run_resident<2>(*arguments, precision, blocks, warps, static_cast<std::size_t>(shared_bytes));
}

}  // extern "C"
