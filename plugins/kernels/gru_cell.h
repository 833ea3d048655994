// A GRU cell without its input product, in one launch; the reference is wavernn_trt.plugins.reference.gru_cell.
#pragma once

#include "gates.h"
#include "group.h"
#include "gru_arguments.h"
#include "product.h"

namespace wavernn {

// Columns of the operands that are in shared memory at once. A multiple of every VECTOR.
constexpr int GRU_COLUMNS = 1024;

// Copies columns [first, first + GRU_COLUMNS) of a tile's states to shared memory as operands, with zeros after the
// last column. Streams after the last one of the batch repeat the last one; their results are dropped.
template <int Streams, typename Number>
DEVICE void stage_states(const Block& block, const GruArguments& a, int first_stream, int first, Number* operands) {
    for (int i = block.thread(); i < Streams * GRU_COLUMNS; i += block.threads()) {
        const int stream = min(first_stream + i / GRU_COLUMNS, a.batch - 1);
        const int column = first + i % GRU_COLUMNS;
        const bool inside = column < a.hidden_size;
        const long long at = static_cast<long long>(stream) * a.hidden_size + column;
        operands[i] = narrow<Number>(inside ? a.hidden[at] : 0.0f);
    }
}

// Each warp computes one unit for a tile of streams; a block's warps share the tile's states.
template <typename Number, int Streams>
DEVICE void gru_cell(const Block& block, const GruArguments& a) {
    const int size = a.hidden_size;
    const Number* weight = static_cast<const Number*>(a.recurrent_weight);
    Number* operands = reinterpret_cast<Number*>(block.shared());
    const int first_stream = block.rank() / a.unit_blocks * Streams;
    const Span units = share_of(size, block.rank() % a.unit_blocks, a.unit_blocks);
    const bool aligned = rows_are_aligned(weight, size);
    // All warps run the same number of iterations, because there are barriers inside.
    for (int base = 0; base < units.count; base += block.warps()) {
        const int unit = units.first + min(base + block.warp(), units.count - 1);
        float sums[3][Streams];
        clear(sums);
        for (int first = 0; first < size; first += GRU_COLUMNS) {
            block.sync();
            stage_states<Streams>(block, a, first_stream, first, operands);
            block.sync();
            RowsOfMatrix<Number, 3> rows;
#pragma unroll
            for (int gate = 0; gate < 3; ++gate) {
                rows.row[gate] = weight + (static_cast<long long>(gate) * size + unit) * size + first;
            }
            rows.length = min(size - first, GRU_COLUMNS);
            rows.aligned = aligned;
            add_products(block, rows, operands, GRU_COLUMNS, sums);
        }
        reduce(block, sums);
        for_held_streams<Streams>(block, [&](int place, int i) {
            const int stream = first_stream + place;
            if (stream < a.batch && base + block.warp() < units.count) {
                const float* gates = a.gates + static_cast<long long>(stream) * 3 * size + unit;
                const Gates input = {gates[0], gates[size], gates[2 * size]};
                const Gates recurrent = {
                    sums[0][i] + a.recurrent_bias[unit],
                    sums[1][i] + a.recurrent_bias[size + unit],
                    sums[2][i] + a.recurrent_bias[2 * size + unit]};
                const long long at = static_cast<long long>(stream) * size + unit;
                a.next_hidden[at] = gru_update(input, recurrent, a.hidden[at]);
            }
        });
    }
}

}  // namespace wavernn
