/* A wall clock that a test can step, for a process started with this library preloaded.
 *
 * It maps the file named by STEPPED_CLOCK, which has two signed numbers of microseconds: an offset
 * that is added to every reading of the wall clock, and the time at which that clock is frozen, 0
 * while it runs. CLOCK_MONOTONIC stays real, so that timers keep firing.
 * Valkey 9.1 would read the wall clock once a millisecond and use the processor's counter between;
 * it does not if it cannot read /proc/cpuinfo, so fopen() hides that file.
 *
 * The clock is read with system calls, not with the functions that this file replaces: looking those
 * up reads the clock in some allocators, before the lookup can succeed. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const int64_t *offset_us; /* followed by frozen_us */

__attribute__((constructor)) static void map_offset(void) {
    const char *path = getenv("STEPPED_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *mapped = mmap(NULL, 2 * sizeof *offset_us, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (mapped != MAP_FAILED) offset_us = mapped;
}

int clock_gettime(clockid_t clock, struct timespec *out) {
    int failed = (int)syscall(SYS_clock_gettime, clock, out);
    if (failed || !offset_us || (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE))
        return failed;
    int64_t us = __atomic_load_n(offset_us, __ATOMIC_RELAXED);
    int64_t frozen_us = __atomic_load_n(offset_us + 1, __ATOMIC_RELAXED);
    if (frozen_us) {
        out->tv_sec = frozen_us / 1000000;
        out->tv_nsec = frozen_us % 1000000 * 1000;
    }
    int64_t ns = out->tv_nsec + us % 1000000 * 1000;
    out->tv_sec += us / 1000000 + (ns >= 1000000000) - (ns < 0);
    out->tv_nsec = ns + (ns < 0 ? 1000000000 : ns >= 1000000000 ? -1000000000 : 0);
    return 0;
}

int gettimeofday(struct timeval *restrict out, void *restrict zone) {
    struct timespec now;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
    out->tv_sec = now.tv_sec;
    out->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out) {
    struct timespec now;
    if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}

FILE *fopen(const char *restrict path, const char *restrict mode) {
    static FILE *(*opens)(const char *, const char *);
    if (!strcmp(path, "/proc/cpuinfo")) return NULL;
    if (!opens) *(void **)&opens = dlsym(RTLD_NEXT, "fopen");
    return opens(path, mode);
}

FILE *fopen64(const char *restrict path, const char *restrict mode) { return fopen(path, mode); }
