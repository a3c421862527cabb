// The integration into ggml: a buffer type for weights, and the nodes of a graph that this project computes.
//
// ggml asks each "extra" buffer type of its CPU backend two things: which weights it wants to hold in its own layout,
// and which nodes it computes (traits.h). Ours comes before ggml's own repacking one. It uses the entry of Arm's
// KleidiAI, which is unused on x86: compiled with GGML_USE_CPU_KLEIDIAI (llama_cpp.cmake), ggml-cpu.cpp calls
// `ggml_backend_cpu_kleidiai_buffer_type`. So llama.cpp's sources are not changed.
//
// The environment variable SARAI_KERNELS is read once, when the backend starts. `off` leaves everything to ggml. `all`
// also multiplies by weights that stay in ggml's layout, by packing them for one product at a time: a library that
// allocates its own weights, like the one of the vision tower, knows nothing of our buffer type.
//
// A file of weights may also be in our layout already (skills/skill_draft/engine/packed_copy.py writes such copies). It is
// mapped and used in place: nothing is packed on loading, and processes that map it share its memory. `sarai_map_packed`
// says where it is.

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string_view>
#include <thread>
#include <vector>

#include "attention.h"
#include "ggml-backend-impl.h"
#include "ggml-cpu-impl.h"
#include "ggml-cpu.h"
#include "kleidiai/kleidiai.h"
#include "matrix.h"
#include "traits.h"

namespace sarai {
namespace {

constexpr size_t ALIGNMENT = 64;

// Where a file with packed weights is mapped: its first byte, and the one after its last.
std::atomic<const char *> mapped_begin = nullptr, mapped_end = nullptr;

// From this number of rows on, it pays to pack weights for one product.
constexpr int64_t WORTH_PACKING_ROWS = 32;

int64_t n_tiles(const matrix_type & type, int64_t columns) { return (columns + type.tile - 1) / type.tile; }

size_t packed_bytes(const matrix_type & type, const ggml_tensor * weights) {
    return n_tiles(type, weights->ne[1]) * type.tile_bytes(weights->ne[0]);
}

// Returns the type of these weights if we can hold them: a contiguous matrix that is not a view.
const matrix_type * type_for(const ggml_tensor * weights) {
    if (ggml_n_dims(weights) > 2 || weights->view_src != nullptr || !ggml_is_contiguous(weights)) {
        return nullptr;
    }
    const matrix_type * type = block_type(weights->type);
    return type != nullptr ? type : superblock_type(weights->type);
}

// Packs one tile of weights, whose rows in the file's layout begin at `data`.
void pack(const matrix_type & type, const ggml_tensor * weights, const void * data, int64_t tile, void * packed) {
    const int64_t begin = tile * type.tile, count = std::min(type.tile, weights->ne[1] - begin);
    type.pack(static_cast<const char *>(data) + begin * weights->nb[1], count, weights->ne[0], packed);
}

char * aligned(void * p) { return reinterpret_cast<char *>(GGML_PAD(reinterpret_cast<uintptr_t>(p), ALIGNMENT)); }

char * row_of(const ggml_tensor * t, int64_t row) {
    const int64_t i1 = row % t->ne[1], i2 = row / t->ne[1] % t->ne[2], i3 = row / (t->ne[1] * t->ne[2]);
    return static_cast<char *>(t->data) + i1 * t->nb[1] + i2 * t->nb[2] + i3 * t->nb[3];
}

// Bytes of all quantized rows of activations of a product.
size_t rows_bytes(const matrix_type & type, const ggml_tensor * node) {
    return ggml_nrows(node->src[1]) * type.row_bytes(node->src[1]->ne[0]);
}

// Multiplies rows of activations by the tiles of a matrix. `take(begin, end, multiply)` is called for ranges of tiles; it
// calls `multiply(packed, begin, end)` with those tiles, packed.
template <typename Take>
void multiply_tiles(const matrix_type & type, ggml_compute_params * params, ggml_tensor * node, Take take) {
    const ggml_tensor * activations = node->src[1];
    const int64_t k = node->src[0]->ne[0], columns = node->src[0]->ne[1], n_rows = ggml_nrows(activations);
    const size_t row_bytes = type.row_bytes(k);

    char * rows = aligned(params->wdata);
    for (int64_t row = params->ith; row < n_rows; row += params->nth) {
        type.quantize(reinterpret_cast<const float *>(row_of(activations, row)), k, rows + row * row_bytes);
    }
    if (params->ith == 0) {
        ggml_threadpool_chunk_set(params->threadpool, params->nth);
    }
    ggml_barrier(params->threadpool);

    auto multiply = [&](const void * packed, int64_t begin, int64_t end) {
        const int64_t last = std::min(type.tile, columns - (end - 1) * type.tile);
        type.multiply(packed, end - begin, last, rows, n_rows, k,
                      static_cast<float *>(node->data) + begin * type.tile, columns);
    };
    // Four chunks a thread; each free thread takes the next one.
    const int64_t tiles = n_tiles(type, columns), chunks = 4 * params->nth;
    const int64_t chunk = params->nth == 1 ? tiles : std::max<int64_t>(1, (tiles + chunks - 1) / chunks);
    for (int64_t begin = params->ith * chunk; begin < tiles;
         begin = ggml_threadpool_chunk_add(params->threadpool, 1) * chunk) {
        take(begin, std::min(begin + chunk, tiles), multiply);
    }
}

// Multiplies by weights that are packed, and reads single columns of them.
class matrix_traits final : public ggml::cpu::tensor_traits {
  public:
    explicit matrix_traits(const matrix_type & type) : type(type) {}

