// The feedback input of a step: the bits of a label, or of a float in [-1, 1].
#pragma once

#include "conditioning.h"

namespace wavernn {

DEVICE unsigned given_previous(const SequenceArguments& a, int stream) {
    const unsigned given = static_cast<const unsigned*>(a.previous)[stream];
    return a.label_feedback ? static_cast<unsigned>(inside(static_cast<int>(given), a.outputs)) : given;
}

DEVICE void keep_previous(const SequenceArguments& a, int stream, unsigned previous) {
    static_cast<unsigned*>(a.previous_out)[stream] = previous;
}

// The part of layer 0's gates that depends on the feedback.
DEVICE float fed_back(const SequenceArguments& a, unsigned previous, int column) {
    if (a.label_feedback) {
        return a.feedback[static_cast<long long>(previous) * 3 * a.hidden_size + column];
    }
    return float_of_bits(previous) * a.feedback[column];
}

}  // namespace wavernn
