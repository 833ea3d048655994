// A group of blocks that decode the same streams, and the barrier between its stages.
#pragma once

#include "waiting.h"

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
    // stopped: a flag of the block in shared memory, that it waits no more.
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

    // This block's part of a matrix's rows, or of whatever else the group shares out.
    DEVICE Span share(int total) const { return share_of(total, rank_, blocks_); }

    // The streams that this group decodes.
    DEVICE Span streams(int batch) const { return share_of(batch, index_, groups_); }

    // Where the first thread of the group that gives up writes its word; see waiting.h.
    DEVICE unsigned* error() const { return error_; }

    // Waits for all blocks of the group; what they wrote is then seen by all. Says whether they came, the same to all
    // threads of the block. After it, the error word is there where a block that came here before had given up.
    DEVICE bool sync(const Block& block, int step) {
        block.sync();
        if (block.thread() == 0) {
            add_and_publish(counter_);
            expected_ += static_cast<unsigned>(blocks_);
            const Watch watch(error_, stopped_, block.rank(), waits_);
            int left = waits_;
            // The difference stays right when the count wraps around.
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
