// Bounded waits of a thread for other blocks of its group, and the end of a wait that fails.
//
// The group has an error word in global memory, zero before the launch. The first thread that uses up its polls stores
// its position in the word; all other threads read the word every POLLS_A_LOOK polls and stop waiting too. Blocks that
// have stopped end at the next barrier of the group. If a step has no such barrier, they run the remaining steps on
// invalid data, because all threads of a block must reach the barriers of the block. At the end every block marks the
// streams that it draws for with the error word.
#pragma once

#include "block.h"

namespace wavernn {

enum WaitPlace { AT_BARRIER = 1, FOR_OPERANDS = 2, FOR_WORDS = 3 };

// Polls between two looks at the error word.
constexpr int POLLS_A_LOOK = 1024;

// The mark of a stopped wait, read by wavernn_trt.plugins.stalls. As an integer it is negative, which no label is; as a
// float it is a NaN that no instruction produces.
DEVICE unsigned stall_word(WaitPlace place, int block, int step) {
    return 0xffe00000u | static_cast<unsigned>(place) << 19 | static_cast<unsigned>(block & 511) << 10 |
           static_cast<unsigned>(step & 1023);
}

class Watch {
public:
    // error: the group's error word. stopped: a flag of the block in shared memory, initially zero. waits: maximum
    // number of polls of a wait.
    DEVICE Watch(unsigned* error, unsigned* stopped, int block, int waits)
        : error_(error), stopped_(stopped), block_(block), waits_(waits) {}

    DEVICE int waits() const { return waits_; }

    // Call after an unsuccessful poll, with the number of polls left; returns whether to poll again.
    DEVICE bool go_on(int& left, WaitPlace place, int step) const {
        if (look_at_flag(stopped_) != 0) {
            return false;
        }
        --left;
        if (left < 0) {
            put_first(error_, stall_word(place, block_, step));
        }
        if (left < 0 || (left % POLLS_A_LOOK == 0 && read_published(error_) != 0)) {
            raise_flag(stopped_);
            return false;
        }
        keep_waiting();
        return true;
    }

private:
    unsigned* error_;
    unsigned* stopped_;
    int block_, waits_;
};

}  // namespace wavernn
