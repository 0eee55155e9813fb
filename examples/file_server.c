/*
 * file_server.c - the files of a folder over HTTP/1.1, sent by the system itself (aioloop_sendfile): no byte of them
 * comes by here. A task for each connection, keep-alive, GET and HEAD. Meant to be read, not to face the internet.
 *
 *     cc -O2 examples/file_server.c -o file_server && ./file_server examples 8080
 *     curl http://127.0.0.1:8080/file_server.c
 */
#define AIOLOOP_IMPLEMENTATION
#include "../aioloop.h"

#include <ctype.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define IDLE AIOLOOP_SECONDS(30)
#define HEAD_LIMIT 8192

struct request {
    char method[8];
    char path[1024];
    bool keep_alive;
};

/* "%41" is "A". False for what is no path. */
static bool decode(char *path) {
    char *to = path;
    for (const char *from = path; *from != '\0'; from++) {
        char hex[3] = "";
        if (*from == '?')
            break;
        if (*from != '%') {
            *to++ = *from;
            continue;
        }
        if (!isxdigit((unsigned char)from[1]) || !isxdigit((unsigned char)from[2]))
            return false;
        memcpy(hex, from + 1, 2);
        *to = (char)strtol(hex, NULL, 16);
        if (*to++ == '\0')
            return false;
        from += 2;
    }
    *to = '\0';
    return true;
}

static bool parse(char *head, struct request *request) {
    int minor = 0;
    if (sscanf(head, "%7[A-Z] /%1023[^ \r\n] HTTP/1.%d", request->method, request->path, &minor) < 2) {
        snprintf(request->path, sizeof(request->path), "index.html");
        if (sscanf(head, "%7[A-Z] / HTTP/1.%d", request->method, &minor) < 2)
            return false;
    }
    request->keep_alive = minor == 1 && strstr(head, "onnection: close") == NULL;
    return decode(request->path);
}

/* Opens a file of the folder; -1: there is none. Nothing that begins with a dot, so nothing above the folder either. */
static aioloop_file open_file(const char *path, int64_t *size) {
    struct stat status;
    aioloop_file file;
    if (path[0] == '.' || path[0] == '/' || strstr(path, "/.") != NULL)
        return -1;
    file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file < 0)
        return -1;
    if (fstat(file, &status) == 0 && S_ISREG(status.st_mode)) {
        *size = (int64_t)status.st_size;
        return file;
    }
    close(file);
    return -1;
}

static int send_head(aioloop_stream *stream, const struct request *request, const char *status, int64_t size) {
    char head[256];
    int n = snprintf(head, sizeof(head), "HTTP/1.1 %s\r\nContent-Length: %lld\r\nConnection: %s\r\n\r\n", status, (long long)size,
                     request->keep_alive ? "keep-alive" : "close");
    return aioloop_stream_write(stream, head, (size_t)n);
}

/* The file stays open until it is sent, however that ends. */
static int64_t send_file(aioloop *loop, aioloop_stream *stream, const struct request *request, aioloop_file file, int64_t size) {
    int64_t n = send_head(stream, request, "200 OK", size);
    if (n == 0 && size != 0 && strcmp(request->method, "HEAD") != 0) {
        n = aioloop_await(aioloop_sendfile(loop, aioloop_stream_get_transport(stream), file, 0, size, NULL), NULL);
        if (n >= 0 && n < size)
            n = aioloop_raise(loop, AIOLOOP_EIO, "%s was cut while it was sent", request->path);
    }
    close(file);
    return n;
}

static int64_t answer(aioloop *loop, aioloop_stream *stream, char *head, bool *goes_on) {
    struct request request = AIOLOOP_ZERO;
    aioloop_file file;
    int64_t size = 0;
    if (!parse(head, &request))
        return send_head(stream, &request, "400 Bad Request", 0);
    *goes_on = request.keep_alive;
    if (strcmp(request.method, "GET") != 0 && strcmp(request.method, "HEAD") != 0) {
        *goes_on = request.keep_alive = false; /* there may be a body */
        return send_head(stream, &request, "405 Method Not Allowed", 0);
    }
    file = open_file(request.path, &size);
    return file < 0 ? send_head(stream, &request, "404 Not Found", 0) : send_file(loop, stream, &request, file, size);
}

/* The life of a connection. */
static int64_t serve(aioloop *loop, aioloop_stream *stream, void *arg) {
    bool goes_on = true;
    int64_t n = 0;
    (void)arg;
    while (goes_on && n >= 0) {
        char *found = NULL;
        char head[HEAD_LIMIT + 1];
        n = aioloop_await(aioloop_wait_for(aioloop_stream_readuntil(stream, "\r\n\r\n", 4), IDLE), &found);
        if (n < 0)
            return 0; /* left, idle, or no HTTP */
        memcpy(head, found, (size_t)n);
        head[n] = '\0';
        goes_on = false;
        n = answer(loop, stream, head, &goes_on);
        if (n >= 0)
            n = aioloop_await(aioloop_stream_drain(stream), NULL);
    }
    return n == AIOLOOP_ECONNRESET || n == AIOLOOP_EPIPE ? 0 : n;
}

static int64_t run(aioloop *loop, void *arg, void **out) {
    aioloop_stream_server_options options = AIOLOOP_ZERO;
    aioloop_address address = AIOLOOP_ZERO;
    aioloop_server *server = NULL;
    int64_t n;
    (void)out;
    options.limit = HEAD_LIMIT;
    n = aioloop_await(aioloop_start_server(loop, serve, NULL, "127.0.0.1", *(const int *)arg, &options), &server);
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
    int port = argc > 2 ? atoi(argv[2]) : 8080;
    int64_t n;
    if (argc < 2 || chdir(argv[1]) != 0) {
        fprintf(stderr, "usage: %s FOLDER [PORT]\n", argv[0]);
        return 2;
    }
    n = aioloop_run(run, &port, NULL);
    if (n < 0)
        fprintf(stderr, "file_server: %s\n", aioloop_error_message(aioloop_last_error(NULL)));
    return n < 0;
}
