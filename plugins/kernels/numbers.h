// The types of weights and operands, and their conversion to and from float.
#pragma once

#include "block.h"

namespace wavernn {

// The name of float for WAVERNN_NUMBER.
using Float = float;

struct Half {
    unsigned short bits;
};

struct BFloat16 {
    unsigned short bits;
};

// Weights with four bits of exponent and three of mantissa, without infinities, in half of the memory of fp16. Shifted
// to a half, the value is 256 times smaller; the scale of the row contains this factor.
struct E4M3 {
    unsigned char bits;
};

// Bytes that a thread reads at once.
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

// Rounds to the nearest, ties to even. NaN is treated apart: its payload could carry into an infinity.
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
