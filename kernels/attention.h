// Attention over the cache of keys and values (GGML_OP_FLASH_ATTN_EXT).
#pragma once

#include <cstddef>

struct ggml_tensor;
struct ggml_compute_params;

namespace sarai {

// Returns whether we compute this node; ggml computes the others.
bool attention_takes(const ggml_tensor * node);

// Returns the bytes of working memory for all threads together.
size_t attention_work_bytes(const ggml_tensor * node, int n_threads);

// Computes this thread's part of the node. Every thread calls it.
void attention(const ggml_compute_params * params, ggml_tensor * node);

}  // namespace sarai
