// A group of blocks that decode the same streams, and the barrier between its stages.
#pragma once

#include "waiting.h"

namespace wavernn {

// A range of items.
struct Span {
    int first;
    int count;
};

// The items from total * rank / parts to total * (rank + 1) / parts, computed without 64-bit divisions, which are slow
// on a GPU. parts is at most 46340, so that no product overflows.
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
    // counters: COUNTER_BYTES for each group, zero before the launch. waits: maximum number of polls of a wait.
    // stopped: a flag in shared memory: the block has stopped waiting.
    DEVICE Group(
        const Block& block, int groups, int blocks, unsigned char* counters, int waits, unsigned* stopped)
        : stopped_(stopped), index_(block.rank() / blocks), rank_(block.rank() % blocks), blocks_(blocks), waits_(waits) {
        counter_ = reinterpret_cast<unsigned*>(counters + index_ * COUNTER_BYTES);
        error_ = counter_ + COUNTER_BYTES / 8;
        groups_ = groups;
        if (block.thread() == 0) {
            *stopped_ = 0;
        }
    }

    DEVICE int rank() const { return rank_; }

    DEVICE int blocks() const { return blocks_; }

    // The range of this block when `total` items are divided among the blocks of the group.
    DEVICE Span share(int total) const { return share_of(total, rank_, blocks_); }

    // The streams that this group decodes.
    DEVICE Span streams(int batch) const { return share_of(batch, index_, groups_); }

    // The error word of the group; see waiting.h.
    DEVICE unsigned* error() const { return error_; }

    // Barrier of the group; all writes before it are visible after it. Returns to all threads of the block whether all
    // blocks arrived. After it, the error word of a block that stopped waiting earlier is visible.
    DEVICE bool sync(const Block& block, int step) {
        block.sync();
        if (block.thread() == 0) {
            add_and_publish(counter_);
            expected_ += static_cast<unsigned>(blocks_);
            const Watch watch(error_, stopped_, block.rank(), waits_);
            int left = waits_;
            // The difference is correct when the count wraps around.
            while (static_cast<int>(read_published(counter_) - expected_) < 0 && watch.go_on(left, AT_BARRIER, step)) {
            }
        }
        block.sync();
        return look_at_flag(stopped_) == 0;
    }

private:
    unsigned* counter_;
    unsigned* error_;
    unsigned* stopped_;
    unsigned expected_ = 0;
    int index_, rank_, blocks_, groups_, waits_;
};

}  // namespace wavernn
