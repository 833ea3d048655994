// Order of packed rows.
#pragma once

#include "model.h"

namespace wavernn {

// Row of the matrix at a packed position; -1 for padding.
inline int natural_row(int packed, int rows, bool gates, int block_rows) {
    if (!gates) {
        return packed < rows ? packed : -1;
    }
    const int hidden = rows / GATES, block = packed / block_rows;
    const int unit = block / GATES * block_rows + packed % block_rows;
    return unit < hidden ? block % GATES * hidden + unit : -1;
}

}  // namespace wavernn
