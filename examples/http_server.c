/*
 * http_server.c - the least of HTTP/1.1 that curl, browsers and wrk are happy with: keep-alive, pipelining, HEAD,
 * bodies of requests (read and ignored), back-pressure. Meant to be read, not to face the internet.
 *
 *     cc -O2 examples/http_server.c -o http_server && ./http_server 8080
 *     curl -i http://127.0.0.1:8080/
 */
#define AIOLOOP_IMPLEMENTATION
#include "../aioloop.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#define HEAD_MAX 8192
#define LARGE_SIZE (4u << 20)

/* A connection. The head of a request is collected here; 8 KiB of its own is a simple choice, not a thrifty one. */
struct connection {
    size_t size;   /* bytes in head */
    uint64_t skip; /* bytes of a request's body still to come */
    bool paused;   /* the peer does not take its answers: no more until it does */
    char head[HEAD_MAX];
};

static unsigned char large[LARGE_SIZE]; /* what /large sends */

/* ---- answers ---- */

/* The date header, made once a second. */
static const char *http_date(void) {
    static char text[40];
    static time_t made;
    time_t now = time(NULL);
    if (now != made) {
        strftime(text, sizeof(text), "%a, %d %b %Y %H:%M:%S GMT", gmtime(&now));
        made = now;
    }
    return text;
}

static void nothing_to_release(const void *data, size_t size, void *arg) {
    (void)data;
    (void)size;
    (void)arg;
}

/* What a request asks for. */
struct request {
    char method[16];
    char path[256];
    bool keep_alive;
    bool expects_continue;
    uint64_t body;
};

static void answer(aioloop_transport *transport, const struct request *request, const char *status, const char *type,
                   const void *body, size_t size) {
    char head[512];
    int head_size = snprintf(head, sizeof(head),
                             "HTTP/1.1 %s\r\nDate: %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\nConnection: %s\r\n\r\n",
                             status, http_date(), type, size, request->keep_alive ? "keep-alive" : "close");
    int error;
    if (strcmp(request->method, "HEAD") == 0)
        size = 0;
    if (body == large && size > 0) { /* lent, not copied: it stays where it is */
        error = aioloop_transport_write(transport, head, (size_t)head_size);
        if (error == 0)
            error = aioloop_transport_write_owned(transport, body, size, nothing_to_release, NULL);
    } else { /* both pieces in one go */
        aioloop_buf pieces[2];
        pieces[0].data = head;
        pieces[0].size = (size_t)head_size;
        pieces[1].data = body;
        pieces[1].size = size;
        error = aioloop_transport_writelines(transport, pieces, 2);
    }
    if (error < 0)
        aioloop_transport_abort(transport);
    else if (!request->keep_alive)
        aioloop_transport_close(transport); /* sends what is buffered first */
}

static void answer_text(aioloop_transport *transport, const struct request *request, const char *status,
                        const char *text) {
    answer(transport, request, status, "text/plain", text, strlen(text));
}

static void route(aioloop_transport *transport, const struct request *request) {
    if (strcmp(request->method, "GET") != 0 && strcmp(request->method, "HEAD") != 0 &&
        strcmp(request->method, "POST") != 0)
        answer_text(transport, request, "501 Not Implemented", "GET, HEAD or POST, please\n");
    else if (strcmp(request->path, "/") == 0)
        answer_text(transport, request, "200 OK", "Hello, world!\n");
    else if (strcmp(request->path, "/path") == 0)
        answer_text(transport, request, "200 OK", request->path);
    else if (strcmp(request->path, "/large") == 0)
        answer(transport, request, "200 OK", "application/octet-stream", large, sizeof(large));
    else
        answer_text(transport, request, "404 Not Found", "no such thing here\n");
}

/* ---- requests ---- */

/* The value of a header line if it has this name, else NULL. */
static const char *header_value(const char *line, const char *name) {
    size_t size = strlen(name);
    if (strncasecmp(line, name, size) != 0 || line[size] != ':')
        return NULL;
    line += size + 1;
    return line + strspn(line, " \t");
}

/* Reads a head; each of its lines has been ended by a zero in place of \r\n. False: it makes no sense. */
static bool parse(char *head, const char *end, struct request *request) {
    int minor;
    memset(request, 0, sizeof(*request));
    if (sscanf(head, "%15s %255s HTTP/1.%d", request->method, request->path, &minor) != 3)
        return false;
    request->keep_alive = minor >= 1;
    for (const char *line = head + strlen(head) + 2; line < end; line += strlen(line) + 2) {
        const char *value;
        if ((value = header_value(line, "Connection")) != NULL) {
            if (strncasecmp(value, "close", 5) == 0)
                request->keep_alive = false;
            else if (strncasecmp(value, "keep-alive", 10) == 0)
                request->keep_alive = true;
        } else if ((value = header_value(line, "Content-Length")) != NULL) {
            char *rest;
            request->body = strtoull(value, &rest, 10);
            if (*value < '0' || *value > '9' || *rest != '\0')
                return false;
        } else if (header_value(line, "Transfer-Encoding") != NULL) {
            return false; /* not of this server */
        } else if ((value = header_value(line, "Expect")) != NULL) {
            request->expects_continue = strncasecmp(value, "100-continue", 12) == 0;
        }
    }
    return true;
}

