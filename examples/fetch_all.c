/*
 * fetch_all.c - asks several servers at once, each with a time-out of its own, and gathers the answers.
 *
 *     cc examples/fetch_all.c -o fetch_all && ./fetch_all
 *
 * It brings its own server, which takes as many milliseconds for an answer as it is asked to.
 */
#define AIOLOOP_IMPLEMENTATION
#include "../aioloop.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CLIENTS 5

/* ---- the server: "30\n" gives "waited 30 ms\n" 30 ms later ---- */

static int64_t answer(aioloop *loop, aioloop_stream *stream, void *arg) {
    const char *line = NULL;
    char text[64];
    int ms;
    int64_t n = aioloop_await(aioloop_stream_readline(stream), &line);
    (void)arg;
    if (n < 0)
        return n;
    ms = atoi(line);
    n = aioloop_await(aioloop_sleep(loop, AIOLOOP_MS(ms)), NULL);
    if (n < 0)
        return n;
    snprintf(text, sizeof(text), "waited %d ms\n", ms);
    aioloop_stream_write(stream, text, strlen(text));
    return aioloop_await(aioloop_stream_drain(stream), NULL);
}

/* ---- the clients ---- */

struct request {
    int port;
    int ms;
};

/* The answer is a string for whoever takes the result, who frees it. */
static int64_t fetch(aioloop *loop, void *arg, void **out) {
    const struct request *request = (const struct request *)arg;
    aioloop_stream *stream = NULL;
    const char *line = NULL;
    char text[32];
    int64_t n = aioloop_await(aioloop_open_connection(loop, "127.0.0.1", request->port, NULL), &stream);
    if (n < 0)
        return n;
    snprintf(text, sizeof(text), "%d\n", request->ms);
    aioloop_stream_write(stream, text, strlen(text));
    n = aioloop_await(aioloop_stream_readline(stream), &line);
    if (n > 0) {
        char *copy = (char *)malloc((size_t)n + 1); /* the line is the stream's, and goes with it */
        if (copy != NULL)
            memcpy(copy, line, (size_t)n + 1);
        *out = copy;
    }
    aioloop_stream_unref(stream); /* also closes it */
    return n;
}

static int64_t fetch_all(aioloop *loop, void *arg, void **out) {
    static const int delays[CLIENTS] = {10, 40, 1000, 20, 2000};
    struct request requests[CLIENTS];
    aioloop_future *fetches[CLIENTS];
    aioloop_results *results = NULL;
    aioloop_task_options options = AIOLOOP_ZERO;
    aioloop_server *server = NULL;
    aioloop_address address;
    int64_t n;
    int i;
    (void)arg;
    (void)out;
    n = aioloop_await(aioloop_start_server(loop, answer, NULL, "127.0.0.1", 0, NULL), &server);
    if (n < 0)
        return n;
    n = aioloop_server_socket(server, 0, NULL, &address);
    if (n < 0)
        return n;
    options.dispose_result = free; /* of an answer that nobody takes */
    for (i = 0; i < CLIENTS; i++) {
        requests[i].port = address.port;
        requests[i].ms = delays[i];
        fetches[i] = aioloop_wait_for(aioloop_create_task(loop, fetch, &requests[i], &options), AIOLOOP_MS(100));
    }
    /* All of them, the failures too: nothing that they were lent goes while one is under way. */
    n = aioloop_await(aioloop_gather(loop, fetches, CLIENTS, true), &results);
    for (i = 0; i < n; i++) {
        char *line = NULL;
        int64_t rc = aioloop_results_get(results, (size_t)i, &line);
        printf("%4d ms: %s", delays[i], rc < 0 || line == NULL ? aioloop_error_message(aioloop_results_error(results, (size_t)i)) : line);
        printf("%s", rc < 0 ? "\n" : "");
        free(line);
    }
    aioloop_results_free(results);
    aioloop_server_close(server);
    aioloop_server_unref(server);
    return n < 0 ? n : 0;
}

int main(void) {
    if (aioloop_run(fetch_all, NULL, NULL) < 0) {
        fprintf(stderr, "%s\n", aioloop_error_message(aioloop_last_error(NULL)));
        return 1;
    }
    return 0;
}
