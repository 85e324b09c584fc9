"""First correct loops in C++, one for each op; they need no header of the package."""

from __future__ import annotations

from pyroclast_kernels.registry import get_op

_HEAD = """
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace {{
{helpers}
// One field of 8 bytes for each parameter of the reference, in its order.
struct Args {{
{fields}
}};

}}  // namespace

extern "C" void {op}_{format}(const void *args, int part, int n_parts) {{
  const Args &a = *static_cast<const Args *>(args);
{loop}}}
"""

_QUANTIZE = """
// A block of activations in 8 bits, as pyroclast_kernels/activations.py lays it out.
struct Q8Block {
  float scale, sum_scaled;
  int32_t minus_8_sum, minus_128_sum;
  int8_t values[32];
  float half_scaled[2];
  int32_t minus_4_half_sum[2];
};

void quantize_block(const float *y, Q8Block &out) {
  float largest = 0;
  bool finite = true;
  for (int i = 0; i < 32; i++) {
    if (!std::isfinite(y[i])) finite = false;
    else if (std::fabs(y[i]) > largest) largest = std::fabs(y[i]);
  }
  const float inverse = largest > 0 ? 127.0f / largest : 0.0f;
  int sums[2] = {0, 0};
  for (int i = 0; i < 32; i++) {
    const int q = std::isfinite(y[i]) ? int(std::nearbyint(y[i] * inverse)) : 0;
    out.values[i] = int8_t(q);
    sums[i / 16] += q;
  }
  out.scale = finite ? largest / 127.0f : std::numeric_limits<float>::quiet_NaN();
  out.sum_scaled = out.scale * float(sums[0] + sums[1]);
  out.minus_8_sum = -8 * (sums[0] + sums[1]);
  out.minus_128_sum = -128 * (sums[0] + sums[1]);
  for (int i = 0; i < 2; i++) out.half_scaled[i] = out.scale * float(sums[i]);
  for (int i = 0; i < 2; i++) out.minus_4_half_sum[i] = -4 * sums[i];
}
"""

# C types of the parameters; what is not listed is an int64_t.
_TYPES = {
    "const int64_t *": "n_tokens n_seqs",
    "const int32_t *": "rows positions seq_index block_tables seq_starts token_ids",
    "const float *": "x weight bias gate_up inv_freq table logits raw",
    "const double *": "temperatures",
    "const uint32_t *": "allowed",
    "float *": "out qkv k_cache v_cache scratch",
    "int32_t *": "counters",
    "Q8Block *": "out_q8",
    "double ": "eps",
}
# A parameter whose type depends on the op.
_TYPES_OF_OP = {
    ("softmax", "n_rows"): "const int64_t *",
    ("attention", "qkv"): "const float *",
    ("attention", "k_cache"): "const float *",
    ("attention", "v_cache"): "const float *",
    ("pack", "weight"): "float *",
}

_MINE = """\
  const int64_t n = {n};
  // This part's share; the others run at the same time, on other threads.
  for (int64_t {item} = n * part / n_parts; {item} < n * (part + 1) / n_parts; {item}++) {{
"""
_BY_TOKEN = _MINE.format(n="*a.n_tokens", item="t")

