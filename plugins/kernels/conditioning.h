// The conditioning that is added at a place of the network in a step.
#pragma once

#include "block.h"
#include "sequence_arguments.h"

namespace wavernn {

// Clamps an index into `count` rows. TensorRT times plugins on arbitrary inputs while it builds, and a read outside of
// a tensor destroys the CUDA context.
DEVICE int inside(int index, int count) { return min(max(index, 0), count - 1); }

// Sums the place's groups: a held group adds one row of the window, an interpolated group the weighted sum of all rows.
DEVICE float conditioning_at(const SequenceArguments& a, int stream, int step, PlaceName place, int column) {
    const long long at = static_cast<long long>(stream) * a.steps + step;
    const float* window = a.conditioning + static_cast<long long>(stream) * a.window * a.columns;
    float sum = 0.0f;
#pragma unroll 1
    for (int group = 0; group < MOST_GROUPS_OF_COLUMNS; ++group) {
        const int first = a.places[place].first_column[group];
        if (first < 0) {
            continue;
        }
        const float* values = window + first + column;
        if (a.column_groups[group].held) {
            sum += values[static_cast<long long>(inside(a.frame_index[at], a.window)) * a.columns];
            continue;
        }
        const long long rows =
            static_cast<long long>(stream) * a.interpolated_groups + a.column_groups[group].interpolated;
        const float* weights = a.interpolation + (rows * a.steps + step) * a.window;
        float interpolated = 0.0f;
#pragma unroll 1
        for (int row = 0; row < a.window; ++row) {
            interpolated = fmaf(weights[row], values[static_cast<long long>(row) * a.columns], interpolated);
        }
        sum += interpolated;
    }
    return sum;
}

}  // namespace wavernn
