// Exchange of 32-bit words between the blocks of a group, through global memory.
//
// Each word is stored atomically with a stamp, the number of its step. A reader polls until the stamp is that of its
// step: this needs no barrier, and one trip through the second-level cache instead of three. A word may be overwritten
// two steps later: the block that overwrites it has read words that every block of the group wrote in the step between,
// and each block wrote those after its last read of the old word. The accesses are relaxed: their order follows from
// data dependencies (each word is computed from words that were read) and from __syncthreads inside a block. Memory
// must hold no stamp of a later step, so it is cleared before each launch.
#pragma once

#include "waiting.h"

namespace wavernn {

// The stamp of a step. Never zero: the state before the first step, step -1, has stamp one.
DEVICE unsigned stamp_of(int step) { return static_cast<unsigned>(step + 2); }

// Words of one kind, in two buffers, for even and for odd steps.
class Mailbox {
public:
    // words: number of words of one buffer; first: offset of the first word in the mail, in words.
    DEVICE Mailbox(void* mail, long long first, long long words)
        : stamped_(static_cast<unsigned long long*>(mail) + first), words_(words) {}

    DEVICE void put(int step, long long index, unsigned word) const {
        put_stamped(stamped_ + half(step) + index, word, stamp_of(step));
    }

    // Waits for a word.
    DEVICE unsigned take(int step, long long index, const Watch& watch) const {
        int left = watch.waits();
        unsigned long long found = look_at(stamped_ + half(step) + index);
        while (found >> 32 != stamp_of(step) && watch.go_on(left, FOR_WORDS, step)) {
            found = look_at(stamped_ + half(step) + index);
        }
        return static_cast<unsigned>(found);
    }

    // Four neighbours with their stamps; index is a multiple of four.
    struct Four {
        unsigned long long word[4];
    };

    DEVICE void load(int step, long long index, Four& four) const {
        const unsigned long long* from = stamped_ + half(step) + index;
        unsigned long long both[2][2];
        look_at_two(from, both[0]);
        look_at_two(from + 2, both[1]);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            four.word[i] = both[i / 2][i % 2];
        }
    }

    // Removes the stamps of the first `count` words and sets the others to zero. Returns whether all `count` words have
    // arrived. There is no branch, so that no load is waited for before the result is used.
    DEVICE static bool unpack(int step, int count, const Four& four, Words& words) {
        bool here = true;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const bool wanted = i < count;
            const bool stamped = static_cast<unsigned>(four.word[i] >> 32) == stamp_of(step);
            here &= !wanted | stamped;
            words.word[i] = wanted ? static_cast<unsigned>(four.word[i]) : 0u;
        }
        return here;
    }

    // Loads four neighbouring words; see unpack.
    DEVICE bool look(int step, long long index, int count, Words& words) const {
        Four four;
        load(step, index, four);
        return unpack(step, count, four, words);
    }

    // The same, but waits until they have arrived.
    DEVICE Words take_four(int step, long long index, int count, const Watch& watch) const {
        int left = watch.waits();
        Words words;
        while (!look(step, index, count, words) && watch.go_on(left, FOR_WORDS, step)) {
        }
        return words;
    }

private:
    DEVICE long long half(int step) const { return (step & 1) * words_; }

    unsigned long long* stamped_;
    long long words_;
};

}  // namespace wavernn
