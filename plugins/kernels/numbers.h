// The types that weights and operands are stored in, and how they become float.
#pragma once

#include "block.h"

namespace wavernn {

// float under the name that a precision is selected by.
using Float = float;

struct Half {
    unsigned short bits;
};

struct BFloat16 {
    unsigned short bits;
};

// Four bits of exponent and three of mantissa, without infinities, as weights that take half of fp16's room. As
// operands they are halfs, 256 times smaller: a row's scale makes up for it.
struct E4M3 {
    unsigned char bits;
};

// Sixteen bytes, which is what a thread reads at once.
constexpr int VECTOR_BYTES = 16;

template <typename Number>
constexpr int VECTOR = VECTOR_BYTES / static_cast<int>(sizeof(Number));

DEVICE float widen(float value) { return value; }

DEVICE float widen(BFloat16 value) { return float_of_bits(static_cast<unsigned>(value.bits) << 16); }

DEVICE float widen(Half value) { return float_of_half(value.bits); }

template <typename Number>
DEVICE Number narrow(float value);

template <>
DEVICE float narrow<float>(float value) {
    return value;
}

template <>
DEVICE Half narrow<Half>(float value) {
    return Half{half_of_float(value)};
}

// To the nearest, ties to even. A NaN whose payload fills the lower half would be carried into an infinity.
template <>
DEVICE BFloat16 narrow<BFloat16>(float value) {
    const unsigned bits = bits_of_float(value);
    const unsigned rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
    return BFloat16{static_cast<unsigned short>(value != value ? (bits >> 16 | 0x40u) : rounded)};
}

DEVICE void unpack(const Words& words, float (&values)[4], float) {
    for (int i = 0; i < 4; ++i) {
        values[i] = float_of_bits(words.word[i]);
    }
}

DEVICE void unpack(const Words& words, float (&values)[8], Half) {
    for (int i = 0; i < 4; ++i) {
        values[2 * i] = float_of_half(static_cast<unsigned short>(words.word[i] & 0xffffu));
        values[2 * i + 1] = float_of_half(static_cast<unsigned short>(words.word[i] >> 16));
    }
}

DEVICE void unpack(const Words& words, float (&values)[8], BFloat16) {
    for (int i = 0; i < 4; ++i) {
        values[2 * i] = float_of_bits(words.word[i] << 16);
        values[2 * i + 1] = float_of_bits(words.word[i] & 0xffff0000u);
    }
}

// Reads VECTOR numbers from an address that is a multiple of VECTOR_BYTES.
template <typename Number>
DEVICE void read_vector(const Number* address, float (&values)[VECTOR<Number>]) {
    unpack(load_words(address), values, Number{});
}

// Whether every row of a matrix in memory begins at a multiple of VECTOR_BYTES.
template <typename Number>
DEVICE bool rows_are_aligned(const Number* matrix, int columns) {
    return columns % VECTOR<Number> == 0 && address_of(matrix) % VECTOR_BYTES == 0;
}

}  // namespace wavernn
