/*
 * echo_styles.c - the same echo server three times: with callbacks, with coroutines that have a stack, and with coroutines that
 * have none.
 *
 *     cc examples/echo_styles.c -o echo_styles && ./echo_styles stackful 8888
 */
#define AIOLOOP_IMPLEMENTATION
#include "../aioloop.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- callbacks: what is received is written; flow control is the protocol's business ---- */

static void echo_received(aioloop_transport *transport, void *self, const void *data, size_t size) {
    (void)self;
    aioloop_transport_write(transport, data, size);
}

static void echo_pause(aioloop_transport *transport, void *self) {
    (void)self;
    aioloop_transport_pause_reading(transport); /* the peer does not read: do not read from it either */
}

static void echo_resume(aioloop_transport *transport, void *self) {
    (void)self;
    aioloop_transport_resume_reading(transport);
}

static const aioloop_protocol echo_protocol = {
    .data_received = echo_received,
    .pause_writing = echo_pause,
    .resume_writing = echo_resume,
};

/* ---- a stack: reads like a program for one client ---- */

static int64_t echo_stackful(aioloop *loop, aioloop_stream *stream, void *arg) {
    const char *data = NULL;
    int64_t n;
    (void)loop;
    (void)arg;
    while ((n = aioloop_await(aioloop_stream_read(stream, 65536), &data)) > 0) {
        aioloop_stream_write(stream, data, (size_t)n);
        n = aioloop_await(aioloop_stream_drain(stream), NULL);
        if (n < 0)
            break;
    }
    return n;
}

/* ---- no stack: the same, with what lives across a wait in a struct ---- */

struct echo_frame {
    aioloop_stream_frame base;
    const char *data;
    int64_t n;
};

static int64_t echo_stackless(aioloop *loop, aioloop_frame *frame, void **out) {
    struct echo_frame *self = (struct echo_frame *)frame;
    (void)out;
    AIOLOOP_BEGIN(loop, frame);
    for (;;) {
        AIOLOOP_AWAIT(self->n, aioloop_stream_read(self->base.stream, 65536), &self->data);
        if (self->n <= 0)
            return self->n;
        aioloop_stream_write(self->base.stream, self->data, (size_t)self->n);
        AIOLOOP_AWAIT(self->n, aioloop_stream_drain(self->base.stream), NULL);
        if (self->n < 0)
            return self->n;
    }
    AIOLOOP_END;
}

/* ---- the program ---- */

struct choice {
    const char *style;
    int port;
};

static aioloop_future *start(aioloop *loop, const struct choice *choice) {
    aioloop_stream_server_options options = AIOLOOP_ZERO;
    if (strcmp(choice->style, "callbacks") == 0)
        return aioloop_create_server(loop, &echo_protocol, NULL, "127.0.0.1", choice->port, NULL);
    if (strcmp(choice->style, "stackful") == 0)
        return aioloop_start_server(loop, echo_stackful, NULL, "127.0.0.1", choice->port, NULL);
    options.step = echo_stackless;
    options.frame_size = sizeof(struct echo_frame);
    return aioloop_start_server(loop, NULL, NULL, "127.0.0.1", choice->port, &options);
}

static int64_t serve(aioloop *loop, void *arg, void **out) {
    const struct choice *choice = (const struct choice *)arg;
    aioloop_server *server = NULL;
    aioloop_address address;
    int64_t n = aioloop_await(start(loop, choice), &server);
    (void)out;
    if (n < 0)
        return n;
    if (aioloop_server_socket(server, 0, NULL, &address) == 0)
        printf("echo server (%s) on port %d\n", choice->style, address.port);
    fflush(stdout);
    n = aioloop_await(aioloop_server_serve_forever(server), NULL);
    aioloop_server_unref(server);
    return n;
}

int main(int argc, char **argv) {
    struct choice choice = {argc > 1 ? argv[1] : "stackful", argc > 2 ? atoi(argv[2]) : 8888};
    if (strcmp(choice.style, "callbacks") != 0 && strcmp(choice.style, "stackful") != 0 &&
        strcmp(choice.style, "stackless") != 0) {
        fprintf(stderr, "usage: %s [callbacks | stackful | stackless] [port]\n", argv[0]);
        return 2;
    }
    if (aioloop_run(serve, &choice, NULL) < 0) {
        fprintf(stderr, "%s\n", aioloop_error_message(aioloop_last_error(NULL)));
        return 1;
    }
    return 0;
}
