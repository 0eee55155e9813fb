/*
 * server.c - the echo server of `make demo`.
 *
 *     server CONNECTIONS
 *
 * Prints its port and its back end; then, when CONNECTIONS are open and before any has sent a byte, what memory they took: the
 * bytes it has from malloc for the loop, and how much the process has grown. Ends when the last connection is gone.
 */
#define AIOLOOP_IMPLEMENTATION
#include "../../aioloop.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

static long expected, opened, closed;

/* ---- memory ---- */

static size_t in_use; /* bytes that the loop has; an allocator is told the sizes, so counting is a sum */
static size_t in_use_before;
static long resident_before;

static void *counting_allocate(void *context, void *pointer, size_t old_size, size_t new_size) {
    void *result = NULL;
    (void)context;
    if (new_size == 0)
        free(pointer);
    else if ((result = realloc(pointer, new_size)) == NULL)
        return NULL;
    in_use += new_size - old_size;
    return result;
}

/* The process's own memory in KiB: what of it is in RAM and belongs to no file. -1 where there is no /proc. */
static long resident(void) {
    char line[128];
    long size = -1;
    FILE *file = fopen("/proc/self/status", "r");
    if (file == NULL)
        return -1;
    while (fgets(line, sizeof(line), file) != NULL)
        if (sscanf(line, "RssAnon: %ld", &size) == 1)
            break;
    fclose(file);
    return size;
}

static void print_memory(void) {
    long now = resident();
    printf("idle_bytes %.0f\n", (double)(in_use - in_use_before) / (double)opened);
    if (now >= 0 && resident_before >= 0)
        printf("idle_resident %.0f\n", (double)(now - resident_before) * 1024.0 / (double)opened);
    fflush(stdout);
}

/* ---- the protocol ---- */

static void echo_made(aioloop_transport *transport, void *self) {
    (void)transport;
    (void)self;
    if (++opened == expected)
        print_memory();
}

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

static void echo_lost(aioloop_transport *transport, void *self, int error) {
    (void)self;
    (void)error;
    if (++closed == expected)
        aioloop_stop(aioloop_transport_get_loop(transport));
}

static const aioloop_protocol echo = {
    .connection_made = echo_made,
    .data_received = echo_received,
    .connection_lost = echo_lost,
    .pause_writing = echo_pause,
    .resume_writing = echo_resume,
};

int main(int argc, char **argv) {
    static const aioloop_allocator counting = {counting_allocate, NULL};
    aioloop_config config = AIOLOOP_ZERO;
    aioloop_server_options options = AIOLOOP_ZERO;
    aioloop_server *server = NULL;
    aioloop_address address;
    struct rlimit files;
    int64_t result;
    aioloop *loop;
    expected = argc > 1 ? atol(argv[1]) : 1000;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    config.allocator = &counting;
    loop = aioloop_new_event_loop(&config);
    if (loop == NULL) {
        fprintf(stderr, "server: %s\n", aioloop_error_message(aioloop_last_error(NULL)));
        return 1;
    }
    options.backlog = 1024;
    result = aioloop_run_until_complete(
        loop, aioloop_create_server(loop, &echo, NULL, "127.0.0.1", 0, &options), &server);
    if (result >= 0) {
        aioloop_server_socket(server, 0, NULL, &address);
        printf("port %d\nbackend %s\n", (int)address.port, aioloop_backend_name(loop));
        fflush(stdout);
        in_use_before = in_use;
        resident_before = resident();
        result = aioloop_run_forever(loop);
    }
    if (result < 0)
        fprintf(stderr, "server: %s\n", aioloop_error_message(aioloop_last_error(loop)));
    aioloop_server_unref(server);
    aioloop_free(loop);
    return result < 0;
}
