// One thread's work on a group of rows.
//
// The same bits: each 256 of a row's own cells form a segment with its scores, their maximum, weights, and the weighted
// sum of values. Segments are added up in order. Rows that see the same cells of a block of 64 are computed together.
#pragma once

#include "attention_rows.h"

#ifdef SARAI_LANES

#include <algorithm>
#include <cfloat>

#include "ggml-cpu-impl.h"

namespace sarai {
namespace {

// Memory shared by all threads, then memory of one thread.
struct room {
    row_view * views;
    float * segment_sums;  // of each row, head and segment, if segments are units

    int32_t * lists;  // of cells, for the rows of a group that need one
    char * queries;
    char * keys;
    float * key_rows;
    float * values;
    float * scores;
    float * bias;
    float * parts;  // a segment's sums, by query
    float * sums;   // of all segments so far
};

// Lays out the memory of all threads up to `thread`, whose pointers end up in `r`. Returns its end.
template <class Keys> uintptr_t lay_out(const job & job, int thread, uintptr_t at, room & r) {
    auto take = [&at](auto *& place, size_t count) {
        at = GGML_PAD(at, 64);
        place = reinterpret_cast<std::remove_reference_t<decltype(place)>>(at);
        at += count * sizeof *place;
    };
    take(r.views, job.rows);
    take(r.segment_sums, job.by_segments ? job.rows * job.heads * job.segments() * job.sum_floats() : 0);
    for (int i = 0; i <= thread; i++) {
        take(r.lists, max_lists * job.cells);
        take(r.queries, job.queries() * Keys::query_bytes(job.key_size));
        take(r.keys, Keys::block_bytes(job.key_size));
        take(r.key_rows, LANES * job.key_size);
        take(r.values, block_cells * job.value_size);
        take(r.scores, job.queries() * segment_cells);
        take(r.bias, segment_cells);
        take(r.parts, job.queries() * job.sum_floats());
        take(r.sums, job.queries() * job.sum_floats());
    }
    return at;
}

// Adds a segment's sums to those of the previous segments, both rescaled to the larger maximum.
void add_segment(float * sums, const float * part, int64_t n) {
    const float maximum = std::max(sums[n], part[n]);
    const floats both = first(1, broadcast(sums[n] - maximum), broadcast(part[n] - maximum));
    float factors[LANES];
    store(factors, exp_of_negative(both));
    const floats old = broadcast(factors[0]), added = broadcast(factors[1]);
    for (int64_t d = 0; d < n; d += LANES) {
        store(sums + d, fma(load(part + d), added, load(sums + d) * old));
    }
    sums[n] = maximum;
    sums[n + 1] = std::fma(part[n + 1], factors[1], sums[n + 1] * factors[0]);
}

void clear_sums(float * sums, int64_t n) {
    std::fill(sums, sums + n, 0.0f);
    sums[n] = -FLT_MAX;
    sums[n + 1] = 0.0f;
}

void write_result(const float * sums, int64_t n, float * out) {
    const floats inverse = broadcast(sums[n + 1] == 0.0f ? 0.0f : 1.0f / sums[n + 1]);
    for (int64_t d = 0; d < n; d += LANES) {
        store(out + d, load(sums + d) * inverse);
    }
}

// Returns the place of one segment's sums until all segments are done.
float * segment_sums(const job & job, const room & room, int64_t row, int64_t head, int64_t segment) {
    return room.segment_sums + ((row * job.heads + head) * job.segments() + segment) * job.sum_floats();
}

// One thread's work.
template <class Keys> class worker {
  public:
    worker(const job & job, const room & room)
        : job_(job), room_(room), size_(job.value_size), stride_(job.sum_floats()) {}

    // Starts another group of rows: lists its cells.
    void begin(const row_group & group) {
        group_ = group;
        int32_t * list = room_.lists;
        for (int64_t row = group.first; row < group.end; row++) {
            if (row + 1 == group.end || !continues(room_.views, row + 1)) {
                list_cells(job_, row, list);
                lists_[row - group.first] = list;
                list += job_.cells;
            }
        }
    }

    // Computes segments [first, end) for all rows of the group and some key heads.
    void compute(int64_t first_head, int64_t end_head, int64_t first, int64_t end) {
        first_head_ = first_head, end_head_ = end_head;
        for_queries([&](int64_t i) {
            Keys::prepare(job_.query_of(row_of(i), head_of(i)), job_.key_size, query(i));
            clear_sums(sums(i), size_);
        });
        // All heads of a segment before the next one: a cell's heads are contiguous in the cache.
        for (int64_t segment = first; segment < end; segment++) {
            for (key_head_ = first_head; key_head_ < end_head; key_head_++) {
                find_weights(segment);
                add_up_values(segment);
                keep_sums(segment);
            }
        }
        for_queries([&](int64_t i) {
            if (!job_.by_segments) {
                write_result(sums(i), size_, job_.result_of(row_of(i), head_of(i)));
            }
        });
    }

  private:
    // The queries of a key head are numbered row by row.
    int64_t queries_before(int64_t row) const { return (row - group_.first) * job_.sharing; }
    int64_t n_queries() const { return queries_before(group_.end); }
    int64_t row_of(int64_t i) const { return group_.first + i / job_.sharing; }
    int64_t head_of(int64_t i) const { return key_head_ * job_.sharing + i % job_.sharing; }
    int64_t place_of(int64_t i) const { return (key_head_ - first_head_) * n_queries() + i; }
    char * query(int64_t i) const { return room_.queries + place_of(i) * Keys::query_bytes(job_.key_size); }
    float * sums(int64_t i) const { return room_.sums + place_of(i) * stride_; }

    template <class F> void for_queries(F f) {
        for (key_head_ = first_head_; key_head_ < end_head_; key_head_++) {
            for (int64_t i = 0; i < n_queries(); i++) {
                f(i);
            }
        }
    }

    // Return how many of a row's own cells are in a block, and in a segment.
    int64_t cells_in(int64_t block, int64_t row) const {
        return std::clamp<int64_t>(room_.views[row].count - block * block_cells, 0, block_cells);
    }
    int64_t cells_in_segment(int64_t segment, int64_t row) const {
        return std::clamp<int64_t>(room_.views[row].count - segment * segment_cells, 0, segment_cells);
    }
    float * scores(int64_t i, int64_t block) const {
        return room_.scores + i * segment_cells + block * block_cells % segment_cells;
    }

    // Calls f(block, first, last, cells) for each block of a segment and the rows `first` to `last` that see the same
    // cells of it, as far as they see any; the last row sees all of them. Head `next_head` of `next` is read after the
    // segment's last block of `tensor`, and prefetched for that.
    template <class F>
    void for_blocks(int64_t segment, const ggml_tensor * tensor, const ggml_tensor * next, int64_t next_head,
                    F f) const {
        constexpr int64_t n = segment_cells / block_cells;
        cache_rows cells;
        for (int64_t block = segment * n; block < (segment + 1) * n; block++) {
            for (int64_t row = group_.first, last; row < group_.end; row = last + 1) {
                last = row;
                if (cells_in(block, row) == 0) {
                    continue;
                }
                while (last + 1 < group_.end && alike(block, last)) {
                    last++;
                }
                cells.count = find_cells(tensor, key_head_, block, last, cells.rows);
                const bool more = (block + 1) % n != 0 && cells_in(block + 1, last) > 0;
                const ggml_tensor * then = more ? tensor : next;
                const int64_t then_head = more ? key_head_ : next_head, then_block = more ? block + 1 : segment * n;
                cells.next_count = find_cells(then, then_head, then_block, last, cells.next);
                cells.next_bytes = ggml_row_size(then->type, then->ne[0]);
                f(block, row, last, cells);
            }
        }
    }

    // Returns whether the row after `row` sees the same cells of a block, or more.
    bool alike(int64_t block, int64_t row) const {
        const int64_t end = std::min<int64_t>(room_.views[row].count, (block + 1) * block_cells);
        return common_cells(room_.views, row + 1) >= end;
    }

    // Finds a row's cells in a block, padded to a whole vector with the last cell; returns their number.
    int64_t find_cells(const ggml_tensor * tensor, int64_t key_head, int64_t block, int64_t row,
                       const char ** rows) const {
        const char * head = static_cast<const char *>(tensor->data) + key_head * tensor->nb[2] +
                            row / job_.rows_of_stream * tensor->nb[3];
        const int32_t * list = lists_[row - group_.first] + block * block_cells;
        const int64_t count = cells_in(block, row);
        for (int64_t c = 0; c < GGML_PAD(count, LANES); c++) {
            rows[c] = head + list[std::min(c, count - 1)] * tensor->nb[1];
        }
        return count;
    }

    void find_weights(int64_t segment) const {
        const int64_t block_0 = segment * segment_cells / block_cells;
        auto find_scores = [&](int64_t block, int64_t first, int64_t last, const cache_rows & cells) {
            const int64_t i = queries_before(first), n = queries_before(last + 1) - i;
            Keys::pack(cells, job_.key_size, job_.read_key, room_.key_rows, room_.keys);
            score<Keys>(query(i), n, room_.keys, cells.count, job_.key_size, scores(i, block));
        };
        for_blocks(segment, job_.k, job_.v, key_head_, find_scores);
        for (int64_t i = 0; i < n_queries(); i++) {
            const int64_t count = cells_in_segment(segment, row_of(i));
            if (count > 0) {
                float * part = room_.parts + i * stride_;
                weigh(scores(i, block_0), count, job_.scale, bias_of(row_of(i), segment), part + size_);
            }
        }
    }

    // Returns the mask's values for a segment of a biased row, else null.
    const float * bias_of(int64_t row, int64_t segment) const {
        if (!room_.views[row].biased) {
            return nullptr;
        }
        const int32_t * list = lists_[row - group_.first] + segment * segment_cells;
        for (int64_t c = 0; c < cells_in_segment(segment, row); c++) {
            room_.bias[c] = half_to_float(job_.mask_of(row)[list[c]]);
        }
        return room_.bias;
    }

    void add_up_values(int64_t segment) const {
        for (int64_t i = 0; i < n_queries(); i++) {
            std::fill_n(room_.parts + i * stride_, size_, 0.0f);
        }
        const int64_t next_head = std::min(key_head_ + 1, job_.key_heads - 1);
        auto add = [&](int64_t block, int64_t first, int64_t last, const cache_rows & cells) {
            job_.read_value(cells, 0, cells.count, size_, room_.values);
            for (int64_t row = first, next; row <= last; row = next) {
                const int64_t count = cells_in(block, row), i = queries_before(row);
                next = row + 1;
                while (next <= last && cells_in(block, next) == count) {
                    next++;
                }
                add_values(scores(i, block), queries_before(next) - i, room_.values, count, size_,
                           room_.parts + i * stride_, stride_);
            }
        };
        for_blocks(segment, job_.v, job_.k, next_head, add);
    }

    void keep_sums(int64_t segment) const {
        for (int64_t i = 0; i < n_queries(); i++) {
            const float * part = room_.parts + i * stride_;
            if (cells_in_segment(segment, row_of(i)) == 0) {
                continue;
            }
            if (job_.by_segments) {
                std::copy_n(part, stride_, segment_sums(job_, room_, row_of(i), head_of(i), segment));
            } else {
                add_segment(sums(i), part, size_);
            }
        }
    }

    const job & job_;
    const room & room_;
    const int64_t size_, stride_;
    row_group group_ = {};
    int64_t first_head_ = 0, end_head_ = 0, key_head_ = 0;
    const int32_t * lists_[max_queries] = {};
};

}  // namespace
}  // namespace sarai

#endif
