/*
 * bench_window.h - what the load generators share: a connection, and requests counted in a window of time after a
 * warm-up, with the processor time that the server uses meanwhile.
 */
#ifndef BENCH_WINDOW_H
#define BENCH_WINDOW_H

#define BENCH_NO_MAIN
#include "bench.h"

BENCH_FN int load_connect(const struct bench_args *args, int type) {
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)args->port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);
    bench_check(fd >= 0, "socket");
    bench_check(connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0, "connect");
    if (type == SOCK_STREAM)
        bench_nodelay(fd);
    return fd;
}

BENCH_FN int load_compare(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

enum { LOAD_SAMPLES = 4000000, LOAD_WARM_UP_NS = 200000000 };

/* What is counted, in a window of time after the warm-up. */
static struct {
    const struct bench_args *args;
    clockid_t server;
    long requests;
    uint32_t *samples;
    size_t sampled;
    int64_t begin, end, server_begin, server_end, client_begin, client_end;
    double low_cpu_us, low_wall_us; /* told if not 0 */
} load_window;

BENCH_FN void load_begin(const struct bench_args *args) {
    load_window.args = args;
    load_window.samples = (uint32_t *)bench_alloc(LOAD_SAMPLES, sizeof(uint32_t));
    /* The server's processor time by the scheduler's own account, in nanoseconds; /proc has only
     * ticks. */
    load_window.server = CLOCK_PROCESS_CPUTIME_ID;
    if (args->pid > 0)
        bench_check(clock_getcpuclockid((pid_t)args->pid, &load_window.server) == 0,
                    "clock_getcpuclockid");
}

/* The connections are there, and requests begin. The time. */
BENCH_FN int64_t load_warm_up(void) {
    int64_t now = bench_now();
    load_window.end = now + LOAD_WARM_UP_NS;
    return now;
}

/* False: the time is over. */
BENCH_FN bool load_goes_on(int64_t now) {
    if (now < load_window.end)
        return true;
    now = bench_now();
    load_window.server_end = bench_clock(load_window.server);
    load_window.client_end = bench_clock(CLOCK_PROCESS_CPUTIME_ID);
    if (load_window.begin != 0) {
        load_window.end = now;
        return false;
    }
    load_window.begin = now;
    load_window.end = now + (int64_t)(load_window.args->seconds * 1e9);
    load_window.requests = 0;
    load_window.sampled = 0;
    load_window.server_begin = load_window.server_end;
    load_window.client_begin = load_window.client_end;
    return true;
}

BENCH_FN void load_done(int64_t time) {
    if (load_window.sampled < LOAD_SAMPLES)
        load_window.samples[load_window.sampled++] = (uint32_t)time;
    load_window.requests++;
}

BENCH_FN void load_print(void) {
    double requests = (double)load_window.requests;
    double ns = (double)(load_window.end - load_window.begin);
    size_t sampled = load_window.sampled;
    const uint32_t *samples = load_window.samples;
    errno = 0;
    bench_check(load_window.requests > 0 && sampled > 0, "requests");
    qsort(load_window.samples, sampled, sizeof(*samples), load_compare);
    printf("{\"requests\": %ld, \"seconds\": %.6f, \"rate\": %.1f, \"server_cpu_us\": %.4f, "
           "\"client_cpu_us\": %.4f, \"p50_us\": %.1f, \"p99_us\": %.1f",
           load_window.requests, ns / 1e9, requests * 1e9 / ns,
           (double)(load_window.server_end - load_window.server_begin) / 1e3 / requests,
           (double)(load_window.client_end - load_window.client_begin) / 1e3 / requests,
           (double)samples[sampled / 2] / 1e3, (double)samples[sampled * 99 / 100] / 1e3);
    if (load_window.low_cpu_us > 0)
        printf(", \"low_cpu_us\": %.3f, \"low_wall_us\": %.3f", load_window.low_cpu_us, load_window.low_wall_us);
    printf("}\n");
}

#endif
