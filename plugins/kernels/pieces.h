// A lane's piece of a patch: eight neighbouring numbers of a row, as operands of a tensor core.
#pragma once

#include "patch.h"

namespace wavernn {

// What weights of a type are multiplied as, and with.
template <typename Weight>
struct Multiplied {
    using Number = Weight;
};

template <>
struct Multiplied<E4M3> {
    using Number = Half;
};

template <typename Weight>
using Operand = typename Multiplied<Weight>::Number;

// Two operands in a word, the first in its lower half.
template <typename Number>
DEVICE unsigned pair(float first, float second) {
    return static_cast<unsigned>(narrow<Number>(first).bits) | static_cast<unsigned>(narrow<Number>(second).bits) << 16;
}

// Four numbers of eight bits as halfs: the sign stays the highest bit, exponent and mantissa go one further down.
DEVICE void spread(unsigned four, unsigned& first_two, unsigned& last_two) {
    const unsigned first = (four & 0xffu) << 8 | (four & 0xff00u) << 16;
    const unsigned last = (four >> 8 & 0xff00u) | (four & 0xff000000u);
    first_two = (first & 0x80008000u) | (first & 0x7f007f00u) >> 1;
    last_two = (last & 0x80008000u) | (last & 0x7f007f00u) >> 1;
}

DEVICE Words spread(const unsigned (&eight)[2]) {
    Words words;
    spread(eight[0], words.word[0], words.word[1]);
    spread(eight[1], words.word[2], words.word[3]);
    return words;
}

// Whole pieces from an aligned address: of memory that nobody writes, or of shared memory.
DEVICE Words constant_piece(const Half* address) { return load_constant_words(address); }
DEVICE Words constant_piece(const BFloat16* address) { return load_constant_words(address); }
DEVICE Words constant_piece(const E4M3* address) {
    unsigned eight[2];
    load_constant_two(address, eight);
    return spread(eight);
}

DEVICE Words kept_piece(const Half* address) { return load_words(address); }
DEVICE Words kept_piece(const BFloat16* address) { return load_words(address); }
DEVICE Words kept_piece(const E4M3* address) {
    unsigned eight[2];
    load_two(address, eight);
    return spread(eight);
}

// Keeps a lane's piece of a row as it is stored: `count` numbers from an address of any alignment, zeros behind
// them.
template <typename Weight>
DEVICE void keep_piece(Weight* kept, const Weight* address, int count, bool aligned) {
    if (aligned && count >= PIECE) {
        if constexpr (sizeof(Weight) == 2) {
            store_words(kept, load_constant_words(address));
        } else {
            unsigned eight[2];
            load_constant_two(address, eight);
            store_two(kept, eight);
        }
        return;
    }
#pragma unroll 1
    for (int i = 0; i < PIECE; ++i) {
        kept[i].bits = i < count ? address[i].bits : decltype(kept[i].bits)(0);
    }
}

// The first `count` numbers of a piece, of any alignment, and zeros behind them.
template <typename Weight>
DEVICE_APART Words read_ragged(const Weight* address, int count) {
    constexpr int in_word = 4 / static_cast<int>(sizeof(Weight));
    unsigned words[4] = {0, 0, 0, 0};
#pragma unroll 1
    for (int i = 0; i < min(count, PIECE); ++i) {
        const unsigned number = static_cast<unsigned>(address[i].bits) << (i % in_word * (32 / in_word));
#pragma unroll
        for (int word = 0; word < 4; ++word) {
            words[word] |= i / in_word == word ? number : 0u;
        }
    }
    if constexpr (sizeof(Weight) == 2) {
        return Words{{words[0], words[1], words[2], words[3]}};
    } else {
        const unsigned eight[2] = {words[0], words[1]};
        return spread(eight);
    }
}

// A lane's piece of a row in global memory: `count` of its numbers are there, zeros behind them.
template <typename Weight>
DEVICE Words read_piece(const Weight* address, int count, bool aligned) {
    return aligned && count >= PIECE ? constant_piece(address) : read_ragged(address, count);
}

// Whether every row of a matrix begins where whole pieces can be read.
template <typename Weight>
DEVICE bool pieces_are_aligned(const Weight* matrix, int columns) {
    constexpr int bytes = PIECE * static_cast<int>(sizeof(Weight));
    return columns % PIECE == 0 && address_of(matrix) % bytes == 0;
}

}  // namespace wavernn
