/* Puts the wall clock of one process and its children, for clocks.py. The monotonic clock stays as it is, and so does
   the time of the kernel's own time-outs, to which absolute ones are brought back. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

/* Deadlines of the monotonic clock count from the machine's start, and are far smaller. */
#define FIRST_WALL_TIME 1000000000

static const volatile long *ahead;
static int (*real_clock_gettime)(clockid_t, struct timespec *);
static int (*real_wait)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
static int (*real_c11_wait)(cnd_t *, mtx_t *, const struct timespec *);

__attribute__((constructor)) static void begin(void) {
    int file = open(getenv("CLOCK_AHEAD"), O_RDONLY);
    ahead = mmap(NULL, sizeof *ahead, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    real_wait = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    real_c11_wait = dlsym(RTLD_NEXT, "cnd_timedwait");
}

int clock_gettime(clockid_t id, struct timespec *now) {
    if (!real_clock_gettime) begin();
    int failed = real_clock_gettime(id, now);
    if (!failed && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) now->tv_sec += *ahead;
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

int timespec_get(struct timespec *now, int base) {
    clock_gettime(CLOCK_REALTIME, now);
    return base;
}

time_t time(time_t *now) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (now) *now = exact.tv_sec;
    return exact.tv_sec;
}

static struct timespec for_the_kernel(struct timespec deadline) {
    if (deadline.tv_sec > FIRST_WALL_TIME) deadline.tv_sec -= *ahead;
    return deadline;
}

int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict deadline) {
    if (!real_wait) begin();
    struct timespec kernel = for_the_kernel(*deadline);
    return real_wait(condition, mutex, &kernel);
}

int cnd_timedwait(cnd_t *restrict condition, mtx_t *restrict mutex, const struct timespec *restrict deadline) {
    if (!real_c11_wait) begin();
    struct timespec kernel = for_the_kernel(*deadline);
    return real_c11_wait(condition, mutex, &kernel);
}
