/*
 * process_pool.c - factors numbers in a pool of processes, beside a server that goes on answering.
 *
 *     cc examples/process_pool.c -o process_pool -lpthread && ./process_pool 8890
 *     nc 127.0.0.1 8890          then lines: 9223372036854775783, ping, crash
 *
 * A thread would do for the factors. But who says "crash" takes down one process of the pool, and nothing else.
 */
#define AIOLOOP_IMPLEMENTATION
#include "../aioloop.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct service {
    aioloop_process_pool *pool;
    int port;
};

/* In a process of the pool: a line of text comes in, one goes out. Seconds of work for a large prime. */
static int64_t factor(const void *input, size_t size, aioloop_output *out) {
    const char *line = (const char *)input;
    unsigned long long number = strtoull(line, NULL, 10);
    unsigned long long divisor = 2;
    char text[32];
    (void)size;
    if (strcmp(line, "crash") == 0)
        abort();
    if (number < 2)
        return aioloop_raise(NULL, AIOLOOP_EINVAL, "\"%s\" is not a number from 2 on", line);
    while (number > 1) {
        while (number % divisor != 0)
            divisor = divisor > number / divisor ? number : divisor + 1;
        number /= divisor;
        snprintf(text, sizeof(text), "%llu%s", divisor, number > 1 ? " * " : "\n");
        aioloop_output_write(out, text, strlen(text));
    }
    return 0;
}

/* Answers a line. What the pool has to say against it is an answer, too; below 0, the connection is at its end. */
static int64_t answer(aioloop *loop, struct service *service, aioloop_stream *stream, const char *line) {
    aioloop_output *factors = NULL;
    char text[200];
    int64_t n;
    if (strcmp(line, "ping") == 0)
        return aioloop_stream_write(stream, "pong\n", 5);
    n = aioloop_await(aioloop_run_in_process(loop, service->pool, factor, line, strlen(line)), &factors);
    if (n == AIOLOOP_ECANCELED)
        return n;
    if (n < 0)
        return aioloop_stream_write(stream, text,
                                    (size_t)snprintf(text, sizeof(text), "no: %.150s\n", aioloop_message(loop, n)));
    n = aioloop_stream_write(stream, factors->data, factors->size);
    aioloop_output_free(factors);
    return n;
}

/* A task for each connection. */
static int64_t serve(aioloop *loop, aioloop_stream *stream, void *arg) {
    char *line = NULL;
    int64_t n;
    while ((n = aioloop_await(aioloop_stream_readline(stream), &line)) > 0) {
        line[strcspn(line, "\r\n")] = '\0';
        n = answer(loop, (struct service *)arg, stream, line);
        if (n >= 0)
            n = aioloop_await(aioloop_stream_drain(stream), NULL);
        if (n < 0)
            break;
    }
    return n == AIOLOOP_ECONNRESET || n == AIOLOOP_EPIPE ? 0 : n;
}

static int64_t run(aioloop *loop, void *arg, void **out) {
    struct service *service = (struct service *)arg;
    aioloop_server *server = NULL;
    aioloop_address address = AIOLOOP_ZERO;
    int64_t n;
    (void)out;
    n = aioloop_await(aioloop_start_server(loop, serve, service, "127.0.0.1", service->port, NULL), &server);
    if (n < 0)
        return n;
    aioloop_server_socket(server, 0, NULL, &address);
    printf("listening on port %d\n", address.port);
    fflush(stdout);
    n = aioloop_await(aioloop_server_serve_forever(server), NULL);
    aioloop_server_unref(server);
    return n;
}

int main(int argc, char **argv) {
    struct service service = {NULL, argc > 1 ? atoi(argv[1]) : 0};
    int64_t n;
    service.pool = aioloop_process_pool_new(NULL); /* first of all: its processes begin with the memory of now */
    if (service.pool == NULL) {
        fprintf(stderr, "process_pool: %s\n", aioloop_error_message(aioloop_last_error(NULL)));
        return 1;
    }
    n = aioloop_run(run, &service, NULL); /* until it is interrupted, which ends the processes too */
    if (n < 0)
        fprintf(stderr, "process_pool: %s\n", aioloop_error_message(aioloop_last_error(NULL)));
    aioloop_process_pool_free(service.pool);
    return n < 0;
}
