// A stream's conditioning at a step, for reads of many columns.
#pragma once

#include "conditioning.h"

namespace wavernn {

class StreamConditioning {
public:
    DEVICE StreamConditioning(const SequenceArguments& a, int stream, int step) : a_(a), stream_(stream), step_(step) {
        window_ = a.conditioning + static_cast<long long>(stream) * a.window * a.columns;
        row_ = window_;
        if (a.frame_index != nullptr) {
            const int frame = a.frame_index[static_cast<long long>(stream) * a.steps + step];
            row_ += static_cast<long long>(inside(frame, a.window)) * a.columns;
        }
    }

    // The same result as conditioning_at.
    DEVICE float at(PlaceName place, int column) const {
        float sum = 0.0f;
#pragma unroll
        for (int group = 0; group < MOST_GROUPS_OF_COLUMNS; ++group) {
            const int first = a_.places[place].first_column[group];
            if (first >= 0) {
                sum += a_.column_groups[group].held ? row_[first + column] : interpolated(group, first + column);
            }
        }
        return sum;
    }

private:
    DEVICE float interpolated(int group, int column) const {
        const long long rows =
            static_cast<long long>(stream_) * a_.interpolated_groups + a_.column_groups[group].interpolated;
        const float* weights = a_.interpolation + (rows * a_.steps + step_) * a_.window;
        float sum = 0.0f;
#pragma unroll 1
        for (int row = 0; row < a_.window; ++row) {
            sum = fmaf(weights[row], window_[static_cast<long long>(row) * a_.columns + column], sum);
        }
        return sum;
    }

    const SequenceArguments& a_;
    int stream_, step_;
    const float* window_;
    const float* row_;  // row of the held groups
};

}  // namespace wavernn
