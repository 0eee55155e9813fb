/*
 * platform.h - what compiler and system this is, what they have, and every system header.
 *
 * The only file (with the spine, sys/, poll/ and io/) that asks. Every AIOL_HAVE_... and AIOL_OS_... is
 * always defined, to 0 or 1. System headers stand here in one order, so that nothing depends on what a
 * user included before.
 */
#ifndef AIOL_BASE_PLATFORM_H
#define AIOL_BASE_PLATFORM_H

#ifndef AIOLOOP_USE_THREADS
#define AIOLOOP_USE_THREADS 1
#endif
#ifndef AIOLOOP_USE_DEBUG
#define AIOLOOP_USE_DEBUG 1
#endif
#ifndef AIOLOOP_PORT
#define AIOLOOP_PORT 0
#endif
#ifndef AIOLOOP_USE_TLS
#define AIOLOOP_USE_TLS 0
#endif
#ifndef AIOLOOP_USE_SUBPROCESS
#define AIOLOOP_USE_SUBPROCESS (!AIOLOOP_PORT)
#endif
#ifndef AIOLOOP_USE_UCONTEXT
#define AIOLOOP_USE_UCONTEXT 0
#endif

#if AIOLOOP_PORT
#define AIOL_OS_NONE 1
#define AIOL_OS_POSIX 0
#elif defined(__unix__) || defined(__APPLE__) || defined(__linux__)
#define AIOL_OS_NONE 0
#define AIOL_OS_POSIX 1
#else
#error "aioloop.h: there is no back end for this system yet; with AIOLOOP_PORT 1 it runs on the five functions of port.h"
#endif

#if AIOLOOP_USE_SUBPROCESS && !AIOL_OS_POSIX
#error "aioloop.h: there are neither signals nor processes here; compile with AIOLOOP_USE_SUBPROCESS 0"
#endif

#if defined(__linux__) && AIOL_OS_POSIX
#define AIOL_OS_LINUX 1
#else
#define AIOL_OS_LINUX 0
#endif

/* ---- back ends ---- */

#ifndef AIOLOOP_BACKENDS
#if AIOL_OS_LINUX
#define AIOLOOP_BACKENDS                                                                                  \
    (AIOLOOP_BACKEND_EPOLL | AIOLOOP_BACKEND_POLL | AIOLOOP_BACKEND_SELECT | AIOLOOP_BACKEND_SIM | AIOLOOP_BACKEND_IO_URING)
#elif AIOL_OS_POSIX
#define AIOLOOP_BACKENDS (AIOLOOP_BACKEND_POLL | AIOLOOP_BACKEND_SELECT | AIOLOOP_BACKEND_SIM)
#else
#define AIOLOOP_BACKENDS 0
#endif
#endif

#define AIOL_HAVE_EPOLL (AIOL_OS_LINUX && ((AIOLOOP_BACKENDS) & AIOLOOP_BACKEND_EPOLL) != 0)
#define AIOL_HAVE_POLL (AIOL_OS_POSIX && ((AIOLOOP_BACKENDS) & AIOLOOP_BACKEND_POLL) != 0)
#define AIOL_HAVE_SELECT (AIOL_OS_POSIX && ((AIOLOOP_BACKENDS) & AIOLOOP_BACKEND_SELECT) != 0)
#define AIOL_HAVE_URING (AIOL_OS_LINUX && ((AIOLOOP_BACKENDS) & AIOLOOP_BACKEND_IO_URING) != 0)
#define AIOL_HAVE_SIM (((AIOLOOP_BACKENDS) & AIOLOOP_BACKEND_SIM) != 0)
#define AIOL_HAVE_PORT AIOL_OS_NONE
#define AIOL_HAVE_REACTOR (AIOL_HAVE_EPOLL || AIOL_HAVE_POLL || AIOL_HAVE_SELECT)

#if !AIOL_HAVE_REACTOR && !AIOL_HAVE_SIM && !AIOL_HAVE_PORT && !AIOL_HAVE_URING
#error "aioloop.h: AIOLOOP_BACKENDS leaves no back end that this system has"
#endif

