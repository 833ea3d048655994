// A group of blocks that decode the same streams, and the barrier between its stages.
#pragma once

#include "block.h"

namespace wavernn {

// A part of something that is shared out as evenly as integers allow.
struct Span {
    int first;
    int count;
};

// From total * rank / parts to total * (rank + 1) / parts, in parts that need no division of 64 bits: on a GPU that is
// a slow call. parts is at most 46340, so that nothing overflows.
DEVICE Span share_of(int total, int rank, int parts) {
    const int whole = total / parts;
    const int rest = total - whole * parts;
    const int first = rest * rank / parts;
    const int end = rest * (rank + 1) / parts;
    return Span{whole * rank + first, whole + end - first};
}

// Bytes between the groups' counters, so that they lie in different cache lines.
constexpr int COUNTER_BYTES = 128;

class Group {
public:
    // counters: COUNTER_BYTES for each group, zero before the grid starts. waits: how often a block looks for the
    // others before it gives up.
    DEVICE Group(const Block& block, int groups, int blocks, unsigned char* counters, int waits)
        : index_(block.rank() / blocks), rank_(block.rank() % blocks), blocks_(blocks), waits_(waits) {
        counter_ = reinterpret_cast<unsigned*>(counters + index_ * COUNTER_BYTES);
        groups_ = groups;
    }

    DEVICE int rank() const { return rank_; }

    DEVICE int blocks() const { return blocks_; }

    // This block's part of a matrix's rows, or of whatever else the group shares out.
    DEVICE Span share(int total) const { return share_of(total, rank_, blocks_); }

    // The streams that this group decodes.
    DEVICE Span streams(int batch) const { return share_of(batch, index_, groups_); }

    // Waits for all blocks of the group; what they wrote is then seen by all.
    DEVICE void sync(const Block& block) {
        block.sync();
        if (block.thread() == 0) {
            add_and_publish(counter_);
            expected_ += static_cast<unsigned>(blocks_);
            int left = waits_;
            // The difference stays right when the count wraps around.
            while (static_cast<int>(read_published(counter_) - expected_) < 0) {
                if (--left < 0) {
                    give_up();
                }
                keep_waiting();
            }
        }
        block.sync();
    }

private:
    unsigned* counter_;
    unsigned expected_ = 0;
    int index_, rank_, blocks_, groups_, waits_;
};

}  // namespace wavernn
