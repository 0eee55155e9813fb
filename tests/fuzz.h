/*
 * fuzz.h - what the targets for fuzzing have in common: counted memory, checks, contexts for TLS, and main.
 *
 *     clang -fsanitize=fuzzer,address: FUZZ_LIBFUZZER is defined, and a target is libFuzzer's.
 *     else: fuzz_... FILE ...: plays each file once, as `make test` does with tests/corpus.
 *
 * A target includes this first and defines fuzz_play. Checked is what the sanitizers see, and that all memory is back.
 */
#ifndef TESTS_FUZZ_H
#define TESTS_FUZZ_H

#define AIOLOOP_IMPLEMENTATION
#define AIOLOOP_MALLOC fuzz_malloc
#define AIOLOOP_REALLOC fuzz_realloc
#define AIOLOOP_FREE fuzz_free
#include <stddef.h>
void *fuzz_malloc(size_t size);
void *fuzz_realloc(void *p, size_t size);
void fuzz_free(void *p);
#include "aioloop.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static long fuzz_blocks;

void *fuzz_malloc(size_t size) {
    void *p = malloc(size);
    fuzz_blocks += p != NULL;
    return p;
}

void *fuzz_realloc(void *p, size_t size) {
    void *q = realloc(p, size);
    fuzz_blocks += p == NULL && q != NULL;
    return q;
}

void fuzz_free(void *p) {
    fuzz_blocks -= p != NULL;
    free(p);
}

#define FUZZ_CHECK(condition)                                                                      \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                        \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

static aioloop_ssl_context *fuzz_contexts[2]; /* the client's, the server's */

static void fuzz_load(void) {
    const char *folder = getenv("TEST_CERTIFICATES");
    char names[3][512];
    FUZZ_CHECK(folder != NULL);
    snprintf(names[0], sizeof(names[0]), "%s/ca.pem", folder);
    snprintf(names[1], sizeof(names[1]), "%s/server.pem", folder);
    snprintf(names[2], sizeof(names[2]), "%s/server.key", folder);
    fuzz_contexts[0] = aioloop_ssl_context_new(AIOLOOP_TLS_CLIENT);
    fuzz_contexts[1] = aioloop_ssl_context_new(AIOLOOP_TLS_SERVER);
    FUZZ_CHECK(fuzz_contexts[0] != NULL && fuzz_contexts[1] != NULL);
    FUZZ_CHECK(aioloop_ssl_context_load_verify_locations(fuzz_contexts[0], names[0], NULL) == 1);
    FUZZ_CHECK(aioloop_ssl_context_load_cert_chain(fuzz_contexts[1], names[1], names[2], NULL) == 0);
}

/* Plays one input. */
static void fuzz_play(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    static bool warm; /* the first connection may leave something with the contexts and the thread */
    long blocks;
    if (fuzz_contexts[0] == NULL)
        fuzz_load();
    blocks = fuzz_blocks;
    fuzz_play(bytes, size);
    FUZZ_CHECK(blocks == fuzz_blocks || !warm);
    warm = warm || blocks != fuzz_blocks;
    return 0;
}

#ifndef FUZZ_LIBFUZZER

int main(int argc, char **argv) {
    static uint8_t bytes[1 << 20];
    int i;
    for (i = 1; i < argc; i++) {
        FILE *file = fopen(argv[i], "rb");
        size_t n;
        FUZZ_CHECK(file != NULL);
        n = fread(bytes, 1, sizeof(bytes), file);
        fclose(file);
        LLVMFuzzerTestOneInput(bytes, n);
    }
    printf("%d inputs\n", argc - 1);
    return 0;
}

#endif

#endif