#define AIOL_HAVE_PTHREAD (AIOLOOP_USE_THREADS && AIOL_OS_POSIX)

/* ---- stacks ---- */

#define AIOL_SWITCH_NONE 0
#define AIOL_SWITCH_UCONTEXT 1
#define AIOL_SWITCH_X86_64 2
#define AIOL_SWITCH_I386 3
#define AIOL_SWITCH_AARCH64 4
#define AIOL_SWITCH_ARM 5
#define AIOL_SWITCH_RISCV 6

/* musl and others declare <ucontext.h>, but do not have its functions. */
#if AIOL_OS_POSIX && (defined(__GLIBC__) || defined(__FreeBSD__) || defined(__NetBSD__) || defined(__DragonFly__) || defined(__sun))
#define AIOL_HAVE_UCONTEXT 1
#else
#define AIOL_HAVE_UCONTEXT 0
#endif

#if !AIOLOOP_USE_UCONTEXT && defined(__GNUC__) && !defined(__TINYC__) && !defined(_WIN32)
#if defined(__x86_64__) && defined(__LP64__)
#define AIOL_STACK_SWITCH AIOL_SWITCH_X86_64
#elif defined(__i386__)
#define AIOL_STACK_SWITCH AIOL_SWITCH_I386
#elif defined(__aarch64__) && defined(__LP64__)
#define AIOL_STACK_SWITCH AIOL_SWITCH_AARCH64
#elif defined(__arm__) && defined(__ARM_ARCH) && __ARM_ARCH >= 5
#define AIOL_STACK_SWITCH AIOL_SWITCH_ARM
#elif defined(__riscv) && !defined(__riscv_32e) && !defined(__riscv_64e) && !defined(__riscv_float_abi_quad)
#define AIOL_STACK_SWITCH AIOL_SWITCH_RISCV
#endif
#endif
#if !defined(AIOL_STACK_SWITCH) && AIOL_HAVE_UCONTEXT
#define AIOL_STACK_SWITCH AIOL_SWITCH_UCONTEXT
#elif !defined(AIOL_STACK_SWITCH)
#define AIOL_STACK_SWITCH AIOL_SWITCH_NONE
#endif

#ifndef AIOLOOP_USE_COROUTINES
#define AIOLOOP_USE_COROUTINES (!AIOLOOP_PORT && AIOL_STACK_SWITCH != AIOL_SWITCH_NONE)
#endif
#if AIOLOOP_USE_COROUTINES && AIOL_STACK_SWITCH == AIOL_SWITCH_NONE
#error "aioloop.h: no way to switch stacks is known here; compile with AIOLOOP_USE_COROUTINES 0 (coroutines without a stack remain)"
#endif

#if defined(__x86_64__) && defined(__LP64__) && defined(__GNUC__) && defined(__linux__)
#define AIOL_KNOWS_VALGRIND 1
#else
#define AIOL_KNOWS_VALGRIND 0
#endif

/* A function in assembly, in a section of its own. Once in an assembler's input: whole programs may be compiled as
 * one. */
#if defined(__APPLE__)
#define AIOL_ASM_FUNCTION(name)                                                                                        \
    ".text\n.p2align 4\n.globl _" #name "\n.private_extern _" #name "\n.weak_definition _" #name "\n_" #name ":\n"
#define AIOL_ASM_END(name)
#else
#define AIOL_ASM_FUNCTION(name)                                                                                        \
    ".ifndef " #name "\n.pushsection .text." #name ",\"ax\",%progbits\n.p2align 4\n" AIOL_ASM_ARM ".weak " #name        \
    "\n.hidden " #name "\n.type " #name ", %function\n" #name ":\n" AIOL_ASM_UNWIND
