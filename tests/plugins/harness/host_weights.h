// The types of weights that tensor cores multiply, by number, for the host.
#pragma once

#include "pieces.h"

namespace wavernn {

// Calls run(type of the weights) for a precision whose weights tensor cores multiply: 1 half, 2 bfloat16, 3 e4m3.
template <typename Run>
int choose_weight(int precision, Run run) {
    switch (precision) {
        case 1: run(Half()); return 0;
        case 2: run(BFloat16()); return 0;
        case 3: run(E4M3()); return 0;
        default: return 1;
    }
}

}  // namespace wavernn
