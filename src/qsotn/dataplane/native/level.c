/* Which instructions this processor has beyond those that every one of its kind has. */
#include "kernel.h"
#include "vector.h"

enum level kernel_level = PORTABLE;

void crc_initialise(void);
void crc_initialise_folding(void);
void otu_initialise(void);
void fec_initialise(void);

enum level kernel_supported(void)
{
#ifdef QSOTN_X86
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("pclmul"))
        return PORTABLE;
    const int wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                     __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vbmi") &&
                     __builtin_cpu_supports("avx512vbmi2");
    const int multiplies = __builtin_cpu_supports("gfni") && __builtin_cpu_supports("vpclmulqdq");
    return wide && multiplies ? AVX512 : AVX2;
#else
    return PORTABLE;
#endif
}

void kernel_initialise(void)
{
    crc_initialise();
#ifdef QSOTN_X86
    crc_initialise_folding();
#endif
    otu_initialise();
    fec_initialise();
    kernel_level = kernel_supported();
}
