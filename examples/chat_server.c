/*
 * chat_server.c - what one says, all hear. Each connection has memory of its own, and nobody who is slow
 * holds up the others or fills the memory.
 *
 *     cc examples/chat_server.c -o chat_server && ./chat_server 8889
 *     nc 127.0.0.1 8889
 */
#define AIOLOOP_IMPLEMENTATION
#include "../aioloop.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LINE_MAX_SIZE 500

struct room {
    struct client *first;
    unsigned next_number;
};

/* The memory of a connection: instance_size bytes, zeroed, freed with the transport. */
struct client {
    struct client *next;
    struct client *previous;
    struct room *room;
    aioloop_transport *transport;
    unsigned number;
    unsigned missed; /* lines dropped while it did not read */
    bool slow;
    size_t size;
    char line[LINE_MAX_SIZE];
};

static void say(struct client *client, const char *text, size_t size) {
    if (client->slow)
        client->missed++;
    else if (aioloop_transport_write(client->transport, text, size) < 0)
        aioloop_transport_abort(client->transport);
}

/* Nothing here can remove a client meanwhile: callbacks come from the loop only, never from inside a write. The one
 * exception, pause_writing, touches nothing but its own client's flag. */
static void broadcast(struct room *room, const struct client *from, const char *text) {
    char message[LINE_MAX_SIZE + 32];
    int size = snprintf(message, sizeof(message), "%u: %s\n", from->number, text);
    for (struct client *client = room->first; client != NULL; client = client->next)
        if (client != from)
            say(client, message, (size_t)size);
}

/* Prepares a connection's memory. A code below 0 would turn the connection away. */
static int chat_factory(void *self, void *arg) {
    struct client *client = (struct client *)self;
    client->room = (struct room *)arg;
    client->number = ++client->room->next_number;
    return 0;
}

static void chat_made(aioloop_transport *transport, void *self) {
    struct client *client = (struct client *)self;
    client->transport = transport; /* ours to use until connection_lost */
    client->next = client->room->first;
    if (client->next != NULL)
        client->next->previous = client;
    client->room->first = client;
    broadcast(client->room, client, "(came in)");
}

static void chat_lost(aioloop_transport *transport, void *self, int error) {
    struct client *client = (struct client *)self;
    (void)transport;
    if (client->previous != NULL)
        client->previous->next = client->next;
    else
        client->room->first = client->next;
    if (client->next != NULL)
        client->next->previous = client->previous;
    broadcast(client->room, client, error < 0 ? aioloop_strerror(error) : "(left)");
}

/* Bytes come in pieces of any size; lines are made here. A line that is too long is said in parts. */
static void chat_received(aioloop_transport *transport, void *self, const void *data, size_t size) {
    struct client *client = (struct client *)self;
    const char *bytes = (const char *)data;
    (void)transport;
    for (size_t i = 0; i < size; i++) {
        if (bytes[i] != '\n' && bytes[i] != '\r' && bytes[i] != '\0')
            client->line[client->size++] = bytes[i];
        if ((bytes[i] == '\n' && client->size > 0) || client->size == LINE_MAX_SIZE - 1) {
            client->line[client->size] = '\0';
            broadcast(client->room, client, client->line);
            client->size = 0;
        }
    }
}

/* More than 64 KiB wait to be sent: this one does not read. It misses lines until it has caught up. */
static void chat_pause(aioloop_transport *transport, void *self) {
    (void)transport;
    ((struct client *)self)->slow = true;
}

static void chat_resume(aioloop_transport *transport, void *self) {
    struct client *client = (struct client *)self;
    char text[64];
    int size = snprintf(text, sizeof(text), "(you missed %u lines)\n", client->missed);
    (void)transport;
    client->slow = false;
    if (client->missed > 0)
        say(client, text, (size_t)size);
    client->missed = 0;
}

static const aioloop_protocol chat = {
    .instance_size = sizeof(struct client),
    .factory = chat_factory,
    .connection_made = chat_made,
    .data_received = chat_received,
    .connection_lost = chat_lost,
    .pause_writing = chat_pause,
    .resume_writing = chat_resume,
};

int main(int argc, char **argv) {
    struct room room = {NULL, 0};
    aioloop_server *server = NULL;
    aioloop_address address;
    char name[64];
    int64_t result;
    aioloop *loop = aioloop_new_event_loop(NULL);
    if (loop == NULL) {
        fprintf(stderr, "chat_server: %s\n", aioloop_error_message(aioloop_last_error(NULL)));
        return 1;
    }
    result = aioloop_run_until_complete(
        loop, aioloop_create_server(loop, &chat, &room, "127.0.0.1", argc > 1 ? atoi(argv[1]) : 0, NULL), &server);
    if (result >= 0) {
        aioloop_server_socket(server, 0, NULL, &address);
        aioloop_address_format(&address, name, sizeof(name));
        printf("listening on %s\n", name);
        fflush(stdout);
        result = aioloop_run_forever(loop);
    }
    if (result < 0)
        fprintf(stderr, "chat_server: %s\n", aioloop_error_message(aioloop_last_error(loop)));
    aioloop_server_unref(server);
    aioloop_free(loop);
    return result < 0;
}