    bool work_size(int /* n_threads */, const ggml_tensor * node, size_t & size) override {
        size = node->op == GGML_OP_MUL_MAT ? rows_bytes(type, node) + ALIGNMENT : 0;
        return true;
    }

    bool compute_forward(ggml_compute_params * params, ggml_tensor * node) override {
        if (node->op == GGML_OP_MUL_MAT) {
            multiply(params, node);
        } else {
            get_rows(params, node);
        }
        return true;
    }

    const matrix_type & type;

  private:
    void multiply(ggml_compute_params * params, ggml_tensor * node) const {
        const ggml_tensor * weights = node->src[0];
        const size_t tile_bytes = type.tile_bytes(weights->ne[0]);
        multiply_tiles(type, params, node, [&](int64_t begin, int64_t end, auto multiply) {
            multiply(static_cast<const char *>(weights->data) + begin * tile_bytes, begin, end);
        });
    }

    void get_rows(ggml_compute_params * params, ggml_tensor * node) const {
        const ggml_tensor * weights = node->src[0];
        const ggml_tensor * wanted = node->src[1];
        const int64_t k = weights->ne[0];
        for (int64_t row = params->ith; row < ggml_nrows(node); row += params->nth) {
            const char * at = row_of(wanted, row / wanted->ne[0]) + row % wanted->ne[0] * wanted->nb[0];
            const int64_t column = *reinterpret_cast<const int32_t *>(at);
            GGML_ASSERT(column >= 0 && column < weights->ne[1]);
            const char * tile = static_cast<const char *>(weights->data) + column / type.tile * type.tile_bytes(k);
            type.unpack(tile, column % type.tile, k, reinterpret_cast<float *>(row_of(node, row)));
        }
    }
};

// Multiplies by weights in ggml's layout. Each thread packs one tile at a time, for all rows.
class unpacked_traits final : public ggml::cpu::tensor_traits {
  public:
    explicit unpacked_traits(const matrix_type & type) : type(type) {}

    bool work_size(int n_threads, const ggml_tensor * node, size_t & size) override {
        size = rows_bytes(type, node) + n_threads * room(node) + ALIGNMENT;
        return true;
    }

    bool compute_forward(ggml_compute_params * params, ggml_tensor * node) override {
        const ggml_tensor * weights = node->src[0];
        char * packed = aligned(params->wdata) + rows_bytes(type, node) + params->ith * room(node);
        multiply_tiles(type, params, node, [&](int64_t begin, int64_t end, auto multiply) {
            for (int64_t i = begin; i < end; i++) {
                pack(type, weights, weights->data, i, packed);
                multiply(packed, i, i + 1);
            }
        });
        return true;
    }

