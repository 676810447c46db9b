// What the processor's vector units can do when nothing else is to be done: the instructions of an
// inner loop on registers alone, 24 independent sums, as the kernels have them. AVX-512 on x86-64.
#include <cstdint>

#if defined(__x86_64__)
#define TARGET __attribute__((target("avx512f,avx512vnni,avx512vpopcntdq")))

// Each macro is one step of one sum; rounds alternate between two inputs.
#define BITS(sum) "vpandd %%zmm24,%%zmm25,%%zmm26\n vpopcntd %%zmm26,%%zmm26\n vpaddd %%zmm26,%%zmm" sum ",%%zmm" sum "\n"
#define BYTES(sum) "vpdpbusd %%zmm24,%%zmm25,%%zmm" sum "\n"
#define FLOATS(sum) "vfmadd231ps %%zmm24,%%zmm25,%%zmm" sum "\n"
#define ALL(step)                                                                                              \
  step("0") step("1") step("2") step("3") step("4") step("5") step("6") step("7") step("8") step("9") step("10") \
  step("11") step("12") step("13") step("14") step("15") step("16") step("17") step("18") step("19") step("20")  \
  step("21") step("22") step("23")
#define CLOBBERED                                                                                                 \
  "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12",        \
      "xmm13", "xmm14", "xmm15", "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24",   \
      "xmm25", "xmm26"

extern "C" {
int peak_is_supported() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vnni") &&
         __builtin_cpu_supports("avx512vpopcntdq");
}
// Each returns the multiply-accumulates that `rounds` rounds stand for.
TARGET int64_t peak_bits(int64_t rounds) {
  for (int64_t i = 0; i < rounds; ++i) asm volatile(ALL(BITS)::: CLOBBERED);
  return rounds * 24 * 512;
}
TARGET int64_t peak_bytes(int64_t rounds) {
  for (int64_t i = 0; i < rounds; ++i) asm volatile(ALL(BYTES)::: CLOBBERED);
  return rounds * 24 * 64;
}
TARGET int64_t peak_floats(int64_t rounds) {
  for (int64_t i = 0; i < rounds; ++i) asm volatile(ALL(FLOATS)::: CLOBBERED);
  return rounds * 24 * 16;
}
}
#else
extern "C" int peak_is_supported() { return 0; }
#endif
