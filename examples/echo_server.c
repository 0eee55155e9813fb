/*
 * echo_server.c - sends back what it gets; ends in good order on Ctrl-C.
 *
 *     cc examples/echo_server.c -o echo_server && ./echo_server 8888
 *     nc 127.0.0.1 8888
 */
#define AIOLOOP_IMPLEMENTATION
#include "../aioloop.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#define GRACE AIOLOOP_SECONDS(2) /* what connections have to finish after the first Ctrl-C */

/* ---- the protocol: no state, so one static table is all there is ---- */

static void echo_received(aioloop_transport *transport, void *self, const void *data, size_t size) {
    (void)self;
    if (aioloop_transport_write(transport, data, size) < 0)
        aioloop_transport_abort(transport);
}

/* A peer that sends without reading must not fill our memory: while it does not take, we do not read. */
static void echo_pause(aioloop_transport *transport, void *self) {
    (void)self;
    aioloop_transport_pause_reading(transport);
}

static void echo_resume(aioloop_transport *transport, void *self) {
    (void)self;
    aioloop_transport_resume_reading(transport);
}

/* No eof_received: when the peer has sent all, the connection closes, once the rest of the echo is sent. */
static const aioloop_protocol echo = {
    .data_received = echo_received,
    .pause_writing = echo_pause,
    .resume_writing = echo_resume,
};

/* Ctrl-C or kill. */
static void signal_arrived(aioloop *loop, void *arg) {
    (void)arg;
    aioloop_stop(loop);
}

static void grace_over(aioloop *loop, void *arg) {
    (void)loop;
    aioloop_server_abort_clients((aioloop_server *)arg);
}

static int serve(aioloop *loop, int port) {
    aioloop_server *server = NULL;
    aioloop_address address;
    aioloop_timer_handle timer;
    char name[64];
    int64_t result = aioloop_run_until_complete(
        loop, aioloop_create_server(loop, &echo, NULL, "127.0.0.1", port, NULL), &server);
    if (result < 0)
        return (int)result;
    aioloop_server_socket(server, 0, NULL, &address);
    aioloop_address_format(&address, name, sizeof(name));
    printf("listening on %s\n", name);
    fflush(stdout);

    result = aioloop_run_forever(loop); /* until a signal stops it */

    /* No new connections; those there are may finish, but not for ever. A second Ctrl-C ends this at once. */
    aioloop_server_close(server);
    timer = aioloop_call_later(loop, GRACE, grace_over, server);
    if (aioloop_handle_is_null(&timer.handle))
        aioloop_server_abort_clients(server);
    if (result == 0)
        result = aioloop_run_until_complete(loop, aioloop_server_wait_closed(server), NULL);
    aioloop_server_unref(server);
    return (int)result;
}

int main(int argc, char **argv) {
    aioloop *loop = aioloop_new_event_loop(NULL);
    int error;
    if (loop == NULL) {
        fprintf(stderr, "echo_server: %s\n", aioloop_error_message(aioloop_last_error(NULL)));
        return 1;
    }
    error = aioloop_add_signal_handler(loop, SIGINT, signal_arrived, NULL);
    if (error == 0)
        error = aioloop_add_signal_handler(loop, SIGTERM, signal_arrived, NULL);
    if (error == 0)
        error = serve(loop, argc > 1 ? atoi(argv[1]) : 0); /* 0: any free port */
    if (error < 0)
        fprintf(stderr, "echo_server: %s\n", aioloop_error_message(aioloop_last_error(loop)));
    aioloop_free(loop);
    return error < 0;
}