    const matrix_type & type;

  private:
    size_t room(const ggml_tensor * node) const { return GGML_PAD(type.tile_bytes(node->src[0]->ne[0]), ALIGNMENT); }
};

class attention_traits final : public ggml::cpu::tensor_traits {
    bool work_size(int n_threads, const ggml_tensor * node, size_t & size) override {
        size = attention_work_bytes(node, n_threads);
        return true;
    }

    bool compute_forward(ggml_compute_params * params, ggml_tensor * node) override {
        if (params->use_ref) {
            return false;
        }
        attention(params, node);
        return true;
    }
};

// Returns the traits for a type: one object each, never freed, as tensors refer to it. Several threads may ask at once.
template <typename Traits> Traits * traits_of(const matrix_type & type) {
    static std::mutex mutex;
    static std::vector<Traits *> all;
    const std::lock_guard<std::mutex> lock(mutex);
    auto known = std::find_if(all.begin(), all.end(), [&](const Traits * one) { return &one->type == &type; });
    return known != all.end() ? *known : all.emplace_back(new Traits(type));
}

ggml_status init_tensor(ggml_backend_buffer_t /* buffer */, ggml_tensor * tensor) {
    const matrix_type * type = type_for(tensor);
    tensor->extra = type != nullptr ? traits_of<matrix_traits>(*type) : nullptr;
    return GGML_STATUS_SUCCESS;
}

void set_tensor(ggml_backend_buffer_t /* buffer */, ggml_tensor * tensor, const void * data, size_t offset,
                size_t size) {
    GGML_ASSERT(offset == 0 && size == ggml_nbytes(tensor) && tensor->extra != nullptr);
    const matrix_type & type = static_cast<const matrix_traits *>(tensor->extra)->type;
    const int64_t tiles = n_tiles(type, tensor->ne[1]);

    auto pack_range = [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++) {
            pack(type, tensor, data, i, static_cast<char *>(tensor->data) + i * type.tile_bytes(tensor->ne[0]));
        }
    };
    // Loading a model waits for this, so two threads pack a large matrix.
    if (size < (size_t(1) << 22)) {
        pack_range(0, tiles);
    } else {
        std::thread half(pack_range, 0, tiles / 2);
        pack_range(tiles / 2, tiles);
        half.join();
    }
}

const char * get_name(ggml_backend_buffer_type_t /* buft */) { return "SARAi"; }

size_t get_alignment(ggml_backend_buffer_type_t /* buft */) { return ALIGNMENT; }

size_t get_alloc_size(ggml_backend_buffer_type_t /* buft */, const ggml_tensor * tensor) {
    const matrix_type * type = type_for(tensor);
    return type != nullptr ? std::max(packed_bytes(*type, tensor), ggml_nbytes(tensor)) : ggml_nbytes(tensor);
}

ggml_backend_buffer_t alloc_buffer(ggml_backend_buffer_type_t buft, size_t size) {
    ggml_backend_buffer_t buffer = ggml_backend_buft_alloc_buffer(ggml_backend_cpu_buffer_type(), size);
    if (buffer == nullptr) {
        return nullptr;
    }
    // Only with huge pages does one row of activations run at the memory's full rate. If the kernel has none, small
    // ones must do.
    const uintptr_t page = sysconf(_SC_PAGESIZE);
    const uintptr_t base = reinterpret_cast<uintptr_t>(ggml_backend_buffer_get_base(buffer));
    const uintptr_t begin = GGML_PAD(base, page), end = (base + size) / page * page;
    if (begin < end) {
        madvise(reinterpret_cast<void *>(begin), end - begin, MADV_HUGEPAGE);
    }
    buffer->buft = buft;
    buffer->iface.init_tensor = init_tensor;
    buffer->iface.set_tensor = set_tensor;
    buffer->iface.get_tensor = nullptr;
    buffer->iface.cpy_tensor = nullptr;
    return buffer;
}

class buffer_type final : public ggml::cpu::extra_buffer_type {
  public:
    ggml_backend_buffer_type * self = nullptr;
    bool also_unpacked = false;

