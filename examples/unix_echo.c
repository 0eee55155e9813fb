/*
 * unix_echo.c - a server and a client on a Unix socket, both in one loop.
 *
 *     cc examples/unix_echo.c -o unix_echo && ./unix_echo
 *     ./unix_echo /tmp/echo.sock        serves at that path, without a client of its own
 */
#define AIOLOOP_IMPLEMENTATION
#include "../aioloop.h"

#include <stdio.h>
#include <unistd.h>

static void echo_received(aioloop_transport *transport, void *self, const void *data, size_t size) {
    (void)self;
    if (aioloop_transport_write(transport, data, size) < 0)
        aioloop_transport_abort(transport);
}

static void echo_pause(aioloop_transport *transport, void *self) {
    (void)self;
    aioloop_transport_pause_reading(transport);
}

static void echo_resume(aioloop_transport *transport, void *self) {
    (void)self;
    aioloop_transport_resume_reading(transport);
}

static const aioloop_protocol echo = {
    .data_received = echo_received,
    .pause_writing = echo_pause,
    .resume_writing = echo_resume,
};

static void client_made(aioloop_transport *transport, void *self) {
    (void)self;
    aioloop_transport_write(transport, "across the room\n", 16);
    aioloop_transport_write_eof(transport);
}

static void client_received(aioloop_transport *transport, void *self, const void *data, size_t size) {
    (void)transport;
    (void)self;
    fwrite(data, 1, size, stdout);
}

static void client_lost(aioloop_transport *transport, void *self, int error) {
    (void)self;
    if (error < 0)
        fprintf(stderr, "unix_echo: %s\n", aioloop_strerror(error));
    aioloop_stop(aioloop_transport_get_loop(transport));
}

static const aioloop_protocol client = {
    .connection_made = client_made,
    .data_received = client_received,
    .connection_lost = client_lost,
};

int main(int argc, char **argv) {
    char own[64];
    const char *path = argc > 1 ? argv[1] : own;
    aioloop_server *server = NULL;
    int64_t result;
    aioloop *loop = aioloop_new_event_loop(NULL);
    if (loop == NULL) {
        fprintf(stderr, "unix_echo: %s\n", aioloop_error_message(aioloop_last_error(NULL)));
        return 1;
    }
    snprintf(own, sizeof(own), "/tmp/unix_echo-%ld.sock", (long)getpid());
    result = aioloop_run_until_complete(loop, aioloop_create_unix_server(loop, &echo, NULL, path, NULL), &server);
    if (result >= 0) {
        printf("listening on %s\n", path);
        fflush(stdout);
        if (argc == 1)
            result = aioloop_run_until_complete(loop, aioloop_create_unix_connection(loop, &client, NULL, path, NULL), NULL);
    }
    if (result >= 0)
        result = aioloop_run_forever(loop);
    if (result < 0)
        fprintf(stderr, "unix_echo: %s\n", aioloop_error_message(aioloop_last_error(loop)));
    aioloop_server_close(server); /* removes the socket file, too */
    aioloop_server_unref(server);
    aioloop_free(loop);
    return result < 0;
}
