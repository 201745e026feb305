// Enough of CUDA for one block of threads after another on the host: the text of the kernels runs as it stands, with the host's arithmetic.
// Threads are contexts that take turns: each goes on to its next meeting, then the one after it.
#include <cmath>
#include <cstring>
#include <ucontext.h>

#define __global__
#define __device__
#define __shared__ static

constexpr unsigned THREADS = 256;
struct Place { unsigned x; };
static Place gridDim{3}, blockDim{THREADS}, blockIdx, threadIdx;
static ucontext_t home, threads[THREADS];
static char stacks[THREADS][1 << 14];
static bool over[THREADS];
static unsigned told[THREADS];

static void __syncthreads() { swapcontext(&threads[threadIdx.x], &home); }
static unsigned __shfl_xor_sync(unsigned, unsigned mine, int lanes)
{
    told[threadIdx.x] = mine;
    __syncthreads();
    unsigned other = told[threadIdx.x ^ lanes];
    __syncthreads();
    return other;
}
static void atomicMax(unsigned *place, unsigned value) { *place = *place < value ? value : *place; }
static unsigned max(unsigned a, unsigned b) { return a < b ? b : a; }
static unsigned __float_as_uint(float x) { unsigned bits; std::memcpy(&bits, &x, 4); return bits; }
static float __uint_as_float(unsigned bits) { float x; std::memcpy(&x, &bits, 4); return x; }
using std::rint;

// what the device has instructions for
static unsigned short to_float16(float x) { _Float16 h = x; unsigned short bits; std::memcpy(&bits, &h, 2); return bits; }
static float from_float16(unsigned short bits) { _Float16 h; std::memcpy(&h, &bits, 2); return h; }

template <typename Kernel> static void launch(Kernel given)
{
    static Kernel *kernel;
    kernel = &given;
    void (*body)() = [] { (*kernel)(); over[threadIdx.x] = true; };
    for (blockIdx.x = 0; blockIdx.x < gridDim.x; blockIdx.x++) {
        for (unsigned i = 0; i < THREADS; i++) {
            getcontext(&threads[i]);
            threads[i].uc_stack.ss_sp = stacks[i];
            threads[i].uc_stack.ss_size = sizeof stacks[i];
            threads[i].uc_link = &home;
            makecontext(&threads[i], body, 0);
            over[i] = false;
        }
        for (unsigned left = THREADS; left;)
            for (unsigned i = 0; i < THREADS; i++)
                if (!over[i]) {
                    threadIdx.x = i;
                    swapcontext(&home, &threads[i]);
                    left -= over[i];
                }
    }
}
