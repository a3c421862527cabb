// What is not written yet: ggml's own kernels are used. Each real definition takes the place of one of these.
#include "attention.h"
#include "matrix.h"

namespace sarai {

__attribute__((weak)) const matrix_type * block_type(ggml_type) { return nullptr; }
__attribute__((weak)) const matrix_type * superblock_type(ggml_type) { return nullptr; }
__attribute__((weak)) bool attention_takes(const ggml_tensor *) { return false; }
__attribute__((weak)) size_t attention_work_bytes(const ggml_tensor *, int) { return 0; }
__attribute__((weak)) void attention(const ggml_compute_params *, ggml_tensor *) {}

}  // namespace sarai
