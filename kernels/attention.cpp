// Attention over the cache of keys and values.
//
// The same bits: a row's result is a function of the row and of its own cells in order, whatever else is in the batch
// or in the cache, and however the work is split (attention_worker.h).
//
// A unit of work, which a free thread takes, is some key heads of a group of rows. If that makes too few units for the
// threads, each segment of cells is a unit, and segments are added when all are done.
#include "attention.h"

#include "attention_worker.h"

#ifdef SARAI_LANES

namespace sarai {
namespace {

// Returns the number of key heads in a unit of work: as many as fit and leave about four units for each thread.
int64_t heads_of_unit(const job & job, const room & room, int64_t n_threads) {
    int64_t units = 0, longest = 1;
    for (row_group group = group_from(job, room.views, 0); group.first < job.rows;
         group = group_from(job, room.views, group.end)) {
        units += job.key_heads * (job.by_segments ? group.segments : 1);
        longest = std::max(longest, group.end - group.first);
    }
    const int64_t fit = max_queries / (longest * job.sharing);
    return std::clamp<int64_t>(std::min(fit, units / (4 * n_threads)), 1, job.key_heads);
}

// Computes units of work until none is left: some key heads of a group, or of one of its segments.
template <class Keys> void work(const ggml_compute_params * params, const job & job, const room & room) {
    worker<Keys> worker(job, room);
    const int64_t n_heads = heads_of_unit(job, room, params->nth);
    const int64_t head_parts = (job.key_heads + n_heads - 1) / n_heads;
    int64_t unit = params->ith, begin = 0;
    for (row_group group = group_from(job, room.views, 0); group.first < job.rows;
         group = group_from(job, room.views, group.end)) {
        const int64_t end = begin + head_parts * (job.by_segments ? group.segments : 1);
        if (unit < end) {
            worker.begin(group);
        }
        for (; unit < end; unit = ggml_threadpool_chunk_add(params->threadpool, 1)) {
            const int64_t head = (unit - begin) % head_parts * n_heads, segment = (unit - begin) / head_parts;
            worker.compute(head, std::min(head + n_heads, job.key_heads), segment,
                           job.by_segments ? segment + 1 : group.segments);
        }
        begin = end;
    }
}

// Adds up the segments for this thread's share of rows and heads.
void add_segments(const ggml_compute_params * params, const job & job, const room & room) {
    for (int64_t i = params->ith; i < job.rows * job.heads; i += params->nth) {
        const int64_t row = i / job.heads, head = i % job.heads;
        clear_sums(room.sums, job.value_size);
        for (int64_t segment = 0; segment * segment_cells < room.views[row].count; segment++) {
            add_segment(room.sums, segment_sums(job, room, row, head, segment), job.value_size);
        }
        write_result(room.sums, job.value_size, job.result_of(row, head));
    }
}

template <class Keys> void compute(const ggml_compute_params * params, const ggml_tensor * node) {
    const job job(node, params->nth);
    room room;
    lay_out<Keys>(job, params->ith, reinterpret_cast<uintptr_t>(params->wdata), room);
    for (int64_t row = params->ith; row < job.rows; row += params->nth) {
        room.views[row] = look_at(job, row);
    }
    if (params->ith == 0) {
        ggml_threadpool_chunk_set(params->threadpool, params->nth);
    }
    ggml_barrier(params->threadpool);
    work<Keys>(params, job, room);
    if (job.by_segments) {
        ggml_barrier(params->threadpool);
        add_segments(params, job, room);
    }
}

// Calls f with the class that unpacks a node's keys.
template <class F> auto with_keys([[maybe_unused]] const ggml_tensor * node, F f) {
    if constexpr (VNNI) {
        if (node->src[1]->type == GGML_TYPE_Q8_0) {
            return f(byte_keys());
        }
    }
    return f(float_keys());
}

bool readable(const ggml_tensor * cache) {
    return reader_of(cache->type) != nullptr && cache->ne[0] % 16 == 0 && cache->nb[0] == ggml_type_size(cache->type);
}

}  // namespace

bool attention_takes(const ggml_tensor * node) {
    const ggml_tensor *q = node->src[0], *k = node->src[1], *v = node->src[2], *mask = node->src[3];
    float max_bias, soft_cap;
    memcpy(&max_bias, node->op_params + 1, sizeof(float));
    memcpy(&soft_cap, node->op_params + 2, sizeof(float));
    return q->type == GGML_TYPE_F32 && q->nb[0] == sizeof(float) && readable(k) && readable(v) &&
           q->ne[2] % k->ne[2] == 0 && k->ne[2] == v->ne[2] && k->ne[3] == q->ne[3] && v->ne[3] == q->ne[3] &&
           (mask == nullptr || (mask->type == GGML_TYPE_F16 && mask->ne[2] == 1)) && node->src[4] == nullptr &&
           max_bias == 0.0f && soft_cap == 0.0f;
}

size_t attention_work_bytes(const ggml_tensor * node, int n_threads) {
    const job job(node, n_threads);
    return with_keys(node, [&](auto keys) {
        room room;
        return lay_out<decltype(keys)>(job, n_threads - 1, 64, room);
    });
}

void attention(const ggml_compute_params * params, ggml_tensor * node) {
    with_keys(node, [&](auto keys) { compute<decltype(keys)>(params, node); });
}

}  // namespace sarai

#else

namespace sarai {

bool attention_takes(const ggml_tensor * /* node */) { return false; }
size_t attention_work_bytes(const ggml_tensor * /* node */, int /* n_threads */) { return 0; }
void attention(const ggml_compute_params * /* params */, ggml_tensor * /* node */) {}

}  // namespace sarai

#endif
