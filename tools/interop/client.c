/*
 * client.c - the C side of `make interop` against a server in Python.
 *
 *     client HOST PORT CONNECTIONS BYTES
 *
 * Every connection sends BYTES of a sequence of its own as fast as the server takes them, half closes, and expects the same
 * bytes back, and then the end. Prints what came; the exit status says whether it was right.
 */
#define AIOLOOP_IMPLEMENTATION
#include "../../aioloop.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct connection {
    uint64_t sent;
    uint64_t received;
    unsigned salt;
    bool paused;
};

static uint64_t each;
static long wanted, made, right, lost, paused;

static unsigned char byte_at(const struct connection *c, uint64_t i) {
    return (unsigned char)((i * 2654435761u >> 16) + c->salt);
}

static void send_more(aioloop_transport *transport, struct connection *c) {
    unsigned char piece[32768];
    while (!c->paused && c->sent < each) {
        size_t n = each - c->sent < sizeof(piece) ? (size_t)(each - c->sent) : sizeof(piece);
        for (size_t i = 0; i < n; i++)
            piece[i] = byte_at(c, c->sent + i);
        c->sent += n;
        if (aioloop_transport_write(transport, piece, n) < 0) {
            aioloop_transport_abort(transport);
            return;
        }
        if (c->sent == each)
            aioloop_transport_write_eof(transport);
    }
}

static int client_factory(void *self, void *arg) {
    struct connection *c = (struct connection *)self;
    (void)arg;
    c->salt = (unsigned)made++;
    return 0;
}

static void client_made(aioloop_transport *transport, void *self) {
    send_more(transport, (struct connection *)self);
}

static void client_received(aioloop_transport *transport, void *self, const void *data, size_t size) {
    struct connection *c = (struct connection *)self;
    const unsigned char *bytes = (const unsigned char *)data;
    for (size_t i = 0; i < size; i++, c->received++) {
        if (bytes[i] != byte_at(c, c->received)) {
            fprintf(stderr, "connection %u: byte %llu differs\n", c->salt, (unsigned long long)c->received);
            aioloop_transport_abort(transport);
            return;
        }
    }
}

static void client_pause(aioloop_transport *transport, void *self) {
    (void)transport;
    ((struct connection *)self)->paused = true;
    paused++;
}

static void client_resume(aioloop_transport *transport, void *self) {
    ((struct connection *)self)->paused = false;
    send_more(transport, (struct connection *)self);
}

static void client_lost(aioloop_transport *transport, void *self, int error) {
    const struct connection *c = (const struct connection *)self;
    if (error < 0)
        fprintf(stderr, "connection %u: %s\n", c->salt, aioloop_strerror(error));
    else if (c->received == each)
        right++;
    if (++lost == wanted)
        aioloop_stop(aioloop_transport_get_loop(transport));
}

static const aioloop_protocol client = {
    .instance_size = sizeof(struct connection),
    .factory = client_factory,
    .connection_made = client_made,
    .data_received = client_received,
    .connection_lost = client_lost,
    .pause_writing = client_pause,
    .resume_writing = client_resume,
};

static void connected(aioloop_future *future, void *arg) {
    (void)arg;
    if (aioloop_future_exception(future) < 0)
        aioloop_raise(aioloop_future_get_loop(future), AIOLOOP_EFATAL, "%s",
                      aioloop_error_message(aioloop_future_error(future)));
}

int main(int argc, char **argv) {
    int error = 0;
    aioloop *loop = aioloop_new_event_loop(NULL);
    if (argc < 5 || loop == NULL) {
        fprintf(stderr, "usage: client HOST PORT CONNECTIONS BYTES\n");
        return 2;
    }
    wanted = atol(argv[3]);
    each = strtoull(argv[4], NULL, 10);
    for (long i = 0; i < wanted && error == 0; i++)
        error = aioloop_future_then(aioloop_create_connection(loop, &client, NULL, argv[1], atoi(argv[2]), NULL),
                                    connected, NULL);
    if (error == 0)
        error = aioloop_run_forever(loop);
    if (error < 0)
        fprintf(stderr, "client: %s\n", aioloop_error_message(aioloop_last_error(loop)));
    printf("%ld of %ld connections right, %llu bytes each way on each, writing paused %ld times\n", right, wanted,
           (unsigned long long)each, paused);
    aioloop_free(loop);
    return error < 0 || right != wanted;
}
