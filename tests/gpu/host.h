// Enough of CUDA for a block of threads on the host: the text of the kernels runs as it stands, with the host's arithmetic.
#include <barrier>
#include <cmath>
#include <cstring>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __shared__ static

constexpr int THREADS = 256;
struct { unsigned x; } gridDim{3}, blockDim{THREADS}, blockIdx;
thread_local struct { unsigned x; } threadIdx;
static std::barrier<> meeting(THREADS);
static unsigned told[THREADS];

static void __syncthreads() { meeting.arrive_and_wait(); }
static unsigned __shfl_xor_sync(unsigned, unsigned mine, int lanes)
{
    told[threadIdx.x] = mine;
    __syncthreads();
    unsigned other = told[threadIdx.x ^ lanes];
    __syncthreads();
    return other;
}
static void atomicMax(unsigned *place, unsigned value)
{
    unsigned before = __atomic_load_n(place, __ATOMIC_SEQ_CST);
    while (before < value && !__atomic_compare_exchange_n(place, &before, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {}
}
static unsigned max(unsigned a, unsigned b) { return a < b ? b : a; }
static unsigned __float_as_uint(float x) { unsigned bits; std::memcpy(&bits, &x, 4); return bits; }
static float __uint_as_float(unsigned bits) { float x; std::memcpy(&x, &bits, 4); return x; }
using std::rint;

// what the device has instructions for
static unsigned short to_float16(float x) { _Float16 h = x; unsigned short bits; std::memcpy(&bits, &h, 2); return bits; }
static float from_float16(unsigned short bits) { _Float16 h; std::memcpy(&h, &bits, 2); return h; }

template <typename Kernel> static void launch(Kernel kernel)
{
    for (blockIdx.x = 0; blockIdx.x < gridDim.x; blockIdx.x++) {
        std::vector<std::thread> threads;
        for (unsigned i = 0; i < THREADS; i++) threads.emplace_back([=] { threadIdx.x = i; kernel(); });
        for (auto &thread : threads) thread.join();
    }
}
