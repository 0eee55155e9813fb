/*
 * tcp_client.c - connects, sends a line, says that it has no more, and prints the answer.
 *
 *     cc examples/tcp_client.c -o tcp_client && ./tcp_client 127.0.0.1 8888 "Hello, server"
 */
#define AIOLOOP_IMPLEMENTATION
#include "../aioloop.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct session {
    const char *message;
    aioloop_future *over; /* its result: how many bytes came */
    int64_t received;
};

static void client_made(aioloop_transport *transport, void *self) {
    const struct session *session = (const struct session *)self;
    aioloop_buf pieces[2];
    pieces[0].data = session->message;
    pieces[0].size = strlen(session->message);
    pieces[1].data = "\n";
    pieces[1].size = 1;
    /* The half close comes after all that was written; the answer can still arrive. */
    if (aioloop_transport_writelines(transport, pieces, 2) < 0 || aioloop_transport_write_eof(transport) < 0)
        aioloop_transport_abort(transport);
}

static void client_received(aioloop_transport *transport, void *self, const void *data, size_t size) {
    (void)transport;
    ((struct session *)self)->received += (int64_t)size;
    fwrite(data, 1, size, stdout);
}

/* Without eof_received the connection closes when the server has said all. */
static void client_lost(aioloop_transport *transport, void *self, int error) {
    struct session *session = (struct session *)self;
    (void)transport;
    if (error < 0)
        aioloop_future_set_exception(session->over, error, "the connection broke: %s", aioloop_strerror(error));
    else
        aioloop_future_set_result(session->over, session->received, NULL, NULL);
}

static const aioloop_protocol client = {
    .connection_made = client_made,
    .data_received = client_received,
    .connection_lost = client_lost,
};

static void too_long(aioloop *loop, void *arg) {
    (void)loop;
    aioloop_future_set_exception(((struct session *)arg)->over, AIOLOOP_ETIMEDOUT, "no full answer in 10 seconds");
}

static int64_t talk(aioloop *loop, struct session *session, const char *host, int port) {
    aioloop_connection_options options = AIOLOOP_ZERO;
    aioloop_timer_handle limit;
    int64_t result;
    options.timeout = AIOLOOP_SECONDS(5); /* for the connect */
    result = aioloop_run_until_complete(
        loop, aioloop_create_connection(loop, &client, session, host, port, &options), NULL);
    if (result < 0)
        return result;
    limit = aioloop_call_later(loop, AIOLOOP_SECONDS(10), too_long, session);
    result = aioloop_run_until_complete(loop, session->over, NULL);
    aioloop_timer_handle_cancel(&limit);
    return result;
}

int main(int argc, char **argv) {
    struct session session = {"Hello, server", NULL, 0};
    int64_t result;
    aioloop *loop;
    if (argc < 3) {
        fprintf(stderr, "usage: tcp_client HOST PORT [MESSAGE]\n");
        return 2;
    }
    if (argc > 3)
        session.message = argv[3];
    loop = aioloop_new_event_loop(NULL);
    if (loop == NULL) {
        fprintf(stderr, "tcp_client: %s\n", aioloop_error_message(aioloop_last_error(NULL)));
        return 1;
    }
    session.over = aioloop_create_future(loop);
    result = talk(loop, &session, argv[1], atoi(argv[2]));
    if (result < 0)
        fprintf(stderr, "tcp_client: %s\n", aioloop_error_message(aioloop_last_error(loop)));
    else
        fprintf(stderr, "%lld bytes\n", (long long)result);
    aioloop_future_unref(session.over);
    aioloop_free(loop);
    return result < 0;
}
