/*
 * chat_streams.c - a chat room with a task for each who is in it: streams, lines, names, and an orderly end.
 *
 *     cc examples/chat_streams.c -o chat_streams && ./chat_streams 8889
 *     nc 127.0.0.1 8889
 */
#define AIOLOOP_IMPLEMENTATION
#include "../aioloop.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BEHIND 65536 /* bytes that a member may be behind with reading before lines pass it by */

struct member {
    struct member *next;
    aioloop_stream *stream;
    char name[32];
};

struct room {
    struct member *first;
    aioloop_server *server;
    aioloop_task *serving;
    int port;
};

/* Never waits, so nobody comes or goes meanwhile. */
static void say(struct room *room, const struct member *from, const char *text) {
    char line[600];
    int size = snprintf(line, sizeof(line), "%s: %s\n", from == NULL ? "*" : from->name, text);
    for (struct member *member = room->first; member != NULL; member = member->next)
        if (member != from &&
            aioloop_transport_get_write_buffer_size(aioloop_stream_get_transport(member->stream)) <= BEHIND)
            (void)aioloop_stream_write(member->stream, line, (size_t)size);
}

/* Reads a line without its end; 0 when there is none any more. It lies in the stream until the next one is read. */
static int64_t read_line(aioloop_stream *stream, char **line) {
    int64_t n = aioloop_await(aioloop_stream_readline(stream), line);
    if (n > 0)
        (*line)[strcspn(*line, "\r\n")] = '\0';
    return n == AIOLOOP_ECONNRESET || n == AIOLOOP_EPIPE ? 0 : n;
}

static int64_t chat(struct room *room, struct member *member) {
    char *line = NULL;
    int64_t n;
    while ((n = read_line(member->stream, &line)) > 0)
        say(room, member, line);
    return n;
}

/* The life of a connection. What it returns ends it: 0 and being cancelled without a word, an error with a report. */
static int64_t serve(aioloop *loop, aioloop_stream *stream, void *arg) {
    struct room *room = (struct room *)arg;
    struct member member;
    struct member **link;
    char *line = NULL;
    int64_t n;
    (void)loop;
    (void)aioloop_stream_write(stream, "your name? ", 11);
    n = read_line(stream, &line);
    if (n <= 0)
        return n;
    snprintf(member.name, sizeof(member.name), "%.30s", line);
    member.stream = stream;
    member.next = room->first;
    room->first = &member;
    say(room, &member, "(came in)");
    n = chat(room, &member); /* however it ends, the member leaves */
    for (link = &room->first; *link != &member; link = &(*link)->next)
        ;
    *link = member.next;
    say(room, &member, "(left)");
    return n;
}

static void give_up(aioloop *loop, void *arg) {
    (void)loop;
    aioloop_server_abort_clients(((struct room *)arg)->server);
}

/* Says goodbye and closes; who does not read it in five seconds is dropped. serve_forever ends when all are gone. A second
 * signal ends the program. */
static void stop(aioloop *loop, void *arg) {
    struct room *room = (struct room *)arg;
    aioloop_remove_signal_handler(loop, SIGINT);
    aioloop_remove_signal_handler(loop, SIGTERM);
    say(room, NULL, "the room is closing");
    aioloop_server_close_clients(room->server);
    aioloop_call_later(loop, AIOLOOP_SECONDS(5), give_up, room);
    aioloop_future_cancel(room->serving, NULL);
}

static int64_t run(aioloop *loop, void *arg, void **out) {
    struct room *room = (struct room *)arg;
    aioloop_stream_server_options options = AIOLOOP_ZERO;
    aioloop_address address = AIOLOOP_ZERO;
    int64_t n;
    (void)out;
    options.limit = 500; /* a longer line ends the connection, with a report */
    n = aioloop_await(aioloop_start_server(loop, serve, room, "127.0.0.1", room->port, &options), &room->server);
    if (n >= 0)
        n = aioloop_add_signal_handler(loop, SIGINT, stop, room);
    if (n >= 0)
        n = aioloop_add_signal_handler(loop, SIGTERM, stop, room);
    if (n < 0)
        return n;
    aioloop_server_socket(room->server, 0, NULL, &address);
    printf("listening on port %d\n", address.port);
    fflush(stdout);
    room->serving = aioloop_future_ref(aioloop_server_serve_forever(room->server));
    n = aioloop_await(room->serving, NULL);
    aioloop_future_unref(room->serving);
    aioloop_server_unref(room->server);
    return n == AIOLOOP_ECANCELED ? 0 : n;
}

int main(int argc, char **argv) {
    struct room room = {NULL, NULL, NULL, argc > 1 ? atoi(argv[1]) : 0};
    int64_t n;
    n = aioloop_run(run, &room, NULL);
    if (n < 0)
        fprintf(stderr, "chat_streams: %s\n", aioloop_error_message(aioloop_last_error(NULL)));
    return n < 0;
}
