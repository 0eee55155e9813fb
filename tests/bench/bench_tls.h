/*
 * bench_tls.h - what the TLS servers share. Each is started as
 *
 *     bench_X serve --folder CERTIFICATES --tls 12|13 --size S --answer A --connections C [--core N]
 *
 * prints "port P", and answers every S bytes that come over a connection with A bytes, until its standard input ends;
 * each byte there asks for figures. The certificate is server.pem of the folder, its key server.key, ECDSA's of P-256;
 * one suite is spoken, the same everywhere: ECDHE with P-256 and AES-128-GCM.
 */
#ifndef BENCH_TLS_H
#define BENCH_TLS_H

#define BENCH_NO_MAIN
#include "bench.h"

#define BENCH_TLS_SUITE_12 "ECDHE-ECDSA-AES128-GCM-SHA256"
#define BENCH_TLS_SUITE_13 "TLS_AES_128_GCM_SHA256"

/* ---- allocations are counted, those of the libraries too ---- */

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *memory, size_t size);

void *malloc(size_t size) {
    __atomic_fetch_add(&bench_allocations, 1, __ATOMIC_RELAXED);
    return __libc_malloc(size);
}

void *calloc(size_t count, size_t size) {
    __atomic_fetch_add(&bench_allocations, 1, __ATOMIC_RELAXED);
    return __libc_calloc(count, size);
}

void *realloc(void *memory, size_t size) {
    __atomic_fetch_add(&bench_allocations, 1, __ATOMIC_RELAXED);
    return __libc_realloc(memory, size);
}

/* ---- requests ---- */

enum { BENCH_TLS_MOST = 256 * 1024 };

/* What is asked for and what is answered. */
static size_t bench_tls_request, bench_tls_answer_size;
static char bench_tls_answer[BENCH_TLS_MOST];

BENCH_FN void bench_tls_begin(const struct bench_args *args) {
    bench_check(args->size > 0 && args->answer >= 0 && args->answer <= BENCH_TLS_MOST, "--size, --answer");
    bench_tls_request = (size_t)args->size;
    bench_tls_answer_size = (size_t)args->answer;
    memset(bench_tls_answer, 'a', sizeof(bench_tls_answer));
}

/* A file of the folder: its name, good until the next call but one. */
BENCH_FN const char *bench_tls_file(const struct bench_args *args, const char *name) {
    static char names[2][512];
    static int turn;
    turn = !turn;
    snprintf(names[turn], sizeof(names[turn]), "%s/%s", args->folder, name);
    return names[turn];
}

#endif
