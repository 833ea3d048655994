// Packs weights once, at load, in the order in which the products read them.
//
// Rows are in blocks of `block_rows`, padded with zeros. In matrices of gates, a block of units has three blocks of rows:
// reset, update and new gate of these units. A block holds for each column the weights of its rows:
//   float     [K, rows]
//   bfloat16  [K, rows / 2 vectors, lanes, 2]: two vectors share words
//   int8      [K / c, rows, c]: c columns of a row are neighbours, 2 or 4
#pragma once

#include <math.h>
#include <string.h>

#include "arena.h"
#include "description.h"
#include "rows.h"
#include "sparse_pack.h"

namespace wavernn {

// Rounds to the nearest, ties to even.
inline uint16_t to_bfloat16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

inline float row_scale(const float* row, int columns) {
    float largest = 0.0f;
    for (int k = 0; k < columns; ++k) {
        largest = fabsf(row[k]) > largest ? fabsf(row[k]) : largest;
    }
    const float scale = largest / 127.0f;
    return scale >= 1.17549435e-38f ? scale : 1.0f;  // as export/grids.py
}

inline int8_t to_code(float weight, float scale) {
    const float code = nearbyintf(weight / scale);
    return static_cast<int8_t>(code < -127.0f ? -127.0f : code > 127.0f ? 127.0f : code);
}

// Codes of activations of 1.0, a power of two up to 2^14, with which no row's sum leaves 32 bits.
inline float largest_activation_code(const MatrixDescription& d) {
    long long most = 1;
    for (int row = 0; row < d.rows; ++row) {
        const float* weights = d.weight + static_cast<size_t>(row) * d.columns;
        const float scale = row_scale(weights, d.columns);
        long long sum = 0;
        for (int k = 0; k < d.columns; ++k) {
            const int code = to_code(weights[k], scale);
            sum += code < 0 ? -code : code;
        }
        most = sum > most ? sum : most;
    }
    float code = 16384.0f;
    while (static_cast<double>(code) * static_cast<double>(most) > 2147483647.0) {
        code /= 2;
    }
    return code;
}

inline Matrix pack(const MatrixDescription& d, bool gates, const Path& path, Arena& arena) {
    Matrix m = {};
    if (!d.weight) {
        return m;
    }
    const int rows = path.block_rows, lanes = path.lanes;
    const int zeros = d.arithmetic == INT8_INT8 ? DENSE : d.zeros == -1 ? choose_zeros(d, gates) : d.zeros;
    const bool integers = zeros == DENSE && (d.arithmetic == INT8_INT16 || d.arithmetic == INT8_INT8);
    m.arithmetic = d.arithmetic;
    const int group = integers ? path.integer_columns : 1;
    m.columns = (d.columns + group - 1) / group * group;
    const int units = gates ? d.rows / GATES : d.rows;
    m.blocks = (units + rows - 1) / rows * (gates ? GATES : 1);
    const size_t bytes = d.arithmetic == FLOAT32 ? 4 : d.arithmetic == BFLOAT16 ? 2 : 1;
    m.block_bytes = bytes * m.columns * rows;
    m.bundle = 1;
    m.stored = static_cast<long long>(d.rows) * d.columns;
    m.stored_bytes = m.stored * static_cast<long long>(bytes);
    const size_t packed_rows = static_cast<size_t>(m.blocks) * rows;
    float* bias = arena.take<float>(packed_rows);
    m.bias = bias;
    if (zeros != DENSE) {
        for (size_t packed = 0; packed < packed_rows; ++packed) {
            const int row = natural_row(static_cast<int>(packed), d.rows, gates, rows);
            bias[packed] = d.bias && row >= 0 ? d.bias[row] : 0.0f;
        }
        m.arithmetic = FLOAT32;
        pack_sparse(d, gates, zeros == -2 ? static_cast<int>(COLUMNS4) : zeros, zeros == -2, path, m, arena);
        return m;
    }
    unsigned char* weights = arena.take<unsigned char>(m.block_bytes * m.blocks);
    float* scales = integers ? arena.take<float>(packed_rows) : nullptr;
    int32_t* sums = integers ? arena.take<int32_t>(packed_rows) : nullptr;
    for (size_t packed = 0; packed < packed_rows; ++packed) {
        const int row = natural_row(static_cast<int>(packed), d.rows, gates, rows);
        if (row < 0) {
            continue;
        }
        const float* from = d.weight + static_cast<size_t>(row) * d.columns;
        const size_t lane = packed % rows;
        unsigned char* block = weights + packed / rows * m.block_bytes;
        bias[packed] = d.bias ? d.bias[row] : 0.0f;
        const float scale = integers ? row_scale(from, d.columns) : 1.0f;
        if (integers) {
            scales[packed] = scale;
        }
        for (int k = 0; k < d.columns; ++k) {
            if (d.arithmetic == FLOAT32) {
                reinterpret_cast<float*>(block)[static_cast<size_t>(k) * rows + lane] = from[k];
            } else if (d.arithmetic == BFLOAT16) {
                const size_t at = lane / (2 * lanes) * (2 * lanes) + lane % lanes * 2 + lane / lanes % 2;
                reinterpret_cast<uint16_t*>(block)[static_cast<size_t>(k) * rows + at] = to_bfloat16(from[k]);
            } else {
                const int8_t code = to_code(from[k], scale);
                reinterpret_cast<int8_t*>(block)[(static_cast<size_t>(k / group) * rows + lane) * group + k % group] = code;
                sums[packed] += code;
            }
        }
    }
    m.weights = weights;
    m.scales = scales;
    m.sums = sums;
    m.activation_scale = d.arithmetic == INT8_INT16  ? largest_activation_code(d)
                         : d.arithmetic == INT8_INT8 ? d.activation_scale
                                                     : 0.0f;
    return m;
}

// Copies `parts` rows of `width` numbers, each padded with zeros to `padded`; zeros if there are none.
inline const float* pad(const float* from, size_t parts, size_t width, size_t padded, Arena& arena) {
    float* to = arena.take<float>(parts * padded);
    for (size_t part = 0; from && part < parts; ++part) {
        memcpy(to + part * padded, from + part * width, sizeof(float) * width);
    }
    return to;
}

}  // namespace wavernn