# op -> (does it need QUANTIZE, the kernel's body)
LOOPS: dict[str, tuple[bool, str]] = {
    "softmax": (
        False,
        _MINE.format(n="*a.n_rows", item="r")
        + """\
    const float *logits = a.logits + r * a.logits_stride;
    float *out = a.out + r * a.out_stride;
    const double temperature = a.temperatures ? a.temperatures[r] : 1.0;
    const uint32_t *allowed = a.allowed ? a.allowed + r * ((a.n_cols + 31) / 32) : nullptr;
    const float infinity = std::numeric_limits<float>::infinity();
    float best = -infinity;
    int64_t at = 0;
    bool is_bad = false;
    for (int64_t i = 0; i < a.n_cols; i++) {  // out may be logits itself
      float z = logits[i];
      if (a.bias) z += a.bias[i];
      if (allowed && !(allowed[i / 32] >> (i % 32) & 1)) z = -infinity;
      out[i] = z;
      is_bad |= std::isnan(z);
      if (z > best) best = z, at = i;
    }
    if (is_bad || std::isinf(best)) {  // a NaN, a +inf, or nothing finite
      for (int64_t i = 0; i < a.n_cols; i++) out[i] = std::numeric_limits<float>::quiet_NaN();
    } else if (temperature < 1e-5) {
      for (int64_t i = 0; i < a.n_cols; i++)
        out[i] = a.log ? (i == at ? 0.0f : -infinity) : (i == at ? 1.0f : 0.0f);
    } else {
      double total = 0;
      for (int64_t i = 0; i < a.n_cols; i++)
        total += std::exp((double(out[i]) - best) / temperature);
      for (int64_t i = 0; i < a.n_cols; i++) {
        const double x = (double(out[i]) - best) / temperature;
        out[i] = float(a.log ? x - std::log(total) : std::exp(x) / total);
      }
    }
  }
""",
    ),
    "norm": (
        True,
        _BY_TOKEN
        + """\
    const float *x = a.x + (a.rows ? a.rows[t] : t) * a.d_model;
    double squares = 0;
    for (int64_t i = 0; i < a.d_model; i++) squares += double(x[i] * x[i]);
    const float scale = float(1.0 / std::sqrt(squares / double(a.d_model) + a.eps));
    float y[32];
    for (int64_t i = 0; i < a.d_model; i++) {
      y[i % 32] = x[i] * scale * a.weight[i];
      if (a.out) a.out[t * a.d_model + i] = y[i % 32];
      if (a.out_q8 && i % 32 == 31) quantize_block(y, a.out_q8[(t * a.d_model + i) / 32]);
    }
  }
""",
    ),
    "glu": (
        True,
        _BY_TOKEN
        + """\
    const float *gate = a.gate_up + t * 2 * a.d_ff, *up = gate + a.d_ff;
    float y[32];
    for (int64_t i = 0; i < a.d_ff; i++) {
      // In float64 no exponential of a float32 that matters overflows.
      const double g = gate[i], u = 0.7978845608028654 * g * (1 + 0.044715 * g * g);
      const double f = a.activation == 2 ? g / 2 * std::erfc(-g * 0.7071067811865476)
                                         : g / (1 + std::exp(a.activation == 0 ? -g : -2 * u));
      y[i % 32] = float(f) * up[i];
      if (a.out) a.out[t * a.d_ff + i] = y[i % 32];
      if (a.out_q8 && i % 32 == 31) quantize_block(y, a.out_q8[(t * a.d_ff + i) / 32]);
    }
  }
""",
    ),
    "quantize": (
        True,
        _BY_TOKEN
        + """\
    for (int64_t i = 0; i < a.n_cols; i += 32)
      quantize_block(a.x + t * a.n_cols + i, a.out_q8[(t * a.n_cols + i) / 32]);
  }
""",
    ),
    "rope_table": (
        False,
        _BY_TOKEN
        + """\
    float *cosine = a.out + t * 2 * a.half_dim, *sine = cosine + a.half_dim;
    for (int64_t i = 0; i < a.half_dim; i++) {
      const double angle = double(float(a.positions[t]) * a.inv_freq[i]);
      cosine[i] = float(std::cos(angle));
      sine[i] = float(std::sin(angle));
    }
  }
""",
    ),
    "rope": (
        False,
        _BY_TOKEN
        + """\
    const int64_t half = a.head_dim / 2;
    float *q = a.qkv + t * (a.n_heads + 2 * a.n_kv_heads) * a.head_dim;
    const float *cosine = a.table + t * 2 * half, *sine = cosine + half;
    for (int64_t h = 0; h < a.n_heads + a.n_kv_heads; h++)
      for (int64_t i = 0; i < half; i++) {
        float *low = q + h * a.head_dim + i, *high = low + half;
        const float x = *low, y = *high;
        *low = x * cosine[i] - y * sine[i];
        *high = y * cosine[i] + x * sine[i];
      }
    const int64_t position = a.positions[t], slot = position % a.block_size;
    const int64_t entry = a.seq_index[t] * a.max_blocks + position / a.block_size;
    const int64_t block = a.block_tables[entry];
    for (int64_t h = 0; h < a.n_kv_heads; h++)
      for (int64_t i = 0; i < a.head_dim; i++) {
        const float *k = q + (a.n_heads + h) * a.head_dim, *v = k + a.n_kv_heads * a.head_dim;
        const int64_t head = block * a.n_kv_heads + h;
        a.k_cache[(head * a.head_dim + i) * a.block_size + slot] = k[i];
        a.v_cache[(head * a.block_size + slot) * a.value_stride + i] = v[i];
      }
  }
""",
    ),
    "matmul": (
        False,
        _MINE.format(n="a.n_rows", item="row")
        + """\
    // Weights are packed: 16 rows side by side, column after column (weights/packing.py).
    const float *weight = a.weight + row / 16 * 16 * a.n_cols + row % 16;
    for (int64_t t = 0; t < *a.n_tokens; t++) {
      float total = 0;
      for (int64_t k = 0; k < a.n_cols; k++) total += weight[k * 16] * a.x[t * a.n_cols + k];
      if (a.bias) total += a.bias[row];
      float &out = a.out[t * a.out_stride + row];
      out = a.accumulate ? out + total : total;
    }
  }
""",
    ),
    "embed": (
        False,
        _BY_TOKEN
        + """\
    // Packed: 16 rows side by side, column after column (weights/packing.py).
    const int64_t row = a.token_ids[t];
    const float *weight = a.weight + row / 16 * 16 * a.n_cols + row % 16;
    for (int64_t k = 0; k < a.n_cols; k++) a.out[t * a.n_cols + k] = weight[k * 16];
  }
""",
    ),
    "pack": (
        False,
        _MINE.format(n="a.n_rows", item="row")
        + """\
    const int64_t at = row + a.row_offset;
    for (int64_t k = 0; k < a.n_cols; k++)
      a.weight[(at / 16 * a.n_cols + k) * 16 + at % 16] = a.raw[row * a.n_cols + k];
  }
""",
    ),
    "attention": (
        True,
        _MINE.format(n="*a.n_tokens * a.n_heads", item="item")
        + """\
    const int64_t t = item / a.n_heads, h = item % a.n_heads, kv = h * a.n_kv_heads / a.n_heads;
    int64_t s = 0;
    while (a.seq_starts[s + 1] <= t) s++;
    const int64_t end = int64_t(a.positions[t]) + 1;
    const int64_t first = a.window > 0 && end > a.window ? end - a.window : 0;
    const float *q = a.qkv + (t * (a.n_heads + 2 * a.n_kv_heads) + h) * a.head_dim;
    double best = -std::numeric_limits<double>::infinity(), total = 0;
    double sums[256] = {0};  // MAX_HEAD_DIM
    for (int64_t p = first; p < end; p++) {  // one pass: rescaled when the maximum rises
      const int64_t block = a.block_tables[s * a.max_blocks + p / a.block_size];
      const int64_t slot = p % a.block_size, head = block * a.n_kv_heads + kv;
      const float *k = a.k_cache + head * a.head_dim * a.block_size + slot;
      const float *v = a.v_cache + (head * a.block_size + slot) * a.value_stride;
      double score = 0;
      for (int64_t i = 0; i < a.head_dim; i++) score += double(q[i]) * k[i * a.block_size];
      score /= std::sqrt(double(a.head_dim));
      const double higher = score > best ? score : best;
      const double shrink = std::exp(best - higher), w = std::exp(score - higher);
      best = higher;
      total = total * shrink + w;
      for (int64_t i = 0; i < a.head_dim; i++) sums[i] = sums[i] * shrink + w * v[i];
    }
    float y[256];
    for (int64_t i = 0; i < a.head_dim; i++) {
      y[i] = float(sums[i] / total);
      if (a.out) a.out[item * a.head_dim + i] = y[i];
    }
    for (int64_t i = 0; a.out_q8 && i < a.head_dim; i += 32)
      quantize_block(y + i, a.out_q8[(item * a.head_dim + i) / 32]);
  }
""",
    ),
}


def c_type(op: str, parameter: str) -> str:
    """The C type of a parameter's field, with the space or star that ends it."""
    if (op, parameter) in _TYPES_OF_OP:
        return _TYPES_OF_OP[op, parameter]
    return next((kind for kind, names in _TYPES.items() if parameter in names.split()), "int64_t ")


def body(op: str, format: str) -> str:
    """The file below its head."""
    quantizes, loop = LOOPS[op]
    return _HEAD.format(
        fields="\n".join(f"  {c_type(op, name)}{name};" for name in get_op(op).parameters),
        helpers=_QUANTIZE if quantizes else "",
        op=op,
        format=format,
        loop=loop,
    )
