/*
 * port_scan.c - which ports of this machine somebody listens at, a hundred at a time.
 *
 *     cc examples/port_scan.c -o port_scan && ./port_scan
 *     ./port_scan 1 65535
 *
 * A hundred coroutines share one counter: that is all it takes to bound how much is under way. They have no stacks, so
 * each costs a frame of a few bytes. Without arguments it opens three ports itself and looks around them.
 */
#define AIOLOOP_IMPLEMENTATION
#include "../aioloop.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WORKERS 100
#define OPENED 3

struct scan {
    int next;
    int last;
    int open;
};

/* Its place in the code, and what it has to remember over a wait. */
struct worker {
    aioloop_frame frame;
    struct scan *scan;
    int port;
};

/* A connection is all that is wanted; nobody talks on it. */
static const aioloop_protocol silent = AIOLOOP_ZERO;

static int64_t scan_ports(aioloop *loop, aioloop_frame *frame, void **out) {
    struct worker *self = (struct worker *)frame;
    aioloop_connection_options options = AIOLOOP_ZERO;
    aioloop_transport *transport = NULL;
    int64_t n;
    (void)out;
    options.timeout = AIOLOOP_MS(500);
    AIOLOOP_BEGIN(loop, frame);
    while (self->scan->next <= self->scan->last) {
        self->port = self->scan->next++;
        AIOLOOP_AWAIT(n, aioloop_create_connection(loop, &silent, NULL, "127.0.0.1", self->port, &options), &transport);
        if (n < 0)
            continue; /* refused, most likely */
        printf("%d\n", self->port);
        self->scan->open++;
        aioloop_transport_abort(transport);
        aioloop_transport_unref(transport);
    }
    AIOLOOP_END;
}

static int64_t run(aioloop *loop, void *arg, void **out) {
    struct scan *scan = (struct scan *)arg;
    aioloop_future *workers[WORKERS];
    aioloop_server *servers[OPENED] = {NULL, NULL, NULL};
    int64_t n;
    int i;
    (void)out;
    for (i = 0; i < OPENED && scan->last == 0; i++) {
        aioloop_address address;
        n = aioloop_await(aioloop_create_server(loop, &silent, NULL, "127.0.0.1", 0, NULL), &servers[i]);
        if (n < 0)
            return n;
        n = aioloop_server_socket(servers[i], 0, NULL, &address);
        if (n < 0)
            return n;
        if (i == 0 || address.port < scan->next)
            scan->next = address.port;
        if (i == OPENED - 1)
            scan->last = address.port;
    }
    if (scan->last < scan->next + 500)
        scan->last = scan->next + 500 < 65535 ? scan->next + 500 : 65535;
    for (i = 0; i < WORKERS; i++) {
        aioloop_task_options options = AIOLOOP_ZERO;
        struct worker worker = AIOLOOP_ZERO;
        options.copy_size = sizeof(worker); /* each has a frame of its own */
        worker.scan = scan;
        workers[i] = aioloop_create_task_frame(loop, scan_ports, &worker.frame, &options);
    }
    n = aioloop_await(aioloop_gather(loop, workers, WORKERS, false), NULL);
    printf("%d ports are open\n", scan->open);
    for (i = 0; i < OPENED; i++) {
        aioloop_server_close(servers[i]);
        aioloop_server_unref(servers[i]);
    }
    return n < 0 ? n : 0;
}

int main(int argc, char **argv) {
    struct scan scan = {0, 0, 0};
    if (argc > 2) {
        scan.next = atoi(argv[1]);
        scan.last = atoi(argv[2]);
    }
    if (aioloop_run(run, &scan, NULL) < 0) {
        fprintf(stderr, "%s\n", aioloop_error_message(aioloop_last_error(NULL)));
        return 1;
    }
    return 0;
}
