/*
 * udp_echo_server.c - sends every datagram back to where it came from; ends in good order on Ctrl-C.
 *
 *     cc examples/udp_echo_server.c -o udp_echo_server && ./udp_echo_server 9999
 *     nc -u 127.0.0.1 9999
 */
#define AIOLOOP_IMPLEMENTATION
#include "../aioloop.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- the protocol: no state, so one static table is all there is ---- */

static void echo_received(aioloop_transport *transport, void *self, const void *data, size_t size,
                          const aioloop_address *from) {
    (void)self;
    /* Datagrams may be lost anyway: while more waits than flow control likes, we lose them here. */
    if (aioloop_transport_get_write_buffer_size(transport) < 65536)
        (void)aioloop_transport_sendto(transport, data, size, from);
}

/* Such as: too long, no way there. It concerns one datagram, and the endpoint goes on. */
static void echo_error(aioloop_transport *transport, void *self, int error) {
    (void)transport;
    (void)self;
    fprintf(stderr, "udp_echo_server: a datagram: %s\n", aioloop_strerror(error));
}

static const aioloop_protocol echo = {
    .datagram_received = echo_received,
    .error_received = echo_error,
};

/* ---- signals: the handler writes one byte to a pipe that the loop reads ---- */

static int signal_pipe[2];

static void on_signal(int number) {
    char byte = (char)number;
    ssize_t ignored = write(signal_pipe[1], &byte, 1);
    (void)ignored;
}

static void signal_arrived(aioloop *loop, void *arg) {
    char byte;
    (void)arg;
    if (read(signal_pipe[0], &byte, 1) == 1)
        aioloop_stop(loop);
}

static int serve(aioloop *loop, int port) {
    aioloop_datagram_endpoint_options options = AIOLOOP_ZERO;
    aioloop_transport *transport = NULL;
    char name[64];
    int64_t result;
    options.local_host = "127.0.0.1";
    options.local_port = port;
    result = aioloop_run_until_complete(loop, aioloop_create_datagram_endpoint(loop, &echo, NULL, &options), &transport);
    if (result < 0)
        return (int)result;
    aioloop_address_format((const aioloop_address *)aioloop_transport_get_extra_info(transport, "sockname", NULL), name,
                           sizeof(name));
    printf("listening on %s\n", name);
    fflush(stdout);
    result = aioloop_run_forever(loop); /* until a signal stops it */
    aioloop_transport_close(transport);
    aioloop_transport_unref(transport);
    return (int)result;
}

int main(int argc, char **argv) {
    struct sigaction action;
    aioloop *loop = aioloop_new_event_loop(NULL);
    int error;
    if (loop == NULL) {
        fprintf(stderr, "udp_echo_server: %s\n", aioloop_error_message(aioloop_last_error(NULL)));
        return 1;
    }
    memset(&action, 0, sizeof(action));
    action.sa_handler = on_signal;
    if (pipe(signal_pipe) != 0 || sigaction(SIGINT, &action, NULL) != 0 || sigaction(SIGTERM, &action, NULL) != 0) {
        perror("udp_echo_server");
        return 1;
    }
    error = aioloop_add_reader(loop, signal_pipe[0], signal_arrived, NULL);
    if (error == 0)
        error = serve(loop, argc > 1 ? atoi(argv[1]) : 0); /* 0: any free port */
    if (error < 0)
        fprintf(stderr, "udp_echo_server: %s\n", aioloop_error_message(aioloop_last_error(loop)));
    aioloop_free(loop);
    return error < 0;
}
