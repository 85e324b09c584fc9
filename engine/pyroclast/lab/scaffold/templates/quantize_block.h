// A block of activations in 8 bits, as pyroclast_kernels/q8_blocks.py lays it out.
struct Q8Block {
  float scale, sum_scaled;
  int32_t minus_8_sum, minus_128_sum;
  int8_t values[32];
  float half_scaled[2];
  int32_t minus_4_half_sum[2];
};

// Which of the levels that q8_blocks.py explains loses least; `largest` is the largest |y|.
int best_level(const float *y, float largest) {
  const float in_256ths = std::fmin(127.0f / largest, 0x1p110f) * 256.0f;
  int best = 127;
  float least = 0;
  for (int level = 127; level >= 117; level -= 2) {
    const int factor = ((level << 16) / 127 + 1) / 2;
    int sum = 0;
    for (int i = 0; i < 32; i++) {
      const int word = std::isfinite(y[i]) ? int(std::nearbyint(y[i] * in_256ths)) : 0;
      const int rest = int8_t((word * factor + (1 << 14)) >> 15);
      sum += rest * rest;
    }
    const float loss = float(sum) * (127.0f * 127.0f / float(level * level));
    if (level == 127 || loss < least) {
      best = level;
      least = loss;
    }
  }
  return best;
}

void quantize_block(const float *y, Q8Block &out) {
  float largest = 0;
  bool finite = true;
  for (int i = 0; i < 32; i++) {
    if (!std::isfinite(y[i]))
      finite = false;
    else if (std::fabs(y[i]) > largest)
      largest = std::fabs(y[i]);
  }
  const float level = float(best_level(y, largest)), quotient = level / largest;
  const float inverse = std::isfinite(quotient) ? quotient : 0.0f;  // 0 of zeros
  int sums[2] = {0, 0};
  for (int i = 0; i < 32; i++) {
    const int q = std::isfinite(y[i]) ? int(std::nearbyint(y[i] * inverse)) : 0;
    out.values[i] = int8_t(q);
    sums[i / 16] += q;
  }
  out.scale = finite ? largest / level : std::numeric_limits<float>::quiet_NaN();
  out.sum_scaled = out.scale * float(sums[0] + sums[1]);
  out.minus_8_sum = -8 * (sums[0] + sums[1]);
  out.minus_128_sum = -128 * (sums[0] + sums[1]);
  for (int i = 0; i < 2; i++) out.half_scaled[i] = out.scale * float(sums[i]);
  for (int i = 0; i < 2; i++) out.minus_4_half_sum[i] = -4 * sums[i];
}