#define AIOL_ASM_END(name) AIOL_ASM_UNWIND_END ".size " #name ", . - " #name "\n.popsection\n.endif\n"
#endif
#if !defined(__arm__)
#define AIOL_ASM_ARM
#elif defined(__thumb__)
#define AIOL_ASM_ARM ".syntax unified\n.thumb\n.thumb_func\n"
#else
#define AIOL_ASM_ARM ".syntax unified\n.arm\n"
#endif
#if defined(__arm__) && defined(__ARM_EABI__)
#define AIOL_ASM_UNWIND ".fnstart\n"
#define AIOL_ASM_UNWIND_END ".cantunwind\n.fnend\n"
#else
#define AIOL_ASM_UNWIND
#define AIOL_ASM_UNWIND_END
#endif
/* What indirect calls may land on. */
#if defined(__CET__) && (__CET__ & 1) != 0 && defined(__x86_64__)
#define AIOL_ASM_LANDING "    endbr64\n"
#elif defined(__CET__) && (__CET__ & 1) != 0
#define AIOL_ASM_LANDING "    endbr32\n"
#elif defined(__ARM_FEATURE_BTI_DEFAULT) && defined(__aarch64__)
#define AIOL_ASM_LANDING "    hint #34\n"
#elif defined(__ARM_FEATURE_BTI_DEFAULT)
#define AIOL_ASM_LANDING "    hint #15\n"
#else
#define AIOL_ASM_LANDING
#endif
/* To where they may not, but returns may. */
#if defined(__CET__) && (__CET__ & 1) != 0
#define AIOL_ASM_JUMP "notrack jmp"
#else
#define AIOL_ASM_JUMP "jmp"
#endif
#if defined(__GNUC__)
#define AIOL_ASM_VISIBILITY __attribute__((visibility("hidden")))
#else
#define AIOL_ASM_VISIBILITY
#endif
/* The one convention that options of the compiler do not change. */
#if defined(__i386__) && defined(__GNUC__)
#define AIOL_ASM_CALL __attribute__((fastcall))
#else
#define AIOL_ASM_CALL
#endif

/* Sanitizers, which have to be told of every change of stacks. */
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define AIOL_ASAN 1
#endif
#if __has_feature(thread_sanitizer)
#define AIOL_TSAN 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) && !defined(AIOL_ASAN)
#define AIOL_ASAN 1
#endif
#if defined(__SANITIZE_THREAD__) && !defined(AIOL_TSAN)
#define AIOL_TSAN 1
#endif
#ifndef AIOL_ASAN
#define AIOL_ASAN 0
#endif
#ifndef AIOL_TSAN
#define AIOL_TSAN 0
#endif

/* ---- system headers ---- */

/* tcc with glibc: <sys/cdefs.h> makes __attribute__ vanish, and struct epoll_event is then not packed. */
#if defined(__TINYC__) && AIOL_OS_LINUX
#include <features.h>
#undef __attribute__
#endif

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if AIOL_OS_POSIX
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/types.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <time.h>
#include <unistd.h>
#if AIOL_HAVE_POLL || AIOL_HAVE_URING
#include <poll.h>
#endif
#if AIOL_HAVE_SELECT
#include <sys/select.h>
#endif
#if AIOL_OS_LINUX
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#if AIOL_HAVE_EPOLL || AIOL_HAVE_URING
#include <sys/epoll.h>
#endif
#endif
#if AIOLOOP_USE_TLS
#include <dirent.h>
#if defined(__APPLE__)
#include <sys/random.h>
#endif
#endif
#if AIOLOOP_USE_SUBPROCESS
#include <grp.h>
#include <sys/wait.h>
#if AIOL_OS_LINUX
#include <sched.h>
#endif
#endif
#if AIOL_HAVE_URING || AIOLOOP_USE_COROUTINES
#include <sys/mman.h>
#endif
#if AIOLOOP_USE_COROUTINES && AIOL_STACK_SWITCH == AIOL_SWITCH_UCONTEXT
#include <ucontext.h>
#endif
#if AIOL_HAVE_PTHREAD
#include <dirent.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <sys/select.h>
#include <sys/wait.h>
#if AIOL_OS_LINUX
#include <sys/prctl.h>
#endif
#endif
#endif

/* ---- what the system's calls can do ---- */

