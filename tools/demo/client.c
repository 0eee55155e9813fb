/*
 * client.c - the load of `make demo`.
 *
 *     client PORT CONNECTIONS SECONDS
 *
 * Opens all connections, then lets each send a message of 64 bytes and the next one when the answer has come. Every byte of
 * every answer is checked: a message names its connection and its number, so that no answer passes for another's. Prints how
 * many answers came in a second and how long they took, from the write to the last byte.
 */
#define AIOLOOP_IMPLEMENTATION
#include "../../aioloop.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#define MESSAGE_SIZE 64

struct connection {
    aioloop_transport *transport;
    uint64_t number;
    aioloop_time sent;
    size_t received;
    unsigned char message[MESSAGE_SIZE];
};

static long wanted, opened, lost;
static uint64_t answers, wrong;
static bool draining;
static aioloop_time begun, ended, duration;
static struct connection *connections;

/* ---- latency: a count for each range of times; 32 ranges for each power of two, so 3 % wide ---- */

#define SUB_BITS 5
#define SUB (1u << SUB_BITS)
static uint64_t counts[(64 - SUB_BITS + 1) * SUB];
static uint64_t longest;

static unsigned range_of(uint64_t ns) {
    unsigned shift = 0;
    while ((ns >> shift) >= 2 * SUB)
        shift++;
    return shift * SUB + (unsigned)(ns >> shift);
}

static double range_end(unsigned range) {
    unsigned shift = range < 2 * SUB ? 0 : range / SUB - 1;
    return (double)(range - shift * SUB + 1) * (double)((uint64_t)1 << shift);
}

static void record(aioloop_time ns) {
    uint64_t value = ns < 0 ? 0 : (uint64_t)ns;
    counts[range_of(value)]++;
    if (value > longest)
        longest = value;
}

static double percentile(double percent) {
    double below = 0;
    for (unsigned i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        below += (double)counts[i];
        if (below >= (double)answers * percent / 100.0)
            return range_end(i) < (double)longest ? range_end(i) : (double)longest;
    }
    return (double)longest;
}

static void print_time(double ns) {
    if (ns < 1e6)
        printf("%7.0f us", ns / 1e3);
    else
        printf("%7.2f ms", ns / 1e6);
}

/* A bar for each step of 1, 2, 5, 10 ... */
static void print_bars(void) {
    static const double steps[] = {1, 2, 5};
    uint64_t bars[24];
    double ends[24];
    uint64_t most = 1;
    int first = 24, last = -1;
    double power = 1e4;
    memset(bars, 0, sizeof(bars));
    for (int k = 0; k < 24; k++) { /* from 10 us */
        ends[k] = steps[k % 3] * power;
        power *= k % 3 == 2 ? 10 : 1;
    }
    for (unsigned i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        int k = 0;
        while (ends[k] < range_end(i) && k < 23)
            k++;
        bars[k] += counts[i];
    }
    for (int k = 0; k < 24; k++) {
        if (bars[k] == 0)
            continue;
        first = k < first ? k : first;
        last = k;
        most = bars[k] > most ? bars[k] : most;
    }
    for (int k = first; k <= last; k++) {
        int width = (int)((double)bars[k] * 50.0 / (double)most + 0.5);
        printf("  up to ");
        print_time(ends[k]);
        printf(" %6.2f %% ", (double)bars[k] * 100.0 / (double)answers);
        for (int i = 0; i < width; i++)
            putchar('#');
        putchar('\n');
    }
}

/* ---- the protocol ---- */

static void send_next(struct connection *c, aioloop_time now) {
    uint64_t head[2];
    head[0] = (uint64_t)(c - connections);
    head[1] = ++c->number;
    memcpy(c->message, head, sizeof(head));
    for (size_t i = sizeof(head); i < MESSAGE_SIZE; i++)
        c->message[i] = (unsigned char)(head[0] * 31 + head[1] * 7 + i);
    c->received = 0;
    c->sent = now;
    if (aioloop_transport_write(c->transport, c->message, MESSAGE_SIZE) < 0)
        aioloop_transport_abort(c->transport);
}

