/*
 * bench_tls_hand.c - mbedTLS called directly, without a loop: blocking sockets, one connection after the other, or a thread
 * for each where there are several. What TLS by mbedTLS costs at least.
 *
 *     bench_tls_hand serve ...      reads as much as there is at once and sends when it is about to wait, or has 64 KiB
 *     bench_tls_hand plain ...      every record is read by two calls, its head and its body, and sent by one, which is
 *                                   what mbedTLS asks for and most programs do
 *     with --connections 0          each connection is answered once and then kept, by one thread: idle ones
 */
#include "bench_tls.h"

#include <mbedtls/version.h>

#include <mbedtls/ctr_drbg.h>
#include <mbedtls/entropy.h>
#include <mbedtls/pk.h>
#include <mbedtls/ssl.h>
#include <mbedtls/ssl_ciphersuites.h>
#include <mbedtls/ssl_ticket.h>
#include <mbedtls/x509_crt.h>
#ifdef MBEDTLS_PSA_CRYPTO_C
#include <psa/crypto.h>
#endif

#define PEER_BUFFER (64 * 1024)

struct buffers {
    size_t in_at, in_end, out_size;
    unsigned char in[PEER_BUFFER], out[PEER_BUFFER];
};

struct peer {
    int fd;
    struct buffers *buffers; /* NULL: none */
    mbedtls_ssl_context ssl;
};

static struct {
    mbedtls_ssl_config config;
    mbedtls_x509_crt certificate;
    mbedtls_pk_context key;
    mbedtls_entropy_context entropy;
    mbedtls_ctr_drbg_context random;
    mbedtls_ssl_ticket_context tickets;
} tls;

static bool buffered;

/* ---- reading and writing ---- */

static int send_all(int fd, const unsigned char *data, size_t size) {
    while (size > 0) {
        ssize_t n = send(fd, data, size, MSG_NOSIGNAL);
        if (n <= 0)
            return MBEDTLS_ERR_SSL_CONN_EOF;
        data += n;
        size -= (size_t)n;
    }
    return 0;
}

static int peer_flush(struct peer *p) {
    size_t size = p->buffers->out_size;
    p->buffers->out_size = 0;
    return send_all(p->fd, p->buffers->out, size);
}

static int plain_send(void *arg, const unsigned char *data, size_t size) {
    int err = send_all(((struct peer *)arg)->fd, data, size);
    return err < 0 ? err : (int)size;
}

static int plain_receive(void *arg, unsigned char *data, size_t size) {
    ssize_t n = recv(((struct peer *)arg)->fd, data, size, 0);
    return n < 0 ? MBEDTLS_ERR_SSL_CONN_EOF : (int)n;
}

static int buffered_send(void *arg, const unsigned char *data, size_t size) {
    struct peer *p = (struct peer *)arg;
    struct buffers *b = p->buffers;
    if (b->out_size + size > sizeof(b->out) && peer_flush(p) < 0)
        return MBEDTLS_ERR_SSL_CONN_EOF;
    memcpy(b->out + b->out_size, data, size);
    b->out_size += size;
    return (int)size;
}

static int buffered_receive(void *arg, unsigned char *data, size_t size) {
    struct peer *p = (struct peer *)arg;
    struct buffers *b = p->buffers;
    if (b->in_at == b->in_end) {
        ssize_t n;
        if (b->out_size != 0 && peer_flush(p) < 0)
            return MBEDTLS_ERR_SSL_CONN_EOF;
        n = recv(p->fd, b->in, sizeof(b->in), 0);
        if (n <= 0)
            return n < 0 ? MBEDTLS_ERR_SSL_CONN_EOF : 0;
        b->in_at = 0;
        b->in_end = (size_t)n;
    }
    if (size > b->in_end - b->in_at)
        size = b->in_end - b->in_at;
    memcpy(data, b->in + b->in_at, size);
    b->in_at += size;
    return (int)size;
}

/* ---- a connection ---- */

static void peer_open(struct peer *p, int fd, struct buffers *buffers) {
    p->fd = fd;
    p->buffers = buffers;
    bench_nodelay(fd);
    mbedtls_ssl_init(&p->ssl);
    bench_check(mbedtls_ssl_setup(&p->ssl, &tls.config) == 0, "mbedtls_ssl_setup");
    if (buffers != NULL) {
        buffers->in_at = buffers->in_end = buffers->out_size = 0;
        mbedtls_ssl_set_bio(&p->ssl, p, buffered_send, buffered_receive, NULL);
    } else {
        mbedtls_ssl_set_bio(&p->ssl, p, plain_send, plain_receive, NULL);
    }
}

static bool peer_write(struct peer *p, const char *data, size_t size) {
    while (size > 0) {
        int n = mbedtls_ssl_write(&p->ssl, (const unsigned char *)data, size);
        if (n <= 0)
            return false;
        data += n;
        size -= (size_t)n;
    }
    return true;
}

/* Answers so many requests, or all. */
static void peer_serve(struct peer *p, long requests) {
    unsigned char data[16384];
    size_t got = 0;
    if (mbedtls_ssl_handshake(&p->ssl) != 0)
        return;
    while (requests != 0) {
        int n = mbedtls_ssl_read(&p->ssl, data, sizeof(data));
        if (n <= 0)
            return;
        for (got += (size_t)n; got >= bench_tls_request && requests != 0; got -= bench_tls_request, requests--)
            if (!peer_write(p, bench_tls_answer, bench_tls_answer_size))
                return;
    }
}

static void peer_close(struct peer *p) {
    mbedtls_ssl_close_notify(&p->ssl);
    if (p->buffers != NULL)
        peer_flush(p);
    mbedtls_ssl_free(&p->ssl);
    close(p->fd);
}