#define AIOL_HAVE_EVENTFD AIOL_OS_LINUX
#if AIOL_OS_LINUX || defined(__FreeBSD__) || defined(__NetBSD__) || defined(__OpenBSD__)
#define AIOL_HAVE_ACCEPT4 1
#define AIOL_HAVE_PIPE2 1
#else
#define AIOL_HAVE_ACCEPT4 0
#define AIOL_HAVE_PIPE2 0
#endif
#if AIOL_OS_LINUX && defined(SYS_epoll_pwait2)
#define AIOL_HAVE_EPOLL_PWAIT2 1
#else
#define AIOL_HAVE_EPOLL_PWAIT2 0
#endif
#define AIOL_HAVE_VFORK (AIOL_OS_LINUX && !AIOL_ASAN && !AIOL_TSAN) /* clone with CLONE_VFORK */
#if AIOL_OS_LINUX && defined(SYS_pwritev2)
#define AIOL_HAVE_NOSIGNAL 1
#define AIOL_RWF_NOSIGNAL 0x100 /* Linux 6.18; no header has it yet */
#else
#define AIOL_HAVE_NOSIGNAL 0
#endif
#define AIOL_HAVE_MMSG AIOL_OS_LINUX /* recvmmsg, sendmmsg */
#if AIOL_OS_LINUX || defined(__APPLE__) || defined(__FreeBSD__)
#define AIOL_HAVE_SENDFILE 1
#else
#define AIOL_HAVE_SENDFILE 0
#endif

/* ---- the compiler ---- */

#if defined(__GNUC__) || defined(__clang__)
#define AIOL_LIKELY(x) __builtin_expect(!!(x), 1)
#define AIOL_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define AIOL_UNUSED __attribute__((unused))
#define AIOL_NOINLINE __attribute__((noinline))
#define AIOL_RETURN_ADDRESS __builtin_return_address(0)
#else
#define AIOL_LIKELY(x) (x)
#define AIOL_UNLIKELY(x) (x)
#define AIOL_UNUSED
#define AIOL_NOINLINE
#if defined(__TINYC__)
#define AIOL_RETURN_ADDRESS __builtin_return_address(0)
#else
#define AIOL_RETURN_ADDRESS NULL
#endif
#endif

#ifndef AIOLOOP_INTERNAL
#define AIOLOOP_INTERNAL AIOL_UNUSED static
#endif

/* Inline in the sense of every standard from C99 and C++: a function of this translation unit. */
#define AIOL_INLINE AIOL_UNUSED static inline

#if !AIOLOOP_USE_THREADS || AIOLOOP_PORT
#define AIOL_THREAD_LOCAL
#elif defined(__cplusplus)
#define AIOL_THREAD_LOCAL thread_local
#elif defined(__GNUC__) || defined(__clang__)
#define AIOL_THREAD_LOCAL __thread
#elif defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L && !defined(__STDC_NO_THREADS__)
#define AIOL_THREAD_LOCAL _Thread_local
#else
#error "aioloop.h: this compiler has no thread-local variables; compile with AIOLOOP_USE_THREADS 0"
#endif

/* Without an operating system a call may come from an interrupt of the loop's own thread. */
#define AIOL_KNOWS_ITS_THREAD (!AIOLOOP_PORT)

/* ---- where memory comes from, and how tests make the system fail ---- */

#ifndef AIOLOOP_MALLOC
#define AIOLOOP_MALLOC(size) malloc(size)
#define AIOLOOP_REALLOC(pointer, size) realloc(pointer, size)
#define AIOLOOP_FREE(pointer) free(pointer)
#endif

/* AIOL_SYS(name, call): a call of the system that answers -1 and errno. AIOLOOP_FAULT(name), if defined, is asked
 * before it: 0 to go on, else the errno to fail with. The tests make every call fail this way, one at a time. */
#ifdef AIOLOOP_FAULT
#ifdef __cplusplus
extern "C"
#else
extern
#endif
    int AIOLOOP_FAULT(const char *name);
AIOL_INLINE int aiol_fault(const char *name) {
    int error = AIOLOOP_FAULT(name);
    if (error == 0)
        return 0;
    errno = error;
    return 1;
}
#define AIOL_SYS(name, call) (aiol_fault(#name) ? -1 : (call))
#else
#define AIOL_SYS(name, call) (call)
#endif

#endif