static void load_received(aioloop_transport *transport, void *self, const void *data, size_t size) {
    struct connection *c = (struct connection *)self;
    aioloop_time now;
    if (size > MESSAGE_SIZE - c->received || memcmp(c->message + c->received, data, size) != 0) {
        wrong++;
        aioloop_transport_abort(transport);
        return;
    }
    c->received += size;
    if (c->received < MESSAGE_SIZE)
        return;
    now = aioloop_now(aioloop_transport_get_loop(transport));
    record(now - c->sent);
    answers++;
    if (draining)
        aioloop_transport_close(transport);
    else
        send_next(c, now);
}

static void load_lost(aioloop_transport *transport, void *self, int error) {
    aioloop *loop = aioloop_transport_get_loop(transport);
    (void)self;
    if (error < 0 || !draining)
        wrong++;
    if (++lost == wanted) {
        ended = aioloop_now(loop);
        aioloop_stop(loop);
    }
}

static const aioloop_protocol load = {.data_received = load_received, .connection_lost = load_lost};

/* ---- the course of it ---- */

static void drain(aioloop *loop, void *arg) {
    (void)loop;
    (void)arg;
    draining = true; /* each connection closes with its next answer */
}

static void begin(aioloop *loop, void *arg) {
    aioloop_timer_handle timer = aioloop_call_later(loop, duration, drain, NULL);
    (void)arg;
    if (aioloop_handle_is_null(&timer.handle)) {
        aioloop_raise(loop, AIOLOOP_EFATAL, "out of memory");
        return;
    }
    begun = aioloop_now(loop);
    for (long i = 0; i < wanted; i++)
        send_next(&connections[i], aioloop_now(loop));
}

static void connected(aioloop_future *future, void *arg) {
    aioloop *loop = aioloop_future_get_loop(future);
    struct connection *c = (struct connection *)arg;
    if (aioloop_future_result(future, &c->transport) < 0)
        aioloop_raise(loop, AIOLOOP_EFATAL, "%s", aioloop_error_message(aioloop_future_error(future)));
    else if (++opened == wanted) /* a moment for the server to look at its memory */
        aioloop_call_later(loop, AIOLOOP_MS(200), begin, NULL);
}

static int run(aioloop *loop, int port) {
    aioloop_connection_options options = AIOLOOP_ZERO;
    options.timeout = AIOLOOP_SECONDS(20);
    for (long i = 0; i < wanted; i++) {
        int error = aioloop_future_then(
            aioloop_create_connection(loop, &load, &connections[i], "127.0.0.1", port, &options), connected,
            &connections[i]);
        if (error < 0)
            return error;
    }
    return aioloop_run_forever(loop);
}

int main(int argc, char **argv) {
    struct rlimit files;
    double seconds;
    int error;
    aioloop *loop = aioloop_new_event_loop(NULL);
    wanted = argc > 2 ? atol(argv[2]) : 1000;
    duration = aioloop_seconds(argc > 3 ? atof(argv[3]) : 3);
    connections = (struct connection *)calloc((size_t)wanted, sizeof(*connections));
    if (argc < 2 || wanted < 1 || connections == NULL || loop == NULL) {
        fprintf(stderr, "usage: client PORT CONNECTIONS SECONDS\n");
        return 2;
    }
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    error = run(loop, atoi(argv[1]));
    if (error < 0) {
        fprintf(stderr, "client: %s\n", aioloop_error_message(aioloop_last_error(loop)));
        return 1;
    }
    seconds = (double)(ended - begun) / 1e9;
    printf("connections          %ld, one message of %d bytes under way on each\n", opened, MESSAGE_SIZE);
    printf("requests per second  %.0f (%llu in %.2f s)\n", (double)answers / seconds, (unsigned long long)answers, seconds);
    printf("answers checked      %llu, %llu wrong\n", (unsigned long long)answers, (unsigned long long)wrong);
    printf("latency              p50 ");
    print_time(percentile(50));
    printf("   p90 ");
    print_time(percentile(90));
    printf("   p99 ");
    print_time(percentile(99));
    printf("   p99.9 ");
    print_time(percentile(99.9));
    printf("   max ");
    print_time((double)longest);
    printf("\n");
    print_bars();
    for (long i = 0; i < wanted; i++)
        aioloop_transport_unref(connections[i].transport);
    aioloop_free(loop);
    free(connections);
    return wrong != 0;
}
