// A block of activations in 8 bits, as pyroclast_kernels/q8_blocks.py lays it out.
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
    if (!std::isfinite(y[i]))
      finite = false;
    else if (std::fabs(y[i]) > largest)
      largest = std::fabs(y[i]);
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