    bool supports_op(ggml_backend_dev_t /* device */, const ggml_tensor * node) override {
        const ggml_tensor * weights = node->src[0];
        if (!holds(weights) || type_for(weights) == nullptr) {
            return false;
        }
        const ggml_tensor * other = node->src[1];
        if (other->buffer != nullptr && !ggml_backend_buft_is_host(other->buffer->buft)) {
            return false;
        }
        return node->op == GGML_OP_MUL_MAT ? other->type == GGML_TYPE_F32 : node->op == GGML_OP_GET_ROWS;
    }

    ggml::cpu::tensor_traits * get_tensor_traits(const ggml_tensor * node) override {
        if (node->op == GGML_OP_MUL_MAT || node->op == GGML_OP_GET_ROWS) {
            if (holds(node->src[0])) {
                return static_cast<ggml::cpu::tensor_traits *>(node->src[0]->extra);
            }
            if (is_mapped_packed(node->src[0])) {
                return traits_of<matrix_traits>(*type_for(node->src[0]));
            }
            return also_unpacked ? for_unpacked(node) : nullptr;
        }
        static attention_traits of_attention;
        return node->op == GGML_OP_FLASH_ATTN_EXT && attention_takes(node) ? &of_attention : nullptr;
    }

  private:
    // Returns what multiplies by weights in ggml's own layout, if this node is such a product and large enough.
    static ggml::cpu::tensor_traits * for_unpacked(const ggml_tensor * node) {
        const ggml_tensor * weights = node->src[0];
        const ggml_tensor * activations = node->src[1];
        const bool fits = node->op == GGML_OP_MUL_MAT && weights->buffer != nullptr &&
                          weights->buffer->buft == ggml_backend_cpu_buffer_type() &&
                          activations->type == GGML_TYPE_F32 && activations->nb[0] == sizeof(float) &&
                          ggml_nrows(activations) >= WORTH_PACKING_ROWS;
        const matrix_type * type = fits ? type_for(weights) : nullptr;
        return type != nullptr ? traits_of<unpacked_traits>(*type) : nullptr;
    }

    static bool is_mapped_packed(const ggml_tensor * weights) {
        const char * data = static_cast<const char *>(weights->data);
        return data >= mapped_begin && data < mapped_end && type_for(weights) != nullptr;
    }

    bool holds(const ggml_tensor * weights) const {
        return weights != nullptr && weights->buffer != nullptr && weights->buffer->buft == self;
    }
};

}  // namespace
}  // namespace sarai

ggml_backend_buffer_type_t ggml_backend_cpu_kleidiai_buffer_type(void) {
    static const char * wanted = std::getenv("SARAI_KERNELS");
    if (wanted != nullptr && std::string_view(wanted) == "off") {
        return nullptr;
    }
    static sarai::buffer_type context;
    static ggml_backend_buffer_type buft = {
        /* .iface   = */ {
            /* .get_name       = */ sarai::get_name,
            /* .alloc_buffer   = */ sarai::alloc_buffer,
            /* .get_alignment  = */ sarai::get_alignment,
            /* .get_max_size   = */ nullptr,
            /* .get_alloc_size = */ sarai::get_alloc_size,
            /* .is_host        = */ nullptr,
        },
        /* .device  = */ ggml_backend_reg_dev_get(ggml_backend_cpu_reg(), 0),
        // Cast to the base class, to which ggml casts it back.
        /* .context = */ static_cast<ggml::cpu::extra_buffer_type *>(&context),
    };
    context.self = &buft;
    context.also_unpacked = wanted != nullptr && std::string_view(wanted) == "all";
    return &buft;
}

// Declares that a file whose matrices are packed is mapped at [begin, end). The last call counts: a process has one model.
extern "C" __attribute__((visibility("default"))) void sarai_map_packed(const void * begin, const void * end) {
    sarai::mapped_end = nullptr;
    sarai::mapped_begin = static_cast<const char *>(begin);
    sarai::mapped_end = static_cast<const char *>(end);
}
