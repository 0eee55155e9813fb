/*
 * bench_tls_libevent.c - TLS on libevent: its bufferevents over OpenSSL.
 */
#include "bench_tls.h"
#include <event2/buffer.h>
#include <event2/bufferevent_ssl.h>
#include <event2/event.h>
#include <event2/listener.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>

static struct event_base *base;
static SSL_CTX *context;

static void client_end(struct bufferevent *client) {
    SSL *ssl = bufferevent_openssl_get_ssl(client);
    SSL_set_shutdown(ssl, SSL_RECEIVED_SHUTDOWN);
    SSL_shutdown(ssl);
    bufferevent_free(client);
    if (!bench_closed())
        event_base_loopbreak(base);
}

static void client_received(struct bufferevent *client, void *arg) {
    struct evbuffer *input = bufferevent_get_input(client);
    (void)arg;
    while (evbuffer_get_length(input) >= bench_tls_request) {
        evbuffer_drain(input, bench_tls_request);
        bufferevent_write(client, bench_tls_answer, bench_tls_answer_size);
    }
}

static void client_event(struct bufferevent *client, short what, void *arg) {
    (void)arg;
    if (what & (BEV_EVENT_EOF | BEV_EVENT_ERROR | BEV_EVENT_TIMEOUT))
        client_end(client);
}

static void accepted(struct evconnlistener *listener, evutil_socket_t fd, struct sockaddr *address, int size, void *arg) {
    struct bufferevent *client =
        bufferevent_openssl_socket_new(base, fd, SSL_new(context), BUFFEREVENT_SSL_ACCEPTING, BEV_OPT_CLOSE_ON_FREE);
    (void)listener;
    (void)address;
    (void)size;
    (void)arg;
    bench_check(client != NULL, "bufferevent_openssl_socket_new");
    bench_nodelay(fd);
    bench_opened();
    bufferevent_setcb(client, client_received, NULL, client_event, NULL);
    bufferevent_enable(client, EV_READ | EV_WRITE);
}

static void control(evutil_socket_t fd, short what, void *arg) {
    (void)fd;
    (void)what;
    (void)arg;
    if (!bench_control())
        event_base_loopbreak(base);
}

static void context_new(const struct bench_args *args) {
    int version = args->tls == 13 ? TLS1_3_VERSION : TLS1_2_VERSION;
    context = SSL_CTX_new(TLS_server_method());
    bench_check(SSL_CTX_use_certificate_chain_file(context, bench_tls_file(args, "server.pem")) == 1, "certificate");
    bench_check(SSL_CTX_use_PrivateKey_file(context, bench_tls_file(args, "server.key"), SSL_FILETYPE_PEM) == 1, "key");
    SSL_CTX_set_min_proto_version(context, version);
    SSL_CTX_set_max_proto_version(context, version);
    bench_check(SSL_CTX_set_cipher_list(context, BENCH_TLS_SUITE_12) == 1, "SSL_CTX_set_cipher_list");
    bench_check(SSL_CTX_set_ciphersuites(context, BENCH_TLS_SUITE_13) == 1, "SSL_CTX_set_ciphersuites");
}

static void serve(const struct bench_args *args) {
    signal(SIGPIPE, SIG_IGN);
    bench_tls_begin(args);
    context_new(args);
    base = event_base_new();
    bench_engine = event_base_get_method(base);
    evconnlistener_new(base, accepted, NULL, LEV_OPT_CLOSE_ON_FREE, 0, bench_listen());
    event_add(event_new(base, 0, EV_READ | EV_PERSIST, control, NULL), NULL);
    event_base_dispatch(base);
}

int main(int argc, char **argv) {
    static const struct bench_mode modes[] = {{"serve", serve}};
    return bench_run(argc, argv, modes, sizeof(modes) / sizeof(modes[0]));
}
