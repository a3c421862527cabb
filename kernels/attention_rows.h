// Which cells each row of attention sees, and which rows see the same ones.
//
// A row's own cells are those that the mask shows. They are numbered 0, 1, 2 and so on, wherever they are. Rows that
// share their first cells form a group: a prompt, speculative tokens, forks of one prefix.
#pragma once

#include "attention_tiles.h"

#ifdef SARAI_LANES

#include <algorithm>

namespace sarai {
namespace {

constexpr int64_t max_queries = 64;  // at once: more would not fit into L2 together with the keys and values
constexpr int64_t max_lists = 8;     // lists of cells in a group

// What a row sees.
struct row_view {
    int32_t count;   // number of its own cells
    int32_t common;  // how many of them, from the first on, the previous row begins with as well
    bool biased;     // whether the mask has values other than 0 and -infinity
};

struct row_group {
    int64_t first, end;
    int64_t segments;  // of its longest row
};

// A node: its tensors, its sizes, and how it is split.
struct job {
    const ggml_tensor *q, *k, *v, *mask, *out;
    int64_t key_size, value_size, cells;
    int64_t heads, key_heads, sharing;  // `sharing` heads use one key head
    int64_t rows_of_stream, rows;
    float scale;
    row_reader read_key, read_value;
    int64_t group_rows;  // most rows in a group
    bool by_segments;    // whether a segment is a unit of work

    job(const ggml_tensor * node, int64_t n_threads)
        : q(node->src[0]), k(node->src[1]), v(node->src[2]), mask(node->src[3]), out(node), key_size(k->ne[0]),
          value_size(v->ne[0]), cells(k->ne[1]), heads(q->ne[2]), key_heads(k->ne[2]), sharing(heads / key_heads),
          rows_of_stream(q->ne[1]), rows(q->ne[1] * q->ne[3]), read_key(reader_of(k->type)),
          read_value(reader_of(v->type)) {
        memcpy(&scale, node->op_params, sizeof scale);
        // About four units for each thread, so that all finish at about the same time.
        const int64_t units = rows * key_heads, most = std::max<int64_t>(max_queries / sharing, 1);
        group_rows = std::min((units + 4 * n_threads - 1) / (4 * n_threads), most);
        by_segments = units < 8 * n_threads;
    }

    int64_t queries() const { return std::max(max_queries, sharing); }  // most queries in a unit of work
    int64_t segments() const { return (cells + segment_cells - 1) / segment_cells; }
    int64_t sum_floats() const { return value_size + LANES; }  // the weighted sum, followed by maximum and total

    const uint16_t * mask_of(int64_t row) const {
        const int64_t stream = row / rows_of_stream;
        const char * data = static_cast<const char *>(mask->data);
        return (const uint16_t *) (data + row % rows_of_stream * mask->nb[1] + stream % mask->ne[3] * mask->nb[3]);
    }
    const float * query_of(int64_t row, int64_t head) const {
        const char * data = static_cast<const char *>(q->data);
        const int64_t in_stream = row % rows_of_stream, stream = row / rows_of_stream;
        return (const float *) (data + in_stream * q->nb[1] + head * q->nb[2] + stream * q->nb[3]);
    }
    float * result_of(int64_t row, int64_t head) const {
        return (float *) (static_cast<char *>(out->data) + (row * heads + head) * out->nb[1]);
    }
};

// Returns a bit for each of the 32 (or fewer) values from `from` on that differs from `value`.
inline uint32_t others_than(uint16_t value, const uint16_t * mask, int64_t from, int64_t n) {
    if (from + 32 <= n) {
        return ~equal_halves(mask + from, value);
    }
    uint32_t bits = 0;
    for (int64_t i = from; i < n; i++) {
        bits |= uint32_t(mask[i] != value) << (i - from);
    }
    return bits;
}

// Returns a bit for each of 32 cells that a row sees.
inline uint32_t own_cells(const job & job, const uint16_t * mask, int64_t from) {
    constexpr uint16_t half_minus_infinity = 0xfc00;
    if (mask != nullptr) {
        return others_than(half_minus_infinity, mask, from, job.cells);
    }
    return from + 32 <= job.cells ? ~0u : (1u << (job.cells - from)) - 1;
}

inline row_view look_at(const job & job, int64_t row) {
    if (job.mask == nullptr) {
        return {int32_t(job.cells), int32_t(job.cells), false};
    }
    const uint16_t * mask = job.mask_of(row);
    const uint16_t * before = job.mask_of(row % job.rows_of_stream > 0 ? row - 1 : row);
    row_view view = {0, -1, false};
    for (int64_t c = 0; c < job.cells; c += 32) {
        const uint32_t own = own_cells(job, mask, c);
        view.biased |= (own & others_than(0, mask, c, job.cells)) != 0;
        if (view.common < 0) {
            const uint32_t differ = own ^ own_cells(job, before, c);
            if (differ != 0) {
                view.common = view.count + __builtin_popcount(own & (differ - 1) & ~differ);
            }
        }
        view.count += __builtin_popcount(own);
    }
    view.common = view.common < 0 ? view.count : view.common;
    return view;
}

// Returns how many leading cells a row has in common with the previous one. A biased row forms its own group.
inline int64_t common_cells(const row_view * views, int64_t row) {
    return views[row].biased || views[row - 1].biased ? 0 : views[row].common;
}

// Returns whether a row begins with all cells of the previous one, so that one list serves both.
inline bool continues(const row_view * views, int64_t row) { return common_cells(views, row) == views[row - 1].count; }

// The group that begins with row `first`; an empty one behind the last row.
inline row_group group_from(const job & job, const row_view * views, int64_t first) {
    const int64_t next_stream = (first / job.rows_of_stream + 1) * job.rows_of_stream;
    const int64_t limit = std::min({next_stream, first + job.group_rows, job.rows});
    int64_t end = first, n_lists = 1, longest = 0;
    for (; end < limit; end++) {
        if (end > first && !continues(views, end)) {
            if (common_cells(views, end) < block_cells || ++n_lists > max_lists) {
                break;
            }
        }
        longest = std::max<int64_t>(longest, views[end].count);
    }
    return {first, end, (longest + segment_cells - 1) / segment_cells};
}

// Lists a row's own cells.
inline void list_cells(const job & job, int64_t row, int32_t * list) {
    const uint16_t * mask = job.mask == nullptr ? nullptr : job.mask_of(row);
    for (int64_t c = 0; c < job.cells; c += 32) {
        for (uint32_t own = own_cells(job, mask, c); own != 0; own &= own - 1) {
            *list++ = int32_t(c + __builtin_ctz(own));
        }
    }
}

}  // namespace
}  // namespace sarai

#endif
