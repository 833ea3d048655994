// Exchange of words of 32 bits between the blocks of a group, in global memory.
//
// Each word is stored together with the number of its step, in one store that is seen whole or not at all. A reader
// polls until the stamp is that of its step: no barrier, and one way through the second-level cache instead of three.
// A word may be overwritten two steps later: the block that overwrites it has read what every block of the group
// wrote in the step between, and each of them wrote that after its last read of the old word. These accesses are
// relaxed: their order follows from every word being computed from words that were read, and from __syncthreads
// inside a block. Memory must hold no stamp of a later step: it is cleared before each launch.
#pragma once

#include "waiting.h"

namespace wavernn {

// Of a step; those of the state before the first step, -1, is one. Never zero.
DEVICE unsigned stamp_of(int step) { return static_cast<unsigned>(step + 2); }

// Words of one kind, twice: those of even and of odd steps.
class Mailbox {
public:
    // words: of all streams, in one half; first: the first of them, counted in words from the mail's beginning.
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

    // Takes the stamps off. The first `count` are wanted, the others become zeros. Says whether all of those have come:
    // without a branch, so that nothing is waited for before the answer is used.
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

    // Reads four neighbours; see unpack.
    DEVICE bool look(int step, long long index, int count, Words& words) const {
        Four four;
        load(step, index, four);
        return unpack(step, count, four, words);
    }

    // The same, and waits for them.
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