/* Takes one request off the front of the buffer and answers it; false if there is no whole one. */
static bool next_request(aioloop_transport *transport, struct connection *c) {
    struct request request;
    size_t end, line;
    if (c->skip > 0) {
        size_t n = c->skip < c->size ? (size_t)c->skip : c->size;
        memmove(c->head, c->head + n, c->size - n);
        c->size -= n;
        c->skip -= n;
        return n > 0;
    }
    for (end = 0; end + 4 <= c->size; end++)
        if (memcmp(c->head + end, "\r\n\r\n", 4) == 0)
            break;
    if (end + 4 > c->size && c->size < HEAD_MAX)
        return false;
    if (end + 4 > c->size) {
        memset(&request, 0, sizeof(request));
        answer_text(transport, &request, "431 Request Header Fields Too Large", "the head is too large\n");
        return false;
    }
    for (line = 0; line + 1 < end + 4; line++)
        if (c->head[line] == '\r' && c->head[line + 1] == '\n')
            c->head[line] = c->head[line + 1] = '\0';
    if (!parse(c->head, c->head + end, &request)) {
        request.keep_alive = false;
        answer_text(transport, &request, "400 Bad Request", "this is no request\n");
        return false;
    }
    if (request.expects_continue)
        aioloop_transport_write(transport, "HTTP/1.1 100 Continue\r\n\r\n", 25);
    route(transport, &request);
    c->skip = request.body;
    c->size -= end + 4;
    memmove(c->head, c->head + end + 4, c->size);
    return true;
}

/* Answers what is complete. Pipelined requests wait in the buffer while the peer does not take the answers. */
static void answer_all(aioloop_transport *transport, struct connection *c) {
    while (!c->paused && !aioloop_transport_is_closing(transport) && next_request(transport, c))
        ;
    if (c->paused)
        aioloop_transport_pause_reading(transport);
    else
        aioloop_transport_resume_reading(transport);
}

/* ---- the protocol: reads straight into the connection's buffer, so nothing is copied on the way in ---- */

static size_t http_get_buffer(aioloop_transport *transport, void *self, size_t hint, void **buffer) {
    struct connection *c = (struct connection *)self;
    (void)transport;
    (void)hint;
    *buffer = c->head + c->size;
    return HEAD_MAX - c->size;
}

static void http_buffer_updated(aioloop_transport *transport, void *self, size_t size) {
    struct connection *c = (struct connection *)self;
    c->size += size;
    answer_all(transport, c);
}

static void http_pause(aioloop_transport *transport, void *self) {
    (void)transport;
    ((struct connection *)self)->paused = true;
}

static void http_resume(aioloop_transport *transport, void *self) {
    struct connection *c = (struct connection *)self;
    c->paused = false;
    answer_all(transport, c);
}

static const aioloop_protocol http = {
    .instance_size = sizeof(struct connection),
    .pause_writing = http_pause,
    .resume_writing = http_resume,
    .get_buffer = http_get_buffer,
    .buffer_updated = http_buffer_updated,
};

int main(int argc, char **argv) {
    aioloop_server_options options = AIOLOOP_ZERO;
    aioloop_server *server = NULL;
    aioloop_address address;
    char name[64];
    int64_t result;
    aioloop *loop = aioloop_new_event_loop(NULL);
    if (loop == NULL) {
        fprintf(stderr, "http_server: %s\n", aioloop_error_message(aioloop_last_error(NULL)));
        return 1;
    }
    for (size_t i = 0; i < sizeof(large); i++)
        large[i] = (unsigned char)(i * 2654435761u >> 24);
    options.backlog = 1024;
    result = aioloop_run_until_complete(
        loop, aioloop_create_server(loop, &http, NULL, "127.0.0.1", argc > 1 ? atoi(argv[1]) : 0, &options), &server);
    if (result >= 0) {
        aioloop_server_socket(server, 0, NULL, &address);
        aioloop_address_format(&address, name, sizeof(name));
        printf("listening on http://%s/\n", name);
        fflush(stdout);
        result = aioloop_run_forever(loop);
    }
    if (result < 0)
        fprintf(stderr, "http_server: %s\n", aioloop_error_message(aioloop_last_error(loop)));
    aioloop_server_unref(server);
    aioloop_free(loop);
    return result < 0;
}
