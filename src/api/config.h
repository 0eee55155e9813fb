/*
 * config.h - the switches, and how the library's functions are declared.
 *
 * Define a switch before the include that also has AIOLOOP_IMPLEMENTATION; the declarations do not depend on any of
 * them, so files compiled with different switches agree.
 *
 *   AIOLOOP_IMPLEMENTATION   in one C or C++ file of the program: compile the library here
 *   AIOLOOP_STATIC           every function is static: a private copy in the file that has the implementation
 *   AIOLOOP_API              how public functions are declared; for example __attribute__((visibility("default")))
 *   AIOLOOP_USE_THREADS      1: loops in several threads, and calls from other threads        (default 1)
 *   AIOLOOP_USE_DEBUG        1: debug mode is compiled in; it is still off until asked for    (default 1)
 *   AIOLOOP_USE_COROUTINES   1: coroutines with a stack of their own; those without are always there   (default 1 where
 *                            a way to switch stacks is known: x86, Arm, AArch64, RISC-V, <ucontext.h>; with AIOLOOP_PORT 0)
 *   AIOLOOP_USE_TLS          1: TLS, by mbedTLS, which the program links: -lmbedtls -lmbedx509 -lmbedcrypto   (default 0)
 *   AIOLOOP_USE_SUBPROCESS   1: signals and subprocesses; the system must have them           (default 1; with AIOLOOP_PORT 0)
 *   AIOLOOP_USE_UCONTEXT     1: they switch by <ucontext.h>, not by assembly                  (default 0)
 *   AIOLOOP_BACKENDS         a sum of AIOLOOP_BACKEND_...: which back ends are compiled in    (default: all
 *                            that the system has)
 *   AIOLOOP_PORT             1: no operating system; the functions of port.h are the user's   (default 0)
 *   AIOLOOP_MALLOC(size), AIOLOOP_REALLOC(pointer, size), AIOLOOP_FREE(pointer)
 *                            all three or none; the default is the C library's
 *   AIOLOOP_DEBUG_SITES      in any including file: calls that make something record file and line, for
 *                            the reports of debug mode
 */
#ifndef AIOLOOP_API_CONFIG_H
#define AIOLOOP_API_CONFIG_H

#include <stddef.h>
#include <stdint.h>
#include <stdbool.h>

#define AIOLOOP_VERSION_MAJOR 0
#define AIOLOOP_VERSION_MINOR 1
#define AIOLOOP_VERSION_PATCH 0
#define AIOLOOP_VERSION "0.1.0"

/* Back ends, for AIOLOOP_BACKENDS. */
#define AIOLOOP_BACKEND_EPOLL 0x01
#define AIOLOOP_BACKEND_POLL 0x02
#define AIOLOOP_BACKEND_SELECT 0x04
#define AIOLOOP_BACKEND_SIM 0x08
#define AIOLOOP_BACKEND_IO_URING 0x10 /* where it is forbidden, the program runs on the next best */

#ifndef AIOLOOP_API
#ifdef AIOLOOP_STATIC
#if defined(__GNUC__)
#define AIOLOOP_API __attribute__((unused)) static
#else
#define AIOLOOP_API static
#endif
#else
#define AIOLOOP_API extern
#endif
#endif

/* What a socket is: see aioloop_socket. */
#ifdef _WIN32
#define AIOLOOP_SOCKET_TYPE intptr_t
#else
#define AIOLOOP_SOCKET_TYPE int
#endif

/* The initialiser that makes every options struct all defaults: {0} in C, {} in C++. */
#ifdef __cplusplus
#define AIOLOOP_ZERO {}
#else
#define AIOLOOP_ZERO {0}
#endif

/* Marks a function whose result must be used. AIOLOOP_PRINTF: arguments are checked as printf's. */
#if defined(__GNUC__)
#define AIOLOOP_MUST_USE __attribute__((warn_unused_result))
#if defined(__MINGW32__) && !defined(__clang__)
#define AIOLOOP_PRINTF(text, first) __attribute__((format(gnu_printf, text, first)))
#else
#define AIOLOOP_PRINTF(text, first) __attribute__((format(printf, text, first)))
#endif
#else
#define AIOLOOP_MUST_USE
#define AIOLOOP_PRINTF(text, first)
#endif

#endif
