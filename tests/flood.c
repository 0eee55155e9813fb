/*
 * flood.c - a flood of datagrams must not keep the loop from its timers: while a thread sends a million of them, one of
 * 10 ms is to be late by no more than 5 ms.
 *
 *     flood [--datagrams N] [--size BYTES] [--limit MS]
 *
 * The sender is not held back, so what has no room at the receiver is lost, and the flood never ebbs. Prints one line. A
 * timer waits for one iteration at most, so the exit status is 1 if the longest took more processor time than that: which,
 * unlike how late the timer was, does not depend on what else the machine does.
 */
#define AIOLOOP_IMPLEMENTATION
#include "aioloop.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PERIOD AIOLOOP_MS(10)
#define SAMPLES_MAX 100000

static struct {
    long datagrams;
    long size;
    double limit;
    int port;
    aioloop *loop;
    long received;
    aioloop_time late[SAMPLES_MAX]; /* of each firing */
    aioloop_time longest;           /* iteration, in processor time */
    aioloop_time before;            /* when the last one began */
    int fired;
    bool over;
} flood = {1000000, 64, 5.0, 0, NULL, 0, {0}, 0, 0, 0, false};

static void die(const char *what) {
    fprintf(stderr, "flood: %s\n", what);
    exit(2);
}

static void received(aioloop_transport *transport, void *self, const void *data, size_t size, const aioloop_address *from) {
    (void)transport;
    (void)self;
    (void)data;
    (void)size;
    (void)from;
    flood.received++;
}

static void flood_over(aioloop *loop, void *arg) {
    (void)arg;
    flood.over = true;
    aioloop_stop(loop);
}

/* The flood: from a thread, which ends it. */
static void *send_all(void *arg) {
    struct sockaddr_in address;
    char *data = (char *)calloc(1, (size_t)flood.size + 1);
    int s = socket(AF_INET, SOCK_DGRAM, 0);
    aioloop_handle handle;
    long i;
    (void)arg;
    memset(&address, 0, sizeof(address));
    address.sin_family = AF_INET;
    address.sin_port = htons((uint16_t)flood.port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (s == -1 || data == NULL || connect(s, (const struct sockaddr *)&address, (socklen_t)sizeof(address)) != 0)
        die("no socket");
    for (i = 0; i < flood.datagrams; i++)
        (void)send(s, data, (size_t)flood.size, 0);
    handle = aioloop_call_soon_threadsafe(flood.loop, flood_over, NULL);
    if (aioloop_handle_is_null(&handle))
        die("cannot end");
    close(s);
    free(data);
    return NULL;
}

static aioloop_time processor_time(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (aioloop_time)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Once in an iteration. */
static void measure(aioloop *loop, void *arg) {
    aioloop_time now = processor_time();
    (void)arg;
    if (flood.before != 0 && now - flood.before > flood.longest)
        flood.longest = now - flood.before;
    flood.before = now;
    if (!flood.over)
        (void)aioloop_call_soon(loop, measure, NULL);
}

static void tick(aioloop *loop, void *arg) {
    aioloop_time *due = (aioloop_time *)arg;
    aioloop_time now = aioloop_now(loop);
    if (flood.fired < SAMPLES_MAX)
        flood.late[flood.fired++] = now - *due;
    *due = now + PERIOD;
    if (!flood.over)
        (void)aioloop_call_at(loop, *due, tick, due);
}

static int compare(const void *a, const void *b) {
    aioloop_time x = *(const aioloop_time *)a;
    aioloop_time y = *(const aioloop_time *)b;
    return (x > y) - (x < y);
}

static void parse(int argc, char **argv) {
    int i;
    for (i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--datagrams") == 0)
            flood.datagrams = atol(argv[i + 1]);
        else if (strcmp(argv[i], "--size") == 0)
            flood.size = atol(argv[i + 1]);
        else if (strcmp(argv[i], "--limit") == 0)
            flood.limit = atof(argv[i + 1]);
        else
            break;
    }
    if (i != argc)
        die("usage: flood [--datagrams N] [--size BYTES] [--limit MS]");
}

int main(int argc, char **argv) {
    static const aioloop_protocol protocol = {0,        NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
                                              received, NULL};
    aioloop_datagram_endpoint_options options = AIOLOOP_ZERO;
    aioloop_transport *transport = NULL;
    aioloop_time due;
    pthread_t sender;
    double longest;
    parse(argc, argv);
    flood.loop = aioloop_new_event_loop(NULL);
    if (flood.loop == NULL)
        die("no loop");
    options.local_host = "127.0.0.1";
    if (aioloop_run_until_complete(flood.loop, aioloop_create_datagram_endpoint(flood.loop, &protocol, NULL, &options),
                                   &transport) < 0)
        die("no endpoint");
    flood.port = ((const aioloop_address *)aioloop_transport_get_extra_info(transport, "sockname", NULL))->port;
    due = aioloop_now(flood.loop) + PERIOD;
    (void)aioloop_call_at(flood.loop, due, tick, &due);
    (void)aioloop_call_soon(flood.loop, measure, NULL);
    if (pthread_create(&sender, NULL, send_all, NULL) != 0)
        die("no thread");
    if (aioloop_run_forever(flood.loop) < 0)
        die("the loop failed");
    pthread_join(sender, NULL);
    aioloop_transport_abort(transport);
    aioloop_transport_unref(transport);
    if (flood.fired == 0)
        die("the timer never fired");
    qsort(flood.late, (size_t)flood.fired, sizeof(flood.late[0]), compare);
    longest = (double)flood.longest / 1e6;
    printf("%s: %ld of %ld datagrams; a timer of 10 ms, %d times, late by %.3f ms in the median, %.3f ms at p99, %.3f ms at "
           "most; the longest iteration took %.3f ms of processor time\n",
           aioloop_backend_name(flood.loop), flood.received, flood.datagrams, flood.fired,
           (double)flood.late[flood.fired / 2] / 1e6, (double)flood.late[(size_t)flood.fired * 99 / 100] / 1e6,
           (double)flood.late[flood.fired - 1] / 1e6, longest);
    aioloop_free(flood.loop);
    return longest > flood.limit;
}