static void peer_run(int fd, struct buffers *buffers) {
    struct peer p;
    peer_open(&p, fd, buffers);
    peer_serve(&p, -1);
    peer_close(&p);
}

static void *peer_thread(void *arg) {
    struct buffers *buffers = buffered ? (struct buffers *)bench_alloc(1, sizeof(*buffers)) : NULL;
    int fd = (int)(intptr_t)arg;
    peer_run(fd, buffers);
    free(buffers);
    return NULL;
}

static void peer_keep(int fd) {
    struct peer *p = (struct peer *)malloc(sizeof(*p));
    bench_check(p != NULL, "malloc");
    bench_opened();
    peer_open(p, fd, NULL);
    peer_serve(p, 1);
}

/* ---- the server ---- */

static void configure(const struct bench_args *args) {
    static int suites[2];
    mbedtls_ssl_config_init(&tls.config);
    mbedtls_x509_crt_init(&tls.certificate);
    mbedtls_pk_init(&tls.key);
    mbedtls_entropy_init(&tls.entropy);
    mbedtls_ctr_drbg_init(&tls.random);
    mbedtls_ssl_ticket_init(&tls.tickets);
#ifdef MBEDTLS_PSA_CRYPTO_C
    bench_check(psa_crypto_init() == PSA_SUCCESS, "psa_crypto_init");
#endif
    bench_check(mbedtls_ctr_drbg_seed(&tls.random, mbedtls_entropy_func, &tls.entropy, NULL, 0) == 0, "mbedtls_ctr_drbg_seed");
    bench_check(mbedtls_x509_crt_parse_file(&tls.certificate, bench_tls_file(args, "server.pem")) == 0, "certificate");
#if MBEDTLS_VERSION_NUMBER >= 0x03000000
    bench_check(mbedtls_pk_parse_keyfile(&tls.key, bench_tls_file(args, "server.key"), NULL, mbedtls_ctr_drbg_random, &tls.random) == 0, "key");
#else
    bench_check(mbedtls_pk_parse_keyfile(&tls.key, bench_tls_file(args, "server.key"), NULL) == 0, "key");
#endif
    bench_check(mbedtls_ssl_config_defaults(&tls.config, MBEDTLS_SSL_IS_SERVER, MBEDTLS_SSL_TRANSPORT_STREAM, MBEDTLS_SSL_PRESET_DEFAULT) == 0,
                "mbedtls_ssl_config_defaults");
    mbedtls_ssl_conf_rng(&tls.config, mbedtls_ctr_drbg_random, &tls.random);
    bench_check(mbedtls_ssl_conf_own_cert(&tls.config, &tls.certificate, &tls.key) == 0, "mbedtls_ssl_conf_own_cert");
#if MBEDTLS_VERSION_NUMBER >= 0x03000000
    suites[0] = args->tls == 13 ? 0x1301 : 0xc02b;
    mbedtls_ssl_conf_min_tls_version(&tls.config, args->tls == 13 ? MBEDTLS_SSL_VERSION_TLS1_3 : MBEDTLS_SSL_VERSION_TLS1_2);
    mbedtls_ssl_conf_max_tls_version(&tls.config, args->tls == 13 ? MBEDTLS_SSL_VERSION_TLS1_3 : MBEDTLS_SSL_VERSION_TLS1_2);
#else
    bench_check(args->tls == 12, "TLS 1.3 needs mbedTLS 3");
    suites[0] = 0xc02b;
    mbedtls_ssl_conf_min_version(&tls.config, MBEDTLS_SSL_MAJOR_VERSION_3, MBEDTLS_SSL_MINOR_VERSION_3);
#endif
    mbedtls_ssl_conf_ciphersuites(&tls.config, suites);
    bench_check(mbedtls_ssl_ticket_setup(&tls.tickets, mbedtls_ctr_drbg_random, &tls.random, MBEDTLS_CIPHER_AES_256_GCM, 86400) == 0,
                "mbedtls_ssl_ticket_setup");
    mbedtls_ssl_conf_session_tickets_cb(&tls.config, mbedtls_ssl_ticket_write, mbedtls_ssl_ticket_parse, &tls.tickets);
}

/* Standard input is somebody else's meanwhile. */
static void *control_thread(void *arg) {
    while (bench_control())
        ;
    (void)arg;
    exit(0);
}

static void run(const struct bench_args *args) {
    struct buffers *buffers = NULL;
    pthread_t control;
    int listener;
    bench_engine = "blocking";
    bench_tls_begin(args);
    configure(args);
    listener = bench_listen();
    fcntl(listener, F_SETFL, 0);
    if (buffered)
        buffers = (struct buffers *)bench_alloc(1, sizeof(*buffers));
    bench_check(pthread_create(&control, NULL, control_thread, NULL) == 0, "pthread_create");
    do {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        pthread_t thread;
        bench_check(fd >= 0, "accept4");
        if (args->connections == 0) {
            peer_keep(fd);
        } else if (args->connections == 1) {
            peer_run(fd, buffers);
        } else {
            bench_check(pthread_create(&thread, NULL, peer_thread, (void *)(intptr_t)fd) == 0, "pthread_create");
            pthread_detach(thread);
        }
    } while (!bench_once);
}

static void serve(const struct bench_args *args) {
    buffered = true;
    run(args);
}

static void plain(const struct bench_args *args) {
    run(args);
}

int main(int argc, char **argv) {
    static const struct bench_mode modes[] = {{"serve", serve}, {"plain", plain}};
    return bench_run(argc, argv, modes, sizeof(modes) / sizeof(modes[0]));
}
