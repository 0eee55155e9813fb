/*
 * fetch_names.c - asks several web servers by name at once, each with a time-out of its own.
 *
 *     cc examples/fetch_names.c -o fetch_names && ./fetch_names example.org www.wikipedia.org
 *
 * Without names it brings a server of its own and asks that, and a host that does not exist. A name with several
 * addresses is tried side by side (Happy Eyeballs), so one that does not answer costs a quarter of a second.
 */
#define AIOLOOP_IMPLEMENTATION
#include "../aioloop.h"

#include <stdio.h>
#include <string.h>

#define MOST 16

struct request {
    const char *host;
    int port;
    char answer[128];
};

/* One server: its first line is the answer. The time-out of it all is the caller's. */
static int64_t fetch(aioloop *loop, void *arg, void **out) {
    struct request *request = (struct request *)arg;
    aioloop_stream_options options = AIOLOOP_ZERO;
    aioloop_stream *stream = NULL;
    const char *line = NULL;
    char text[512];
    int64_t n;
    (void)out;
    options.connection.happy_eyeballs_delay = AIOLOOP_MS(250);
    n = aioloop_await(aioloop_open_connection(loop, request->host, request->port, &options), &stream);
    if (n < 0)
        return n;
    snprintf(text, sizeof(text), "HEAD / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", request->host);
    aioloop_stream_write(stream, text, strlen(text));
    n = aioloop_await(aioloop_stream_readline(stream), &line);
    if (n > 0)
        snprintf(request->answer, sizeof(request->answer), "%.*s", (int)strcspn(line, "\r\n"), line);
    aioloop_stream_unref(stream); /* also closes it */
    return n;
}

/* The server for those who have no network at hand: it reads the head and says yes. */
static int64_t serve(aioloop *loop, aioloop_stream *stream, void *arg) {
    const char *text = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    int64_t n = aioloop_await(aioloop_stream_readuntil(stream, "\r\n\r\n", 4), NULL);
    (void)loop;
    (void)arg;
    if (n < 0)
        return n;
    aioloop_stream_write(stream, text, strlen(text));
    return aioloop_await(aioloop_stream_drain(stream), NULL);
}

static int64_t fetch_all(aioloop *loop, struct request *requests, int count) {
    aioloop_future *fetches[MOST];
    aioloop_results *results = NULL;
    int64_t n;
    int i;
    for (i = 0; i < count; i++)
        fetches[i] = aioloop_wait_for(aioloop_create_task(loop, fetch, &requests[i], NULL), AIOLOOP_SECONDS(5));
    n = aioloop_await(aioloop_gather(loop, fetches, (size_t)count, true), &results); /* the failures too */
    for (i = 0; i < n; i++)
        printf("%-24s %s\n", requests[i].host,
               aioloop_results_get(results, (size_t)i, NULL) < 0 ? aioloop_error_message(aioloop_results_error(results, (size_t)i))
                                                                 : requests[i].answer);
    aioloop_results_free(results);
    return n < 0 ? n : 0;
}

struct arguments {
    int count;
    char **names;
};

static int64_t run(aioloop *loop, void *arg, void **out) {
    static const char *const own[] = {"localhost", "127.0.0.1", "no-such-host.invalid"};
    const struct arguments *arguments = (const struct arguments *)arg;
    struct request requests[MOST];
    aioloop_server *server = NULL;
    aioloop_address address;
    int count = arguments->count < MOST ? arguments->count : MOST;
    int64_t n;
    int i;
    (void)out;
    memset(requests, 0, sizeof(requests));
    for (i = 0; i < count; i++) {
        requests[i].host = arguments->names[i];
        requests[i].port = 80;
    }
    if (count != 0)
        return fetch_all(loop, requests, count);
    n = aioloop_await(aioloop_start_server(loop, serve, NULL, "127.0.0.1", 0, NULL), &server);
    if (n < 0)
        return n;
    n = aioloop_server_socket(server, 0, NULL, &address);
    if (n < 0)
        return n;
    for (i = 0; i < 3; i++) {
        requests[i].host = own[i];
        requests[i].port = address.port;
    }
    n = fetch_all(loop, requests, 3);
    aioloop_server_close(server);
    aioloop_server_unref(server);
    return n;
}

int main(int argc, char **argv) {
    struct arguments arguments;
    arguments.count = argc - 1;
    arguments.names = argv + 1;
    if (aioloop_run(run, &arguments, NULL) < 0) {
        fprintf(stderr, "%s\n", aioloop_error_message(aioloop_last_error(NULL)));
        return 1;
    }
    return 0;
}
