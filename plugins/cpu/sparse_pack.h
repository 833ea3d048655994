// Finds blocks of zeros in a matrix, and packs the others; see sparse.h.
#pragma once

#include <algorithm>
#include <vector>

#include "arena.h"
#include "description.h"
#include "rows.h"

namespace wavernn {

// Rows and columns of a block.
struct BlockShape {
    int rows, columns;
};

inline BlockShape block_shape(int zeros) {
    return zeros == ROWS16 ? BlockShape{16, 1} : zeros == ROWS4 ? BlockShape{4, 1} : BlockShape{1, 4};
}

// Share of a matrix's blocks that have a weight other than zero. Blocks begin at multiples of their size in each gate.
inline double occupied_share(const MatrixDescription& d, bool gates, int zeros) {
    const BlockShape shape = block_shape(zeros);
    const int parts = gates ? GATES : 1, rows = d.rows / parts;
    long long blocks = 0, occupied = 0;
    for (int part = 0; part < parts; ++part) {
        for (int row = 0; row < rows; row += shape.rows) {
            for (int column = 0; column < d.columns; column += shape.columns) {
                bool any = false;
                for (int r = row; r < std::min(row + shape.rows, rows) && !any; ++r) {
                    const float* weights = d.weight + (static_cast<size_t>(part) * rows + r) * d.columns;
                    for (int k = column; k < std::min(column + shape.columns, d.columns); ++k) {
                        any = any || weights[k] != 0.0f;
                    }
                }
                ++blocks;
                occupied += any;
            }
        }
    }
    return static_cast<double>(occupied) / static_cast<double>(blocks);
}

// The kind of blocks whose product is fastest, or DENSE. The same on every machine, as COLUMNS4 has other bits.
//
// Measured against dense float32 on Zen 4, hidden 256 and 512, AVX-512 and AVX2: half of the 16 x 1 blocks, 1.5 to 2.1 times
// as fast for one stream and 1.2 to 2.2 for eight; a fifth of the 4 x 1 or 1 x 4 blocks, 1.3 to 2.7 and 0.9 to 2.0; of
// three tenths, 1.0 to 1.8 and 0.7 to 1.5.
inline int choose_zeros(const MatrixDescription& d, bool gates) {
    if (occupied_share(d, gates, ROWS16) <= 0.5) {
        return ROWS16;
    }
    const double rows = occupied_share(d, gates, ROWS4), columns = occupied_share(d, gates, COLUMNS4);
    if (std::min(rows, columns) > 0.2) {
        return DENSE;
    }
    return rows <= columns ? ROWS4 : COLUMNS4;
}

struct ListEntry {
    uint16_t column;
    float weights[16];
};

// Lists of a matrix's units in the order of packed rows; `keep` also keeps blocks of zeros.
inline void pack_sparse(const MatrixDescription& d, bool gates, int zeros, bool keep, const Path& path, Matrix& m,
                        Arena& arena) {
    const BlockShape shape = block_shape(zeros);
    const int rows = path.block_rows, block_units = rows / shape.rows;
    m.zeros = zeros;
    m.bundle = zeros == ROWS16 ? (gates ? GATES : 4) : 1;
    m.units = zeros == ROWS16 ? m.bundle * block_units : zeros == ROWS4 ? 4 : 8;
    const size_t units = static_cast<size_t>(m.blocks) * block_units;
    std::vector<std::vector<ListEntry>> lists(units);
    for (size_t unit = 0; unit < units; ++unit) {
        for (int column = 0; column < d.columns; column += shape.columns) {
            ListEntry entry = {static_cast<uint16_t>(column), {}};
            bool any = keep;
            for (int r = 0; r < shape.rows; ++r) {
                const int row = natural_row(static_cast<int>(unit) * shape.rows + r, d.rows, gates, rows);
                for (int k = column; row >= 0 && k < std::min(column + shape.columns, d.columns); ++k) {
                    const float weight = d.weight[static_cast<size_t>(row) * d.columns + k];
                    entry.weights[r * shape.columns + k - column] = weight;
                    any = any || weight != 0.0f;
                }
            }
            if (any) {
                lists[unit].push_back(entry);
            }
        }
    }
    // Rows with lists of similar length share a bundle.
    std::vector<size_t> order(units);
    for (size_t unit = 0; unit < units; ++unit) {
        order[unit] = unit;
    }
    if (zeros == COLUMNS4) {
        uint8_t* places = arena.take<uint8_t>(units);
        for (size_t block = 0; block < units; block += block_units) {
            std::stable_sort(order.begin() + block, order.begin() + block + block_units,
                             [&lists](size_t a, size_t b) { return lists[a].size() < lists[b].size(); });
            for (int i = 0; i < block_units; ++i) {
                places[block + i] = static_cast<uint8_t>(order[block + i] - block);
            }
        }
        m.order = places;
    }
    const size_t bundles = (units + m.units - 1) / m.units;
    uint32_t* begins = arena.take<uint32_t>(bundles + 1);
    for (size_t bundle = 0; bundle < bundles; ++bundle) {
        size_t longest = 0;
        for (size_t i = bundle * m.units; i < std::min(units, (bundle + 1) * m.units); ++i) {
            longest = std::max(longest, lists[order[i]].size());
        }
        begins[bundle + 1] = begins[bundle] + static_cast<uint32_t>(longest);
    }
    const size_t width = static_cast<size_t>(shape.rows) * shape.columns;
    const size_t entries = static_cast<size_t>(begins[bundles]) * m.units;
    m.stored = m.stored_bytes = 0;
    for (const std::vector<ListEntry>& list : lists) {
        m.stored += static_cast<long long>(list.size() * width);
        m.stored_bytes += static_cast<long long>(list.size() * (width * sizeof(float) + sizeof(uint16_t)));
    }
    uint16_t* indices = arena.take<uint16_t>(entries);
    float* values = arena.take<float>(entries * width);
    for (size_t i = 0; i < units; ++i) {
        const std::vector<ListEntry>& list = lists[order[i]];
        for (size_t entry = 0; entry < list.size(); ++entry) {
            const size_t at = (begins[i / m.units] + entry) * m.units + i % m.units;
            indices[at] = list[entry].column;
            std::copy(list[entry].weights, list[entry].weights + width, values + at * width);
        }
    }
    m.lists = begins;
    m.indices = indices;
    m.values = values;
}

}  // namespace wavernn
