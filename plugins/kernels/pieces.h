// A lane's piece of a patch: eight neighbouring numbers of a row, converted to operands of a tensor core.
#pragma once

#include "patch.h"

namespace wavernn {

// The type of the operands in products with weights of a type.
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

// Packs two operands into a word, the first in the lower half.
template <typename Number>
DEVICE unsigned pair(float first, float second) {
    return static_cast<unsigned>(narrow<Number>(first).bits) | static_cast<unsigned>(narrow<Number>(second).bits) << 16;
}

// Converts four e4m3 numbers to halfs: the sign stays the highest bit, exponent and mantissa move down by one bit.
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

// Read a piece from an aligned address: constant_piece from constant global memory, kept_piece from shared memory.
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

// Copies a lane's piece of a row to shared memory, in its stored type.
template <typename Weight>
DEVICE void keep_piece(Weight* kept, const Weight* address) {
    if constexpr (sizeof(Weight) == 2) {
        store_words(kept, load_constant_words(address));
    } else {
        unsigned eight[2];
        load_constant_two(address, eight);
        store_two(kept, eight);
    }
}

// Sets a piece in shared memory to zero.
template <typename Weight>
DEVICE void clear_piece(Weight* kept) {
    if constexpr (sizeof(Weight) == 2) {
        store_words(kept, Words{{0, 0, 0, 0}});
    } else {
        const unsigned nothing[2] = {0, 0};
        store_two(kept, nothing);
    }
}

}  // namespace wavernn
