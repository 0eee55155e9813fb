/*
 * udp_echo_client.c - sends a datagram until it is answered, five times at most, and prints the answer.
 *
 *     cc examples/udp_echo_client.c -o udp_echo_client && ./udp_echo_client 127.0.0.1 9999 "Hello, server"
 */
#define AIOLOOP_IMPLEMENTATION
#include "../aioloop.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TRIES 5
#define PATIENCE AIOLOOP_MS(500) /* for each */

struct session {
    const char *message;
    aioloop_transport *transport; /* borrowed: while it is open */
    aioloop_timer_handle timer;
    aioloop_future *over; /* its result: the size of the answer */
    int tries;
};

/* Neither the question nor the answer is sure to arrive, so it is asked again. */
static void session_ask(aioloop *loop, void *arg) {
    struct session *session = (struct session *)arg;
    int error = AIOLOOP_ETIMEDOUT;
    if (session->tries++ < TRIES) {
        error = aioloop_transport_sendto(session->transport, session->message, strlen(session->message), NULL);
        session->timer = aioloop_call_later(loop, PATIENCE, session_ask, session);
        if (aioloop_handle_is_null(&session->timer.handle))
            error = AIOLOOP_ENOMEM;
    }
    if (error < 0)
        aioloop_future_set_exception(session->over, error, "no answer: %s", aioloop_strerror(error));
}

static void client_made(aioloop_transport *transport, void *self) {
    struct session *session = (struct session *)self;
    session->transport = transport;
    session_ask(aioloop_transport_get_loop(transport), session);
}

static void client_received(aioloop_transport *transport, void *self, const void *data, size_t size,
                            const aioloop_address *from) {
    struct session *session = (struct session *)self;
    (void)from; /* connected to the server: nobody else's come */
    fwrite(data, 1, size, stdout);
    putchar('\n');
    aioloop_future_set_result(session->over, (int64_t)size, NULL, NULL);
    aioloop_transport_close(transport);
}

/* Nobody is there, perhaps not yet: said, and asked again all the same. */
static void client_error(aioloop_transport *transport, void *self, int error) {
    (void)transport;
    (void)self;
    fprintf(stderr, "udp_echo_client: %s\n", aioloop_strerror(error));
}

static const aioloop_protocol client = {
    .connection_made = client_made,
    .datagram_received = client_received,
    .error_received = client_error,
};

static int64_t talk(aioloop *loop, struct session *session, const char *host, int port) {
    aioloop_datagram_endpoint_options options = AIOLOOP_ZERO;
    int64_t result;
    options.remote_host = host;
    options.remote_port = port;
    result = aioloop_run_until_complete(loop, aioloop_create_datagram_endpoint(loop, &client, session, &options), NULL);
    if (result < 0)
        return result;
    result = aioloop_run_until_complete(loop, session->over, NULL);
    aioloop_timer_handle_cancel(&session->timer);
    return result;
}

int main(int argc, char **argv) {
    struct session session = AIOLOOP_ZERO;
    int64_t result;
    aioloop *loop;
    if (argc < 3) {
        fprintf(stderr, "usage: udp_echo_client HOST PORT [MESSAGE]\n");
        return 2;
    }
    session.message = argc > 3 ? argv[3] : "Hello, server";
    loop = aioloop_new_event_loop(NULL);
    if (loop == NULL) {
        fprintf(stderr, "udp_echo_client: %s\n", aioloop_error_message(aioloop_last_error(NULL)));
        return 1;
    }
    session.over = aioloop_create_future(loop);
    result = talk(loop, &session, argv[1], atoi(argv[2]));
    if (result < 0)
        fprintf(stderr, "udp_echo_client: %s\n", aioloop_error_message(aioloop_last_error(loop)));
    else
        fprintf(stderr, "%lld bytes\n", (long long)result);
    aioloop_future_unref(session.over);
    aioloop_free(loop);
    return result < 0;
}
