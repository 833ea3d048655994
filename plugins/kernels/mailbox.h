// What the blocks of a group tell each other: words of 32 bits in global memory.
//
// Each word travels together with the number of the step that it belongs to, in one store that is seen
// whole or not at all. Who wants it looks until the stamp is there: no barrier, and one way through the second-
// level cache instead of three. A word may be overwritten two steps later: whoever writes it then has read what
// every block of the group wrote in the step between, and each of them wrote that behind its last look at the old
// word. Those accesses are relaxed: what orders them is that every word is computed from those that were looked at,
// and __syncthreads inside a block. Memory must hold no stamp of a step to come: it is cleared before each launch.
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

    // Reads four neighbours, of which the first `count` are wanted and the others become zeros; index is a
    // multiple of four. Says whether all of them have come.
    DEVICE bool look(int step, long long index, int count, Words& words) const {
        const unsigned long long* from = stamped_ + half(step) + index;
        unsigned long long four[2][2];
        look_at_two(from, four[0]);
        look_at_two(from + 2, four[1]);
        bool here = true;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            here = here && (i >= count || four[i / 2][i % 2] >> 32 == stamp_of(step));
            words.word[i] = i < count ? static_cast<unsigned>(four[i / 2][i % 2]) : 0u;
        }
        return here;
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
