/* The implementation needs what the system's headers hide unless asked, so it asks before the first of them. */
#if defined(AIOLOOP_IMPLEMENTATION) && !defined(AIOLOOP_IMPLEMENTED) && !defined(_WIN32)
#if defined(__GLIBC__) && defined(_FEATURES_H) && !defined(__USE_GNU)
#error "aioloop.h: with AIOLOOP_IMPLEMENTATION include it before any system header, or compile with -D_GNU_SOURCE"
#endif
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#if defined(__APPLE__) && !defined(_DARWIN_C_SOURCE)
#define _DARWIN_C_SOURCE 1
#endif
#endif

#ifndef AIOLOOP_H
#define AIOLOOP_H

#include "api/manual.h"
#include "api/config.h"

#ifdef __cplusplus
extern "C" {
#endif

#include "api/error.h"
#include "api/base.h"
#include "api/context.h"
#include "api/loop.h"
#include "api/future.h"
#include "api/task.h"
#include "api/sync.h"
#include "api/queue.h"
#include "api/generator.h"
#include "api/threads.h"
#include "api/executor.h"
#include "api/process_pool.h"
#include "api/net.h"
#include "api/resolve.h"
#include "api/ssl.h"
#include "api/sock.h"
#include "api/transport.h"
#include "api/datagram.h"
#include "api/start_tls.h"
#include "api/pipe.h"
#include "api/sendfile.h"
#include "api/server.h"
#include "api/stream.h"
#include "api/subprocess.h"
#include "api/sim.h"
#include "api/port.h"

#ifdef __cplusplus
}
#endif

#endif /* AIOLOOP_H */

#if defined(AIOLOOP_IMPLEMENTATION) && !defined(AIOLOOP_IMPLEMENTED)
#define AIOLOOP_IMPLEMENTED

#include "base/platform.h"

#ifdef __cplusplus
extern "C" {
#endif

/* base: memory, structures, errors; knows neither loop nor socket. */
#include "base/util.h"
#include "base/atomic.h"
#include "base/list.h"
#include "base/mem.c"
#include "base/error.c"
#include "base/context.c"
#include "base/heap.h"
#include "base/bytes.c"

/* sys: one call of the system, one function. */
#include "sys/sys.h"
#include "sys/uring.h"
#include "sys/address.c"
#include "sys/switch.c"
#include "sys/stack.c"
#if AIOL_OS_POSIX
#include "sys/clock.c"
#include "sys/socket_posix.c"
#include "sys/pipe_posix.c"
#include "sys/datagram_posix.c"
#include "sys/path_posix.c"
#endif
#if AIOLOOP_USE_SUBPROCESS
#include "sys/signal_posix.c"
#endif
#include "sys/sendfile.c"
#include "sys/resolve.c"
#if AIOL_HAVE_PTHREAD
#include "sys/process_posix.c"
#endif
#include "sys/thread.c"
#if AIOL_OS_POSIX
#include "sys/spawn_posix.c"
#endif
#if AIOLOOP_USE_TLS
#include "sys/file.c"
#include "sys/random.c"
#endif

/* tls: contexts, and sessions between two functions; the one place that knows mbedTLS. */
#include "tls/session.h"
#if AIOLOOP_USE_TLS
#include "tls/mbedtls.c"
#include "tls/certificate.c"
#include "tls/context.c"
#include "tls/session.c"
#else
#include "tls/none.c"
#endif

/* poll: which descriptors are ready. */
#if AIOL_HAVE_REACTOR || AIOL_HAVE_URING
#include "poll/poll.h"
#include "poll/wake.c"
#if AIOL_HAVE_EPOLL
#include "poll/epoll.c"
#endif
#if AIOL_HAVE_POLL
#include "poll/poll.c"
#endif
#if AIOL_HAVE_SELECT
#include "poll/select.c"
#endif
#endif

/* io: operations that complete. The waist. */
#include "io/op.h"
#if AIOL_HAVE_REACTOR || AIOL_HAVE_URING
#include "io/table.c"
#endif
#if AIOL_HAVE_REACTOR
#include "io/reactor.c"
#endif
#if AIOL_HAVE_URING
#include "io/uring.c"
#endif
#if AIOL_HAVE_SIM
#include "io/sim.c"
#endif
#if AIOL_HAVE_PORT
#include "io/port.c"
#endif
#include "io/engine.c"

/* core: asyncio's heart. */
#include "core/core.h"
#include "core/log.c"
#include "core/handle.c"
#include "core/timer.c"
#include "core/inbox.c"
#include "core/future.c"
#include "core/coro.c"
#include "core/task.c"
#include "core/combine.c"
#include "core/scope.c"
#include "core/generator.c"
#include "core/threadsafe.c"
#include "core/executor.c"
#include "core/resolve.c"
#if AIOL_HAVE_PTHREAD
#include "core/process_pool.c"
#else
#include "core/process_none.c"
#endif
#include "core/loop.c"
#include "core/watch.c"
#if AIOLOOP_USE_SUBPROCESS
#include "core/signal.c"
#else
#include "core/signal_none.c"
#endif

/* net: transports and servers. */
#include "net/net.h"
#include "net/transport.c"
#include "net/stream.c"
#include "net/socket.c"
#include "net/tls.c"
#include "net/sock.c"
#include "net/pipe.c"
#include "net/sendfile.c"
#if AIOLOOP_USE_SUBPROCESS
#include "net/subprocess.c"
#else
#include "net/subprocess_none.c"
#endif
#include "net/connect.c"
#include "net/datagram.c"
#include "net/server.c"
#include "net/simulate.c"

/* high: conveniences built on the public functions. */
#include "high/runner.c"
#include "high/sync.c"
#include "high/queue.c"
#include "high/streams.c"
#include "high/process.c"

#ifdef __cplusplus
}
#endif

#endif /* AIOLOOP_IMPLEMENTATION */

/* Last: these macros have the names of functions. */
#include "api/sites.h"
